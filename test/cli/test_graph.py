"""Start, configure, record and stop a real node: the replay of a written episode."""

import json
import os
from pathlib import Path

from lerobot_dataset import LENGTHS, VIDEO, write_dataset
import numpy as np
import pytest

from cosmos3_ros.cli.console import CommandError, Output
from cosmos3_ros.cli.domain import choose_domain
from cosmos3_ros.cli.running import running
from cosmos3_ros.cli.shared_memory import list_files
from cosmos3_ros.evaluation.bag import decode_image, open_bag
from cosmos3_ros.evaluation.lerobot_episode import EpisodeLayout

SPEED = 2.0


@pytest.fixture(autouse=True)
def own_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    # The context writes into os.environ; monkeypatch restores these.
    monkeypatch.setenv('ROS_DOMAIN_ID', str(choose_domain({})))
    for name in ('AMENT_PREFIX_PATH', 'ROS_AUTOMATIC_DISCOVERY_RANGE', 'OMP_NUM_THREADS',
                 'PYTHONUNBUFFERED', 'RCUTILS_COLORIZED_OUTPUT', 'FASTDDS_DEFAULT_PROFILES_FILE',
                 'FASTRTPS_DEFAULT_PROFILES_FILE'):
        if name in os.environ:
            monkeypatch.setenv(name, os.environ[name])
        else:
            monkeypatch.delenv(name, raising=False)


def replay_spec(root: Path, **parameters: object) -> object:
    from cosmos3_ros.cli.graph import NodeSpec
    return NodeSpec('replay', {'source': str(root), 'speed': SPEED, 'lead_s': 0.5, **parameters})


def test_replayed_episode_is_recorded_completely(tmp_path: Path) -> None:
    write_dataset(tmp_path / 'data')
    before = list_files()
    bag_path = tmp_path / 'bag'
    with running('test_graph', tmp_path / 'log', Output(False), own_domain=True) as live:
        recorder = live.graph.start_recorder(bag_path)
        live.graph.start([replay_spec(tmp_path / 'data')], {})
        live.graph.configure()
        live.graph.wait_for_recorder(['/joint_states', '/wrist/image_raw'])
        live.graph.activate()
        assert live.session.wait_for(
            lambda: 'replay' in live.monitor.reports
            and live.monitor.reports['replay'].values.get('finished') == 'True', 20.0, live.graph.check)
        live.processes.stop_one(recorder, 10.0)
        processes = live.processes.processes
    assert all(process.returncode is not None for process in processes)
    counts = json.loads((bag_path / 'recording.json').read_text())['topics']
    for camera in ('wrist', 'exterior_1', 'exterior_2'):
        topic = counts[f'/{camera}/image_raw']
        assert (topic['received'], topic['lost']) == (LENGTHS[0], 0)
    assert counts['/joint_states']['lost'] == 0
    with open_bag(bag_path) as bag:
        images = [message for _, _, message in bag.messages('/wrist/image_raw')]
        stamps = np.array([m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in images])
        np.testing.assert_allclose(np.diff(stamps), 1e9 / 15 / SPEED, atol=2)
        np.testing.assert_allclose(
            [float(decode_image(m).mean()) for m in images], [8.0 * i for i in range(20)], atol=3)
        joints = [message for _, _, message in bag.messages('/joint_states')]
    assert joints[0].name[:2] == ['panda_joint1', 'panda_joint2'] and len(joints[0].velocity) == 8
    # Other tests of this machine may have segments of their own; ours are gone.
    mine = {name for name in list_files() - before if name.startswith('fastdds_port')}
    ports = range(7400 + 250 * live.domain_id, 7650 + 250 * live.domain_id)
    assert not {name for name in mine if any(f'fastdds_port{port}' == name for port in ports)}


def test_refusal_carries_the_nodes_own_reason(tmp_path: Path) -> None:
    write_dataset(tmp_path / 'data')
    key = EpisodeLayout().cameras['wrist']
    (tmp_path / 'data' / VIDEO.format(video_key=key, chunk_index=0, file_index=0)).unlink()
    with (
        running('test_graph', tmp_path / 'log', Output(False), own_domain=True) as live,
        pytest.raises(CommandError, match=r'replay: configure failed: .*wrist: .*blank_cameras') as caught,
    ):
        live.graph.start([replay_spec(tmp_path / 'data')], {})
        live.graph.configure()
    assert 'Traceback' not in str(caught.value)


def test_setting_of_an_unknown_node_is_refused(tmp_path: Path) -> None:
    with (
        running('test_graph', tmp_path / 'log', Output(False), own_domain=True) as live,
        pytest.raises(CommandError, match=r"no node 'planner' here; allowed: replay"),
    ):
        live.graph.start([replay_spec(tmp_path)], {'planner': {'rate_hz': 1.0}})
