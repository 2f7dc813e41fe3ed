"""Normalised deltas to raw ones, to poses, to joints; each step undone by its inverse."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cosmos3_ros.contracts import ContractError
from cosmos3_ros.generator.action_normaliser import METHODS, ActionNormaliser
from cosmos3_ros.generator.inverse_kinematics import follow_poses, pose_error, solve_pose, tool_jacobian
from cosmos3_ros.generator.policy import PolicyError
from cosmos3_ros.generator.pose_delta import deltas_between, integrate_deltas, rot6d_of, rotation_of
from cosmos3_ros.robots import load_robot
from cosmos3_ros.robots.errors import RobotError

# Published statistics of ``droid_lerobot`` (cosmos-framework, normalizer_stats).
DROID = {
    'q01': [-0.0142, -0.013416, -0.015206, 0.998459, -0.047659, -0.034774, -0.047609, 0.998428, -0.035553,
            0.0],
    'q99': [0.014515, 0.011517, 0.01452, 1.0, 0.047596, 0.03466, 0.047654, 1.0, 0.038888, 1.0]}


def test_quantiles_map_to_the_published_numbers():
    normaliser = ActionNormaliser.of('quantile', DROID, 10)
    assert np.allclose(normaliser.to_raw(-np.ones(10)), DROID['q01'])
    assert np.allclose(normaliser.to_raw(np.ones(10)), DROID['q99'])
    # Raw deltas fed where normalised ones belong move about 55 times too little (facts sheet 2a).
    assert 50 < 1 / normaliser.scale[:3].max() < 90


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(METHODS)), st.integers(0, 2**32 - 1))
def test_there_and_back(method, seed):
    random = np.random.default_rng(seed)
    low = random.normal(size=7)
    first, second = METHODS[method]
    statistics = {'min': low - 1.0, 'max': np.abs(low) + 3.0} | {
        first: low, second: np.abs(low) + random.uniform(0.01, 2, 7)}
    normaliser = ActionNormaliser.of(method, statistics, 7)
    raw = random.normal(size=(4, 7))
    assert np.allclose(normaliser.to_raw(normaliser.to_normalised(raw)), raw, atol=1e-9)


def test_a_channel_that_never_moves_stays_finite():
    still = ActionNormaliser.of('minmax', {'min': [1.0], 'max': [1.0]}, 1)
    assert abs(still.to_raw(np.array([0.7]))[0] - 1.0) < 1e-7


@pytest.mark.parametrize('method, statistics, message', [
    ('log', DROID, "'log' arrived"), ('meanstd', DROID, 'no mean in the statistics, they hold q01, q99'),
    ('minmax', {'min': [1.0], 'max': [0.0]}, 'channel 0 has min 1 above max 0'),
    ('meanstd', {'mean': [0.0], 'std': [-1.0]}, 'negative std')])
def test_bad_statistics(method, statistics, message):
    with pytest.raises(PolicyError, match=message):
        ActionNormaliser.of(method, statistics, 1 if len(statistics[min(statistics)]) == 1 else 10)
    with pytest.raises(ContractError):
        ActionNormaliser.of('quantile', DROID, 9)
    with pytest.raises(PolicyError, match='is needed'):
        ActionNormaliser.of('quantile', DROID, 10).to_raw(np.zeros((2, 9)))


def path(seed, rows=12):
    random = np.random.default_rng(seed)
    rotations = Rotation.from_rotvec(np.cumsum(random.normal(0, 0.2, (rows, 3)), axis=0)).as_matrix()
    return rotations, np.cumsum(random.normal(0, 0.02, (rows, 3)), axis=0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_deltas_lead_along_their_poses(seed):
    rotations, positions = path(seed)
    back, points = integrate_deltas(rotations[0], positions[0], deltas_between(rotations, positions))
    assert np.allclose(back, rotations[1:], atol=1e-12) and np.allclose(points, positions[1:], atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_an_inexact_rotation_becomes_the_nearest(seed):
    random = np.random.default_rng(seed)
    exact = Rotation.random(random_state=seed % 2**31).as_matrix()
    assert np.allclose(rotation_of(rot6d_of(exact)), exact, atol=1e-12)
    near = rotation_of(rot6d_of(exact) + random.normal(0, 0.05, 6))
    assert np.allclose(near @ near.T, np.eye(3), atol=1e-12) and np.linalg.det(near) > 0.99
    assert np.linalg.norm(Rotation.from_matrix(near @ exact.T).as_rotvec()) < 0.4


@pytest.mark.parametrize('rot6d', [np.zeros(6), np.r_[1.0, 0, 0, 2.0, 0, 0], np.full(6, np.nan)])
def test_no_rotation_is_refused(rot6d):
    with pytest.raises(PolicyError, match='no rotation'):
        rotation_of(rot6d)
    with pytest.raises(PolicyError, match='is needed'):
        integrate_deltas(np.eye(3), np.zeros(3), np.zeros((4, 10)))


@pytest.fixture(scope='module', params=['panda', 'fr3', 'ur5e'])
def robot(request):
    return load_robot(request.param)


def middle(robot):
    return robot.kinematics, robot.limits.lower_rad, robot.limits.upper_rad


def test_the_jacobian_is_the_derivative(robot):
    kinematics, lower, upper = middle(robot)
    q = lower + (upper - lower) * np.random.default_rng(0).uniform(0.3, 0.7, len(lower))
    jacobian, (R, p) = tool_jacobian(kinematics, q), kinematics.tool_pose(q)
    for i, unit in enumerate(np.eye(len(q)) * 1e-6):
        left = pose_error(kinematics, q - unit, R, p) / 1e-6
        assert np.allclose(jacobian[:, i], left, atol=1e-4)


def test_a_path_of_joints_is_found_again(robot):
    kinematics, lower, upper = middle(robot)
    random = np.random.default_rng(1)
    for _ in range(5):
        start = lower + (upper - lower) * random.uniform(0.3, 0.7, len(lower))
        joints = start + np.cumsum(random.normal(0, 0.02, (20, len(start))), axis=0)
        R, p = kinematics.tool_pose(joints)
        found = follow_poses(kinematics, start, R, p, lower, upper)
        assert (found >= lower).all() and (found <= upper).all()
        got_R, got_p = kinematics.tool_pose(found)
        assert np.linalg.norm(got_p - p, axis=1).max() <= 1e-4
        assert np.abs(got_R - R).max() <= 2e-3
        assert np.abs(np.diff(found, axis=0)).max() < 0.5


def test_out_of_reach_is_refused(robot):
    kinematics, lower, upper = middle(robot)
    R, p = kinematics.tool_pose((lower + upper) / 2)
    with pytest.raises(RobotError, match=r'row 1: inverse kinematics: .* out of reach'):
        follow_poses(kinematics, (lower + upper) / 2, np.stack([R, R]), np.stack([p, p + 3.0]), lower, upper)


def test_half_a_turn_away_is_an_error_of_pi(robot):
    kinematics, lower, upper = middle(robot)
    q = (lower + upper) / 2
    R, p = kinematics.tool_pose(q)
    half = Rotation.from_rotvec([0.0, np.pi, 0.0]).as_matrix() @ R
    assert np.linalg.norm(pose_error(kinematics, q, half, p)[3:]) == pytest.approx(np.pi, abs=1e-6)
    assert np.allclose(solve_pose(kinematics, q, R, p, lower, upper), q)
