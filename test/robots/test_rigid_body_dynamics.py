"""Inverse dynamics against MuJoCo, and the laws that any rigid arm obeys."""

import numpy as np
from published_chains import build_mujoco_model
import pytest
import yaml

from cosmos3_ros import robots
from cosmos3_ros.resources import shared_file


def _motion(robot, count, seed=0):
    limits = robot.hardware_limits
    rng = np.random.default_rng(seed)
    q = rng.uniform(limits.lower_rad, limits.upper_rad, (count, len(limits.names)))
    return (q, rng.uniform(-1, 1, q.shape) * limits.velocity_rad_s,
            rng.uniform(-1, 1, q.shape) * limits.acceleration_rad_s2)


def _yaml_bodies(name):
    text = shared_file('config', 'robots', f'{name}.yaml').read_text(encoding='utf-8')
    by_link = {}
    for body in yaml.safe_load(text)['dynamics']['bodies']:
        by_link.setdefault(body['link'], []).append(body)
    return by_link


def test_agrees_with_mujoco(robot):
    mujoco = pytest.importorskip('mujoco', reason="needs the extra 'sim'")
    model = build_mujoco_model(mujoco, robot.name, _yaml_bodies(robot.name))
    data = mujoco.MjData(model)
    q, v, a = _motion(robot, 60)
    efforts = robot.dynamics.effort(q, v, a)
    for k in range(len(q)):
        data.qpos[:], data.qvel[:], data.qacc[:] = q[k], v[k], a[k]
        mujoco.mj_inverse(model, data)
        np.testing.assert_allclose(efforts[k], data.qfrc_inverse, atol=1e-9, rtol=1e-9)


def test_gravity_is_effort_at_rest_and_the_gradient_of_height(robot):
    q, _, _ = _motion(robot, 10, seed=1)
    gravity = robot.dynamics.gravity(q)
    zero = np.zeros_like(q)
    np.testing.assert_array_equal(gravity, robot.dynamics.effort(q, zero, zero))

    def potential(q):
        R, p = robot.kinematics.forward(q)
        com = p[:, 1:] + np.einsum('klij,lj->kli', R[:, 1:], robot.dynamics.com_m)
        return 9.81 * (robot.dynamics.mass_kg * com[..., 2]).sum(axis=1)

    h = 1e-5
    for i in range(q.shape[1]):
        step = np.zeros(q.shape[1])
        step[i] = h
        slope = (potential(q + step) - potential(q - step)) / (2 * h)
        np.testing.assert_allclose(gravity[:, i], slope, atol=1e-6)


def test_inertia_matrix_is_symmetric_and_positive(robot):
    q, _, _ = _motion(robot, 8, seed=2)
    n = q.shape[1]
    for row in q:
        zero = np.zeros(n)
        bias = robot.dynamics.gravity(row)
        M = np.stack([robot.dynamics.effort(row, zero, unit) - bias for unit in np.eye(n)], axis=1)
        np.testing.assert_allclose(M, M.T, atol=1e-10)
        assert np.linalg.eigvalsh(M)[0] > 0.0


def test_energy_is_conserved(robot):
    # Power of the efforts equals the change of kinetic and potential energy along any motion.
    q, v, a = _motion(robot, 5, seed=3)
    n = q.shape[1]

    def energy(q, v):
        zero = np.zeros((n, n))
        q = np.broadcast_to(q, (n, n))
        M = robot.dynamics.effort(q, zero, np.eye(n)) - robot.dynamics.gravity(q)
        R, p = robot.kinematics.forward(q[0])
        com = p[1:] + np.einsum('lij,lj->li', R[1:], robot.dynamics.com_m)
        return 0.5 * v @ M @ v + 9.81 * robot.dynamics.mass_kg @ com[:, 2]

    h = 1e-5
    for k in range(len(q)):
        ahead = energy(q[k] + h * v[k] + 0.5 * h * h * a[k], v[k] + h * a[k])
        behind = energy(q[k] - h * v[k] + 0.5 * h * h * a[k], v[k] - h * a[k])
        power = robot.dynamics.effort(q[k], v[k], a[k]) @ v[k]
        assert (ahead - behind) / (2 * h) == pytest.approx(power, rel=1e-5, abs=1e-4)


def test_batches_agree_with_single_calls(robot):
    q, v, a = (x.reshape(2, 3, -1) for x in _motion(robot, 6, seed=4))
    efforts = robot.dynamics.effort(q, v, a)
    assert efforts.shape == q.shape
    for i in range(2):
        for j in range(3):
            single = robot.dynamics.effort(q[i, j], v[i, j], a[i, j])
            np.testing.assert_allclose(efforts[i, j], single, atol=1e-10)


def test_home_needs_less_than_the_motors_give(robot):
    assert (np.abs(robot.dynamics.gravity(robot.home_rad)) < 0.6 * robot.limits.effort_nm).all()


def _chain():
    zero = np.zeros(3)
    return robots.Kinematics(np.zeros((1, 3)), np.array([[-np.pi / 2, 0, 0]]), zero, zero, ())


def test_a_pendulum_weighs_what_it_should():
    body = robots.RigidBody('rod', 1, 2.0, np.array([0.5, 0.0, 0.0]), np.eye(3) * 1e-9)
    pendulum = robots.RigidBodyDynamics(_chain(), (body,), np.array([0.0, 0.0, -9.81]))
    angle = 0.4
    # The joint's axis lies along +y of the base, so a positive angle lowers the rod.
    expected = -2.0 * 9.81 * 0.5 * np.cos(angle) + 2.0 * 0.25 * 3.0
    found = pendulum.effort(np.array([angle]), np.array([7.0]), np.array([3.0]))
    np.testing.assert_allclose(found, [expected], atol=1e-6)


def test_refuses_bad_bodies_and_shapes(panda):
    gravity = np.array([0.0, 0.0, -9.81])
    good = np.eye(3) * 1e-3
    for body, text in (
        (robots.RigidBody('x', 2, 1.0, np.zeros(3), good), 'link 2'),
        (robots.RigidBody('x', 1, 0.0, np.zeros(3), good), 'mass'),
        (robots.RigidBody('x', 1, 1.0, np.zeros(3), -good), 'principal'),
    ):
        with pytest.raises(robots.RobotError, match=text):
            robots.RigidBodyDynamics(_chain(), (body,), gravity)
    with pytest.raises(robots.RobotError, match='no mass'):
        robots.RigidBodyDynamics(_chain(), (), gravity)
    with pytest.raises(robots.RobotError, match='shapes'):
        panda.dynamics.effort(np.zeros(7), np.zeros(6), np.zeros(7))
    with pytest.raises(robots.RobotError, match='shapes'):
        panda.dynamics.gravity(np.zeros(6))
