"""The answer that a reasoner should give to the prompt ``scene_report``: facts as its JSON."""

from collections.abc import Sequence
import json
from typing import Any

from .lerobot_format import DatasetError
from .scene_facts import FrameFacts

_DOING = {
    'approach': 'moves towards the {target} cube',
    'descend': 'lowers its gripper to the {target} cube',
    'close': 'closes its gripper around the {target} cube',
    'lift': 'lifts the {target} cube',
    'carry': 'carries the {target} cube to the white circle',
    'lower': 'lowers the {target} cube onto the white circle',
    'release': 'lets the {target} cube go',
    'push': 'pushes the {target} cube to the white circle',
    'retreat': 'moves its gripper up and away',
    'done': 'stands still',
}
_APPROACH = {'reach': 'move above the {target} cube', 'push': 'move behind the {target} cube',
             'pick_place': 'move above the {target} cube'}
_NEXT = {
    'descend': 'lower the gripper to the {target} cube',
    'close': 'close the gripper',
    'lift': 'lift the {target} cube',
    'carry': 'carry the {target} cube to the white circle',
    'lower': 'lower the {target} cube onto the white circle',
    'release': 'open the gripper',
    'push': 'push the {target} cube onto the white circle',
    'retreat': 'move the gripper up',
    'done': 'stay',
}
_HAZARDS = {'floats': 'the {colour} cube hangs in the air', 'jumps': 'the {colour} cube jumped',
            'vanishes': 'the {colour} cube is gone'}
_PICTURE_HAZARDS = {'noise': 'the picture of {camera} is noisy', 'black': '{camera} shows nothing',
                    'frozen': 'the picture of {camera} stands still'}


def report_document(clip: Sequence[FrameFacts], cameras: Sequence[str]) -> dict[str, Any]:
    """Return the scene report of a clip, with the keys of ``config/prompts.yaml`` in its order.

    :param clip: Facts of the clip's frames, oldest first; boxes are those of the last.
    :param cameras: Camera slots shown to the model, the first first: its boxes carry no ``camera``.
    :raises DatasetError: No frame or no camera.
    """
    if not clip or not cameras:
        raise DatasetError(
            f'scene report: {len(clip)} frames of {len(cameras)} cameras arrived, at least 1 of 1 is needed')
    facts = clip[-1]
    objects: list[dict[str, Any]] = []
    for camera in cameras:
        named = {} if camera == cameras[0] else {'camera': camera}
        objects += [{**entry, **named} for entry in list_objects(facts, camera)]
    hazards = list_hazards(clip)
    impossible = any(frame.unsupported or frame.jumped or frame.vanished for frame in clip)
    return {
        'caption': write_caption(facts), 'objects': objects, 'next_action': write_next_action(facts),
        'task_state': facts.task_state, 'hazards': hazards,
        'plausibility': 'impossible' if impossible else 'possible'}


def list_objects(facts: FrameFacts, camera: str) -> list[dict[str, Any]]:
    """Return label and box of what a camera's picture shows."""
    return [{'label': thing.label, 'bbox_2d': list(thing.box_1000)} for thing in facts.seen(camera)]


def report_json(clip: Sequence[FrameFacts], cameras: Sequence[str]) -> str:
    """Return :func:`report_document` as the text that the model should write."""
    return json.dumps(report_document(clip, cameras))


def write_caption(facts: FrameFacts) -> str:
    """Return one sentence about the frame."""
    doing = _DOING[facts.doing].format(target=_subject(facts))
    held = f', holding the {facts.held} cube' if facts.held and facts.doing not in ('lift', 'carry') else ''
    return f'The robot {doing}{held}.'


def write_next_action(facts: FrameFacts) -> str:
    """Return what the robot should do next."""
    if facts.task_state == 'done':
        return 'stay'
    if facts.task_state == 'failed':
        return f'try again with the {facts.target} cube'
    phrase = _APPROACH[facts.task] if facts.doing == 'approach' else _NEXT[facts.doing]
    return phrase.format(target=facts.target)


def list_hazards(clip: Sequence[FrameFacts]) -> list[str]:
    """Return what a robot should be warned of, each once."""
    found: dict[str, None] = {}
    for facts in clip:
        for kind, colours in (
                ('floats', facts.unsupported), ('jumps', facts.jumped), ('vanishes', facts.vanished)):
            found |= dict.fromkeys(_HAZARDS[kind].format(colour=colour) for colour in colours)
        for camera, picture in facts.pictures.items():
            if picture in _PICTURE_HAZARDS:
                found[_PICTURE_HAZARDS[picture].format(camera=camera)] = None
    return list(found)


def _subject(facts: FrameFacts) -> str:
    """Return the colour of the cube that the arm is busy with: in a failure it may not be the target."""
    return facts.held or (facts.touched[0] if len(facts.touched) == 1 else facts.target)
