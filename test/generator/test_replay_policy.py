"""A recorded episode comes out row by row on the observation's clock."""

from dataclasses import replace
from pathlib import Path
import sys

import numpy as np
import pytest

from cosmos3_ros.contracts import Observation
from cosmos3_ros.evaluation.lerobot_episode import read_episode
from cosmos3_ros.generator.policy import Policy, PolicyError, create_policy
from cosmos3_ros.generator.replay_policy import ReplayPolicy

pytest.importorskip('av', reason="the extra 'record' is not installed")
pytest.importorskip('pyarrow', reason="the extra 'record' is not installed")
sys.path.append(str(Path(__file__).resolve().parents[1] / 'evaluation'))
from lerobot_dataset import FPS, LENGTHS, write_dataset

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
    with pytest.raises(PolicyError, match=r'panda_joint1 is at 0\.500 rad, the episode starts at 0\.010'):
        policy.generate(observation(stamp_ns, 0.5), instruction, seed=0)
    again = policy.generate(observation(stamp_ns), instruction, seed=0)
    assert (again.positions == first.positions).all()


@pytest.mark.parametrize('change, message', [
    ({'dataset': 'no/such'}, 'dataset: '), ({'episode': 9}, 'dataset: '), ({'source': 'dream'}, 'source:'),
    ({'episode': 0.5}, 'episode: 0.5'), ({'start_tolerance_rad': 0.0}, 'start_tolerance_rad: 0.0'),
    ({'joint_names': JOINTS[:6]}, '6 joints')])
def test_bad_settings(dataset, change, message):
    with pytest.raises(PolicyError, match=message):
        replay(dataset, **change)


def test_a_dataset_without_actions_says_what_to_do(dataset):
    bare = replace(read_episode(dataset), action_position=None)
    with pytest.raises(PolicyError, match='set source to state'):
        ReplayPolicy(bare, JOINTS, 'action', 0.1)
    acted = replace(bare, action_position=bare.joint_position + 0.02, action_gripper=bare.gripper)
    chunk = ReplayPolicy(acted, JOINTS, 'action', 0.1).generate(observation(0), 'go', seed=0)
    assert np.allclose(chunk.positions[0], 0.04, atol=1e-6)


def test_a_closed_policy_says_so(dataset):
    policy = replay(dataset)
    policy.close()
    with pytest.raises(PolicyError, match='it is closed'):
        policy.generate(observation(0), 'go', seed=0)
