"""Forward kinematics against two other ways to write the same chain, and the Jacobian against differences."""

import numpy as np
from published_chains import build_mujoco_model, last_link_by_dh
import pytest

from cosmos3_ros import robots


def _samples(robot, count, seed=0):
    limits = robot.hardware_limits
    return np.random.default_rng(seed).uniform(limits.lower_rad, limits.upper_rad, (count, len(limits.names)))


def test_agrees_with_published_dh(robot):
    q = _samples(robot, 200)
    R, p = robot.kinematics.forward(q)
    for k in range(len(q)):
        T = last_link_by_dh(robot.name, q[k])
        np.testing.assert_allclose(R[k, -1], T[:3, :3], atol=1e-9)
        np.testing.assert_allclose(p[k, -1], T[:3, 3], atol=1e-9)


def test_every_link_agrees_with_mujoco(robot):
    mujoco = pytest.importorskip('mujoco', reason="needs the extra 'sim'")
    model = build_mujoco_model(mujoco, robot.name)
    data = mujoco.MjData(model)
    q = _samples(robot, 100, seed=1)
    R, p = robot.kinematics.forward(q)
    for k in range(len(q)):
        data.qpos[:] = q[k]
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(R[k, 1:], data.xmat[1:].reshape(-1, 3, 3), atol=1e-9)
        np.testing.assert_allclose(p[k, 1:], data.xpos[1:], atol=1e-9)


def test_tool_is_where_published(panda, robot):
    # DROID's 2F-85: 0.107 m to the flange, 0.1495 m to the pinch point, turned -45 degrees.
    R, p = panda.kinematics.tool_pose(np.zeros(7))
    T = last_link_by_dh('panda', np.zeros(7))
    np.testing.assert_allclose(p, (T @ [0, 0, 0.107 + 0.1495, 1])[:3], atol=1e-12)
    c = np.cos(np.pi / 4)
    np.testing.assert_allclose(R, T[:3, :3] @ [[c, c, 0], [-c, c, 0], [0, 0, 1]], atol=1e-12)
    # At home each gripper points down at the table in front of the base.
    R, p = robot.kinematics.tool_pose(robot.home_rad)
    np.testing.assert_allclose(R[:, 2], [0, 0, -1], atol=1e-9)
    assert p[0] > 0.3 and p[2] > 0.2


def test_rotations_are_orthonormal_and_right_handed(robot):
    R, _ = robot.kinematics.forward(_samples(robot, 300, seed=2))
    np.testing.assert_allclose(R @ np.swapaxes(R, -1, -2), np.broadcast_to(np.eye(3), R.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(R), 1.0, atol=1e-12)


def test_joint_i_moves_only_what_follows_it(robot):
    q = _samples(robot, 1, seed=3)[0]
    R0, p0 = robot.kinematics.forward(q)
    for i in range(len(q)):
        moved = q.copy()
        moved[i] += 0.3
        R, p = robot.kinematics.forward(moved)
        np.testing.assert_array_equal(R[:i + 1], R0[:i + 1])
        np.testing.assert_array_equal(p[:i + 1], p0[:i + 1])
        assert np.abs(R[i + 1:] - R0[i + 1:]).max(axis=(1, 2)).min() > 0.1


def test_batches_of_any_shape_agree_with_single_calls(robot):
    n = len(robot.joint_names)
    q = _samples(robot, 12, seed=4).reshape(3, 4, n)
    R, p = robot.kinematics.forward(q)
    points = robot.kinematics.points(q)
    J = robot.kinematics.jacobian(q, 'tool')
    assert R.shape == (3, 4, n + 1, 3, 3) and p.shape == (3, 4, n + 1, 3) and J.shape == (3, 4, 3, n)
    for i in range(3):
        for j in range(4):
            R1, p1 = robot.kinematics.forward(q[i, j])
            np.testing.assert_allclose(R[i, j], R1, atol=1e-14)
            np.testing.assert_allclose(p[i, j], p1, atol=1e-14)
            np.testing.assert_allclose(points[i, j], robot.kinematics.points(q[i, j]), atol=1e-14)
            np.testing.assert_allclose(J[i, j], robot.kinematics.jacobian(q[i, j], 'tool'), atol=1e-14)


def test_tool_point_is_the_tool_frame(robot):
    q = _samples(robot, 20, seed=5)
    index = robot.kinematics.point_names.index('tool')
    _, p = robot.kinematics.tool_pose(q)
    np.testing.assert_allclose(robot.kinematics.points(q)[:, index], p, atol=1e-14)


def test_jacobian_agrees_with_differences(robot):
    q = _samples(robot, 30, seed=6)
    h = 1e-6
    for index, name in enumerate(robot.kinematics.point_names):
        J = robot.kinematics.jacobian(q, name)
        for i in range(q.shape[1]):
            step = np.zeros(q.shape[1])
            step[i] = h
            difference = (robot.kinematics.points(q + step) - robot.kinematics.points(q - step)) / (2 * h)
            np.testing.assert_allclose(J[:, :, i], difference[:, index], atol=1e-8)


def test_point_velocities_are_the_jacobians_times_velocity(robot):
    q = _samples(robot, 25, seed=7)
    v = np.random.default_rng(8).normal(size=q.shape)
    velocities = robot.kinematics.point_velocities(q, v)
    for index, name in enumerate(robot.kinematics.point_names):
        J = robot.kinematics.jacobian(q, name)
        np.testing.assert_allclose(velocities[:, index], np.einsum('kij,kj->ki', J, v), atol=1e-12)


def test_elbow_ignores_the_wrist(robot):
    J = robot.kinematics.jacobian(_samples(robot, 10, seed=9), 'elbow')
    assert np.abs(J[:, :, -3:]).max() == 0.0
    assert np.abs(J[:, :, :2]).max() > 0.1


@pytest.mark.parametrize('shape', [(), (3,), (2, 9)])
def test_refuses_wrong_shapes(robot, shape):
    for call in (robot.kinematics.forward, robot.kinematics.points, robot.kinematics.tool_pose,
                 lambda q: robot.kinematics.jacobian(q, 'tool')):
        with pytest.raises(robots.RobotError, match='is needed'):
            call(np.zeros(shape))


def test_refuses_unknown_point(panda):
    with pytest.raises(robots.RobotError, match='tool, elbow'):
        panda.kinematics.jacobian(panda.home_rad, 'wrist')


def test_refuses_chains_that_make_no_sense():
    zero = np.zeros(3)
    with pytest.raises(robots.RobotError, match=r'\(N, 3\)'):
        robots.Kinematics(np.zeros((2, 3)), np.zeros((3, 3)), zero, zero, ())
    with pytest.raises(robots.RobotError, match='link 3'):
        robots.Kinematics(np.zeros((2, 3)), np.zeros((2, 3)), zero, zero, (robots.SpeedPoint('x', 3, zero),))
