"""A recorded episode comes out row by row on the observation's clock."""

from dataclasses import replace
from pathlib import Path
import sys

import numpy as np
import pytest

from cosmos3_ros.contracts import Observation
from cosmos3_ros.evaluation.lerobot_episode import read_episode
from cosmos3_ros.generator import recorded_track
from cosmos3_ros.generator.policy import Policy, PolicyError, create_policy
from cosmos3_ros.robots import load_robot

pytest.importorskip('av', reason="the extra 'record' is not installed")
pytest.importorskip('pyarrow', reason="the extra 'record' is not installed")
sys.path.append(str(Path(__file__).resolve().parents[1] / 'evaluation'))
from lerobot_dataset import FPS, LENGTHS, write_dataset
from test_recording import BagWriter

JOINTS = tuple(f'panda_joint{i}' for i in range(1, 8))


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp('replay') / 'dataset'
    write_dataset(root)
    return root


def observation(stamp_ns, position=0.01):
    return Observation(
        stamp_ns=stamp_ns, skew_ns=0, joint_names=JOINTS, gripper=0.0, joint_position=np.full(7, position),
        images={'wrist': np.zeros((16, 16, 3), np.uint8)})


def replay(root, **options):
    return create_policy(
        'replay', **({'dataset': str(root), 'joint_names': JOINTS, 'source': 'state'} | options))


STEP_NS, BEGIN_NS = 66_666_667, 1_700_000_000_000_000_000
LATENCY_S = 0.2


def record_bag(tmp_path, *, chunks=3, back=False):
    """Chunks every 0.4 s whose rows say which chunk and row they are; states and commands at 100 Hz."""
    bag = BagWriter(tmp_path / 'bag', tmp_path / 'prefix')
    finger = load_robot('panda').gripper
    backwards = tuple(reversed(JOINTS))
    for number in range(chunks):
        stamp_ns = BEGIN_NS + (-1 if back else 1) * number * 400_000_000
        rows = np.tile(0.01 + 0.1 * number + 0.001 * np.arange(32)[:, None], (1, 7)) + 1e-5 * np.arange(7)
        bag.write('/action_chunk', 'cosmos3_ros/msg/ActionChunk', BEGIN_NS + number * 400_000_000, bag.new(
            'cosmos3_ros/msg/ActionChunk', header=bag.header(stamp_ns), step_ns=STEP_NS,
            joint_names=list(backwards), horizon=32, positions=rows[:, ::-1].reshape(-1),
            gripper=np.full(32, 0.25 * number), contract='droid_joint', instruction='go', seed=0, steps=4,
            guidance=3.0, policy='p', checkpoint='c', engine='e', trained=True, trace_id='t',
            latency_s=LATENCY_S))
    for i in range(100):
        stamp_ns = BEGIN_NS + i * 10_000_000
        values = np.array([*(0.01 + 0.002 * i + np.zeros(7)), finger.closed_position])
        for topic in ('/joint_states', '/joint_command'):
            bag.write(topic, 'sensor_msgs/msg/JointState', stamp_ns, bag.new(
                'sensor_msgs/msg/JointState', header=bag.header(stamp_ns), name=[*JOINTS, finger.joint_name],
                position=values, velocity=np.array([]), effort=np.array([])))
    bag.close()
    return bag.path


def replay_bag(path, **options):
    return create_policy('replay', **({'bag': str(path), 'joint_names': JOINTS, 'robot': 'panda'} | options))


def test_a_bags_chunks_come_out_as_they_were_followed(tmp_path):
    policy = replay_bag(record_bag(tmp_path))
    assert policy.step_ns == STEP_NS and policy.identity.checkpoint == 'bag (action)'
    chunk = policy.generate(observation(5), 'go', seed=0)
    # The second chunk was there 0.2 s after its stamp of 0.4 s, the third at 1.0 s.
    due_s = np.arange(1, 33) * STEP_NS * 1e-9
    followed = np.select([due_s < 0.6, due_s < 1.0], [0, 1], 2)
    away = np.minimum(np.abs(due_s - 0.6), np.abs(due_s - 1.0)) > 2 * STEP_NS * 1e-9
    row = (due_s - 0.4 * followed) / (STEP_NS * 1e-9) - 1
    expected = 0.01 + 0.1 * followed + 0.001 * np.minimum(row, 31)
    assert np.allclose(chunk.positions[away, 0], expected[away], atol=1e-6) and away.sum() > 20
    assert np.allclose(chunk.positions - chunk.positions[:, :1], 1e-5 * np.arange(7), atol=1e-9)
    assert np.allclose(chunk.gripper[away], 0.25 * followed[away])
    end = policy.generate(observation(10 * 10**9, 0.5), 'go', seed=0)
    assert np.allclose(end.positions[:, 0], 0.01 + 0.2 + 0.031)


@pytest.mark.parametrize('source', ['state', 'command'])
def test_a_bags_joints_come_out_with_the_gripper_as_a_fraction(tmp_path, source):
    chunk = replay_bag(record_bag(tmp_path), source=source).generate(observation(5), 'go', seed=0)
    times_s = np.minimum(np.arange(1, 33) * STEP_NS * 1e-9, 0.99)
    assert np.allclose(chunk.positions, (0.01 + 0.2 * times_s)[:, None], atol=1e-6)
    assert np.allclose(chunk.gripper, 1.0)


@pytest.mark.parametrize('change, message', [
    ({'robot': None, 'source': 'state'}, 'needs the option robot'), ({'robot': 'r2d2'}, 'robot: .*r2d2'),
    ({'joint_names': [*JOINTS[:6], 'elbow']}, '/action_chunk: elbow missing among'),
    ({'source': 'state', 'joint_names': [*JOINTS[:6], 'elbow']}, '/joint_states: elbow missing among')])
def test_what_a_bag_does_not_hold_is_named(tmp_path, change, message):
    with pytest.raises(PolicyError, match=message):
        replay_bag(record_bag(tmp_path), **change)


def test_bags_of_several_runs_or_without_the_topic_are_refused(tmp_path):
    with pytest.raises(PolicyError, match='stamps go back; the bag holds several runs'):
        replay_bag(record_bag(tmp_path / 'a', back=True))
    with pytest.raises(PolicyError, match='none of /action_chunk is in the bag'):
        replay_bag(record_bag(tmp_path / 'b', chunks=0))


def test_rows_follow_the_clock_and_the_last_is_held(dataset):
    policy, step_ns = replay(dataset), round(1e9 / FPS)
    assert isinstance(policy, Policy) and policy.step_ns == step_ns
    start = 7_000_000_000
    recorded = 0.01 * np.arange(1, LENGTHS[0] + 1)
    first = policy.generate(observation(start), 'go', seed=3)
    assert first.positions.shape == (32, 7) and first.seed == 3 and first.stamp_ns == start
    expected = np.interp(np.arange(1, 33), np.arange(LENGTHS[0]), recorded)
    assert np.allclose(first.positions, expected[:, None], atol=1e-6)
    assert (first.positions[LENGTHS[0]:] == first.positions[-1]).all()
    later = policy.generate(observation(start + 5 * step_ns, 0.5), 'go', seed=0)
    assert np.allclose(later.positions[:20], first.positions[5:25], atol=1e-6)
    between = policy.generate(observation(start + step_ns // 2, 0.5), 'go', seed=0)
    assert np.allclose(between.positions[:10], first.positions[:10] + 0.005, atol=1e-6)


@pytest.mark.parametrize('stamp_ns, instruction', [(5, 'go'), (9_000_000_000, 'again')])
def test_a_new_instruction_or_a_clock_set_back_starts_over(dataset, stamp_ns, instruction):
    policy = replay(dataset)
    first = policy.generate(observation(7_000_000_000), 'go', seed=0)
    with pytest.raises(PolicyError, match=r'panda_joint1 is at 0\.500 rad, the recording starts at 0\.010'):
        policy.generate(observation(stamp_ns, 0.5), instruction, seed=0)
    again = policy.generate(observation(stamp_ns), instruction, seed=0)
    assert (again.positions == first.positions).all()


@pytest.mark.parametrize('change, message', [
    ({'dataset': 'no/such'}, 'dataset: '), ({'episode': 9}, 'dataset: '), ({'source': 'dream'}, 'source:'),
    ({'episode': 0.5}, 'episode: 0.5'), ({'start_tolerance_rad': 0.0}, 'start_tolerance_rad: 0.0'),
    ({'joint_names': JOINTS[:6]}, '6 joints'), ({'at_end': 'loop'}, 'at_end: .loop'),
    ({'source': 'command'}, 'action and state are in a dataset'), ({'bag': 'x'}, 'both arrived'),
    ({'dataset': None}, 'neither arrived'), ({'dataset': None, 'bag': 'no/such'}, 'bag: .*no readable bag')])
def test_bad_settings(dataset, change, message):
    with pytest.raises(PolicyError, match=message):
        replay(dataset, **change)


def test_a_dataset_without_actions_says_what_to_do(dataset, monkeypatch):
    bare = replace(read_episode(dataset), action_position=None)
    monkeypatch.setattr(recorded_track, 'read_episode', lambda *_: bare)
    with pytest.raises(PolicyError, match='set source to state'):
        replay(dataset, source='action')
    acted = replace(bare, action_position=bare.joint_position + 0.02, action_gripper=bare.gripper)
    monkeypatch.setattr(recorded_track, 'read_episode', lambda *_: acted)
    chunk = replay(dataset, source='action').generate(observation(0), 'go', seed=0)
    assert np.allclose(chunk.positions[0], 0.04, atol=1e-6)


def test_past_the_end_it_holds_or_refuses(dataset):
    after_ns = round(1e9 * LENGTHS[0] / FPS)
    holds = replay(dataset)
    holds.generate(observation(0), 'go', seed=0)
    chunk = holds.generate(observation(after_ns), 'go', seed=0)
    assert np.allclose(chunk.positions, 0.01 * LENGTHS[0], atol=1e-6), 'the last row is held'
    refuses = replay(dataset, at_end='refuse')
    refuses.generate(observation(0), 'go', seed=0)
    with pytest.raises(PolicyError, match='the recording ended'):
        refuses.generate(observation(after_ns, 0.01 * LENGTHS[0]), 'go', seed=0)
    refuses.generate(observation(after_ns), 'again', seed=0)


def test_a_closed_policy_says_so(dataset):
    policy = replay(dataset)
    policy.close()
    with pytest.raises(PolicyError, match='it is closed'):
        policy.generate(observation(0), 'go', seed=0)
