"""Definitions of installed interfaces are found, also those that only exist inside an action."""

from pathlib import Path
import sys

import pytest

from cosmos3_ros.evaluation.typestore import Definitions, UnknownTypeError

INTERFACES = Path(__file__).resolve().parents[2]


def definitions(tmp_path: Path) -> Definitions:
    """Definitions over the checkout's own interface files, laid out as installed."""
    share = tmp_path / 'share' / 'cosmos3_ros'
    share.mkdir(parents=True)
    for kind in ('msg', 'srv', 'action'):
        (share / kind).symlink_to(INTERFACES / kind)
    return Definitions((tmp_path, Path(sys.prefix)))


def test_nested_messages_come_along(tmp_path: Path) -> None:
    found = definitions(tmp_path)
    found.add('cosmos3_ros/msg/SceneReport')
    assert 'cosmos3_ros/msg/SceneObject' in found.store.fielddefs
    text, _ = found.store.generate_msgdef('cosmos3_ros/msg/SceneReport', ros_version=2)
    assert 'MSG: cosmos3_ros/SceneObject' in text
    assert found.store.hash_rihs01('cosmos3_ros/msg/SceneReport').startswith('RIHS01_')


def test_feedback_of_an_action(tmp_path: Path) -> None:
    found = definitions(tmp_path)
    found.add('cosmos3_ros/action/ExecuteInstruction_FeedbackMessage')
    message = found.store.types['cosmos3_ros/action/ExecuteInstruction_FeedbackMessage']
    feedback = found.store.types['cosmos3_ros/msg/ExecuteInstruction_Feedback']
    assert set(message.__dataclass_fields__) >= {'goal_id', 'feedback'}
    assert set(feedback.__dataclass_fields__) >= {'progress', 'chunks', 'last_scene'}
    name = 'cosmos3_ros/action/ExecuteInstruction_FeedbackMessage'
    assert 'MSG: cosmos3_ros/SceneReport' in found.store.generate_msgdef(name, ros_version=2)[0]


def test_unknown_type_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownTypeError, match=r'nowhere/msg/Nothing: no definition'):
        definitions(tmp_path).add('nowhere/msg/Nothing')
