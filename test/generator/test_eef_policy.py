"""The contract ``eef_delta`` as a policy: settings, reach, refusals, both backends."""

import json
import shutil

import numpy as np
import pytest

from cosmos3_ros.contracts import Observation
from cosmos3_ros.generator.droid_joint import DroidJoint
from cosmos3_ros.generator.eef_delta import EefDelta, UnreachableChunkError
from cosmos3_ros.generator.eef_settings import gather_settings
from cosmos3_ros.generator.embodiment_actions import ARMS, arm_channels
from cosmos3_ros.generator.policy import Policy, PolicyError, create_policy
from cosmos3_ros.generator.prefix import continue_chunk
from cosmos3_ros.robots import load_robot

pytest.importorskip('torch', reason="the extra 'model' is not installed")

# A tenth of DROID's ranges: an untrained model's chunks then stay within reach.
STATISTICS = {'q01': [-0.002] * 3 + [0.995, -0.01, -0.01, -0.01, 0.995, -0.01, 0.0],
              'q99': [0.002] * 3 + [1.0, 0.01, 0.01, 0.01, 1.0, 0.01, 1.0]}
CALM = {'horizon': 8, 'statistics': STATISTICS, 'clamp': False}


@pytest.fixture(scope='module')
def panda():
    return load_robot('panda')


@pytest.fixture(scope='module')
def start(panda):
    images = {slot: np.random.default_rng(5).integers(0, 256, (90, 160, 3), dtype=np.uint8)
              for slot in ('wrist', 'exterior_1', 'exterior_2')}
    return Observation(
        stamp_ns=123_000_000_000, skew_ns=0, joint_names=panda.joint_names, gripper=0.25,
        joint_position=panda.home_rad, images=images)


@pytest.fixture(scope='module')
def eef_checkpoint(policy_checkpoint, tmp_path_factory):
    copy = tmp_path_factory.mktemp('eef') / 'micro'
    shutil.copytree(policy_checkpoint, copy)
    path = copy / 'cosmos3_ros.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {
        'contract': 'eef_delta', 'action': {**CALM, 'statistics': 'action.json'}}))
    (copy / 'action.json').write_text(json.dumps(STATISTICS))
    return copy


def make(checkpoint, robot='panda', **options):
    return create_policy('cosmos3', checkpoint=str(checkpoint), robot=robot, **{'steps': 3, **options})


@pytest.fixture(scope='module')
def tiny_checkpoint(tmp_path_factory):
    from cosmos3_ros.model.checkpoint_init import init_checkpoint

    return init_checkpoint(tmp_path_factory.mktemp('tiny') / 'tiny', 'tiny', seed=1).directory


@pytest.mark.parametrize('contract', ['droid_joint', 'eef_delta'])
@pytest.mark.parametrize('preset', ['micro', 'tiny'])
def test_chunks_of_both_backends_agree(
    policy_checkpoint, tiny_checkpoint, tmp_path, start, preset, contract,
):
    copy = tmp_path / preset
    shutil.copytree(policy_checkpoint if preset == 'micro' else tiny_checkpoint, copy)
    path = copy / 'cosmos3_ros.json'
    action = {'action': CALM} if contract == 'eef_delta' else {}
    path.write_text(json.dumps(json.loads(path.read_text()) | {'contract': contract} | action))
    chunks = [make(copy, backend=backend, guidance=2.0).generate(start, 'pick up the cube', seed=9)
              for backend in ('compiled', 'diffusers')]
    assert chunks[0].contract.startswith(contract)
    assert np.abs(chunks[0].positions - chunks[1].positions).max() <= 1e-5
    assert np.abs(chunks[0].gripper - chunks[1].gripper).max() <= 1e-5
    assert np.ptp(chunks[0].positions, axis=0).max() > 1e-3


def test_a_chunk_of_deltas(eef_checkpoint, panda, start):
    policy = make(eef_checkpoint)
    assert isinstance(policy, Policy) and policy.contract == 'eef_delta/droid_lerobot'
    policy.warm_up()
    chunk = policy.generate(start, 'reach the red cube', seed=4)
    assert chunk.positions.shape == (8, 7) and (chunk.steps, chunk.guidance) == (3, 1.0)
    assert (chunk.positions >= panda.limits.lower_rad).all()
    assert (chunk.positions <= panda.limits.upper_rad).all()
    assert np.abs(chunk.positions[0] - panda.home_rad).max() < 0.1, 'it begins where the arm is'
    again = policy.generate(start, 'reach the red cube', seed=4)
    assert again.positions.tobytes() == chunk.positions.tobytes()


def settings(**changes):
    return gather_settings({**CALM, **changes}, {})


def test_joints_there_and_back(panda, start):
    contract = EefDelta(panda, settings())
    path = panda.home_rad + np.cumsum(np.random.default_rng(0).normal(0, 0.01, (8, 7)), axis=0)
    gripper = np.linspace(0, 1, 8)
    rows = contract.write(path, gripper, start)
    joints, closed = contract.read(rows.astype(np.float32), start)
    assert np.allclose(closed, gripper, atol=1e-6)
    for one, other in zip(joints, path, strict=True):  # seven joints: the same pose, perhaps another elbow
        assert np.allclose(contract.effector_pose(one)[1], contract.effector_pose(other)[1], atol=1e-6)
        assert np.allclose(contract.effector_pose(one)[0], contract.effector_pose(other)[0], atol=1e-5)


def test_deltas_are_in_the_frame_that_droid_recorded(panda, start):
    """One centimetre along x of the flange turned by 90 degrees is one along the flange's y."""
    contract = EefDelta(panda, gather_settings({'horizon': 4}, {}))
    raw = np.tile([0.01, 0, 0, 1, 0, 0, 0, 1, 0, 1.0], (4, 1))
    rows = gather_settings({'horizon': 4, 'clamp': False}, {}).normaliser.to_normalised(raw)
    joints, gripper = contract.read(rows.astype(np.float32), start)
    links, origins = panda.kinematics.forward(np.vstack([panda.home_rad, joints]))
    moved = (origins[1:, -1] - origins[:-1, -1]) @ links[0, -1]
    assert np.allclose(moved, [[0.0, 0.01, 0.0]] * 4, atol=1e-5)
    assert np.allclose(gripper, 0.0, atol=1e-6), 'one is open'


def test_a_gripper_that_counts_closed_as_one(panda, start):
    contract = EefDelta(panda, settings(gripper_open=0))
    rows = contract.write(np.tile(panda.home_rad, (8, 1)), np.linspace(0, 1, 8), start)
    assert np.allclose(contract.read(rows.astype(np.float32), start)[1], np.linspace(0, 1, 8), atol=1e-6)
    assert rows[0, 9] < rows[-1, 9]


def test_poses_out_of_reach_are_reported_not_clamped(panda, start):
    contract = EefDelta(panda, settings())
    raw = np.tile([0.0, 0.15, 0, 1, 0, 0, 0, 1, 0, 0.5], (8, 1))  # 0.15 m a row to one side
    rows = contract._settings.normaliser.to_normalised(raw).astype(np.float32)
    with pytest.raises(UnreachableChunkError, match=r'out of reach in row \d of 8: \d+\.\d mm') as refused:
        contract.read(rows, start)
    assert 0 < refused.value.row < 8 and refused.value.left_m > 0.01
    raw[:, 1:3] = 0.0, 0.4
    with pytest.raises(PolicyError, match='row 1: inverse kinematics: joint 2 would turn by'):
        contract.read(contract._settings.normaliser.to_normalised(raw).astype(np.float32), start)


def test_a_joint_at_its_end_leaves_the_work_to_the_others(panda):
    from cosmos3_ros.generator.inverse_kinematics import solve_pose

    lower, upper = panda.limits.lower_rad.copy(), panda.limits.upper_rad.copy()
    lower[2] = upper[2] = panda.home_rad[2]  # joint 3 is blocked
    goal = panda.home_rad + np.array([0.2, 0.1, 0.0, -0.1, 0.1, 0.1, 0.2])
    R, p = panda.kinematics.tool_pose(goal)
    found = solve_pose(panda.kinematics, panda.home_rad, R, p, lower, upper)
    assert found[2] == panda.home_rad[2]
    assert np.allclose(panda.kinematics.tool_pose(found)[1], p, atol=1e-6)


def test_not_finite_is_refused(panda, start):
    rows = np.zeros((8, 64), np.float32)
    rows[3, 2] = np.nan
    with pytest.raises(PolicyError, match='the model answered nan in row 3, channel 2'):
        EefDelta(panda, settings()).read(rows, start)


# Contracts are never confused -------------------------------------------------------------------


def test_a_robot_that_does_not_accept_the_contract_is_refused(eef_checkpoint, policy_checkpoint):
    with pytest.raises(PolicyError, match=r'robot ur5e: it accepts .*, this checkpoint .* eef_delta/droid'):
        make(eef_checkpoint, 'ur5e')
    with pytest.raises(PolicyError, match='this checkpoint answers droid_joint'):
        make(policy_checkpoint, 'ur5e', joint_names=load_robot('ur5e').joint_names)
    with pytest.raises(PolicyError, match='a checkpoint with the contract droid_joint takes none'):
        make(policy_checkpoint, action={'horizon': 8})
    with pytest.raises(ValueError, match='its contract is eef_delta, droid_joint was asked for'):
        make(eef_checkpoint, contract='droid_joint')


def test_a_domain_of_another_embodiment_is_refused(eef_checkpoint):
    known = {'rate_hz': 10, 'horizon': 8, 'gripper_open': 1, 'normaliser': 'quantile',
             'statistics': STATISTICS, 'effector_xyz_m': [0, 0, 0.1], 'effector_rpy_rad': [0, 0, 0]}
    with pytest.raises(PolicyError, match='this checkpoint answers eef_delta/robomind-ur'):
        make(eef_checkpoint, action={'domain': 'robomind-ur', **known})
    assert make(eef_checkpoint, 'ur5e', action={'domain': 'robomind-ur', **known}).step_ns == 100_000_000


@pytest.mark.parametrize('option, message', [
    ({'domain': 'umi'}, 'domain umi: nothing says horizon, rate_hz, normaliser, statistics, gripper_open'),
    ({'domain': 'galbot'}, "domain: 'galbot' arrived, one of"), ({'arm': 'left'}, "arm: 'left' arrived"),
    ({'gripper_open': 0.5}, 'gripper_open: 0.5'), ({'horizon': 'long'}, 'long'),
    ({'speed': 2}, 'speed arrived'),
    ({'statistics': 'nowhere.json'}, 'nowhere.json cannot be read'), ({'statistics': 3},
    'statistics: 3'), ({'normaliser': 'magic'}, "'magic'"), ({'normaliser': 'meanstd'}, 'the statistics '
    'hold q01, q99'),
    ({'effector_xyz_m': [0, 0]}, 'effector_xyz_m')])
def test_bad_settings(option, message):
    with pytest.raises(ValueError, match=message):
        gather_settings(option, {})


def test_blocks_of_a_statistics_file():
    file = {'global': {'q01': [0.0] * 10, 'q99': [1.0] * 10},
            'global_raw': {'q01': [0.0] * 10, 'q99': [4.0] * 10}}
    plain, turned = (settings(normaliser=n, statistics=file).normaliser for n in ('quantile', 'quantile_rot'))
    assert (plain.scale == 0.5).all() and (turned.scale == 2.0).all()


def test_every_domain_has_its_channels():
    for domain, arms in ARMS.items():
        for arm in arms:
            found = arm_channels(domain, arm)
            assert found.gripper == found.pose + 9 < found.width <= 64 and found.pose in found.poses
    assert arm_channels('agibotworld', 'second').gripper == 28


def test_the_second_arm_of_a_wide_domain(panda, start):
    wide = {'domain': 'robomind-franka-dual', 'rate_hz': 10, 'horizon': 4, 'gripper_open': 1,
            'normaliser': 'quantile', 'effector_xyz_m': [0, 0, 0.107], 'effector_rpy_rad': [0, 0, 0],
            'statistics': {name: values * 2 for name, values in STATISTICS.items()}}
    from dataclasses import replace

    robot = replace(panda, action_contracts=('eef_delta/robomind-franka-dual',))
    contract = EefDelta(robot, gather_settings({**wide, 'arm': 'second'}, {}))
    with pytest.raises(PolicyError, match='robomind-franka-dual has first, second'):
        gather_settings(wide, {})
    rows = contract.write(panda.home_rad + 0.01 * np.arange(1, 5)[:, None], np.zeros(4), start)
    raw = contract._settings.normaliser.to_raw(rows)
    assert rows.shape == (4, 20) and np.allclose(raw[:, :9], [0, 0, 0, 1, 0, 0, 0, 1, 0])
    assert np.abs(raw[:, 10:13]).max() > 1e-3


# Real-time chunking --------------------------------------------------------------------------------


def test_the_prefix_of_deltas_leads_along_the_old_chunk(eef_checkpoint, panda, start):
    policy = make(eef_checkpoint)
    old = policy.generate(start, 'go', seed=1)
    at = old.due_ns(0)
    later = Observation(at, start.images, start.joint_names, old.positions[0] + 0.002, 0.3, 0)
    prefix = policy.prefix_of(old, later, 0.2)
    assert prefix.weights.shape == (8,) and (prefix.weights[:3] == 1.0).all() and prefix.weights[-1] == 0.0
    joints, _ = policy.actions.read(prefix.rows.astype(np.float32), later)
    for row in range(3):
        want = policy.actions.effector_pose(old.positions[row + 1])[1]
        assert np.allclose(policy.actions.effector_pose(joints[row])[1], want, atol=1e-5)


@pytest.mark.parametrize('contract', ['droid_joint', 'eef_delta'])
def test_a_prefix_closes_the_seam(policy_checkpoint, eef_checkpoint, panda, start, contract):
    policy = make(policy_checkpoint if contract == 'droid_joint' else eef_checkpoint)
    old = policy.generate(start, 'go', seed=1)
    rows_later = 2
    later = Observation(
        old.due_ns(rows_later - 1), start.images, start.joint_names, old.positions[rows_later - 1], 0.3, 0)
    prefix = policy.prefix_of(old, later, 2.0 / policy.actions.layout.rate_hz)
    seams = []
    for given in (None, prefix):
        new = policy.generate(later, 'go', seed=2, prefix=given)
        # Where the new chunk takes over, two rows after its observation.
        seams.append(np.abs(new.positions[2] - old.positions[rows_later + 2]).max())
    assert seams[1] < 0.5 * seams[0]


def test_prefixes_that_make_no_sense(eef_checkpoint, start):
    policy = make(eef_checkpoint)
    chunk = policy.generate(start, 'go', seed=1)
    before = Observation(0, start.images, start.joint_names, start.joint_position, 0.3, 0)
    with pytest.raises(PolicyError, match='older than the previous chunk'):
        policy.prefix_of(chunk, before, 0.1)
    with pytest.raises(PolicyError, match='the previous chunk moves panda_joint1'):
        continue_chunk(DroidJoint([f'other{i}' for i in range(7)]), chunk, start, 0.1)
    slow = policy.prefix_of(chunk, start, 60.0)
    assert (slow.weights == np.r_[np.ones(4), np.zeros(4)]).all(), 'half of the chunk at most'
