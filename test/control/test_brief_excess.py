"""A speed that is past a joint's limit briefly delays no other joint; one that lasts slows all of them."""

from arm_double import STEP_NS, robot_of
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from cosmos3_ros.control import ControllerConfig
from cosmos3_ros.control.governor import BRIEF_PACE, MEAN_WINDOW_S, PEAK_SHARE, VELOCITY_SHARE, Governor
from cosmos3_ros.control.reference import ChunkSpline, Reference

JOINT = 4
GRID_S = 0.01


def pace_of(robot, q, v, tracker):
    with np.errstate(divide='ignore'):
        return Governor(robot, ControllerConfig(tracker=tracker))._pace_for_speed(q, v, GRID_S)


@given(st.sampled_from(['panda', 'fr3', 'ur5e']), st.integers(0, 2**32 - 1), st.floats(0.01, 0.3))
@settings(max_examples=60, deadline=None)
def test_the_mean_keeps_the_limit_wherever_an_instant_does_not(name, seed, spread):
    robot, rng = robot_of(name), np.random.default_rng(seed)
    rows = robot.home_rad + np.cumsum(rng.normal(0.0, spread / 3, (20, len(robot.home_rad))), axis=0)
    spline = ChunkSpline.through(0.0, STEP_NS * 1e-9, rows)
    q, v, _, _ = spline.evaluate(np.arange(0.0, spline.end_s + 0.3, GRID_S))
    instant, pace = pace_of(robot, q, v, 'pid'), pace_of(robot, q, v, 'mpc')
    assert (pace >= instant).all()
    relaxed = np.argwhere(np.minimum(pace, 1.0) > np.minimum(instant, 1.0))
    low, high = robot.limits.velocity_bounds(np.clip(q, robot.limits.lower_rad, robot.limits.upper_rad))
    limit = np.maximum(np.where(v > 0.0, high, -low), 1e-9)
    half = round(0.5 * MEAN_WINDOW_S / GRID_S)
    for k, j in relaxed:
        assert pace[k, j] >= BRIEF_PACE
        assert pace[k, j] * abs(v[k, j]) <= PEAK_SHARE * limit[k, j] * (1.0 + 1e-9)
        if half <= k < len(q) - half:
            mean = abs(q[k + half, j] - q[k - half, j]) / (2 * half * GRID_S)
            assert pace[k, j] * mean <= VELOCITY_SHARE * limit[k, j] * (1.0 + 1e-9)


def slowest(robot, tracker, width_s):
    """Return the lowest pace of a chunk with JOINT at 85 % of its limit, and at 110 % for ``width_s``."""
    speed, step_s = robot.limits.velocity_rad_s[JOINT], 0.02
    t = np.arange(0.0, 1.6, step_s)
    share = np.interp(t, [0.0, 0.4, 1.2, 1.6], [0.0, 0.85, 0.85, 0.0]) + 0.25 * (abs(t - 0.8) <= width_s / 2)
    rows = np.repeat(robot.home_rad[None], len(t), axis=0)
    rows[:, JOINT] += np.cumsum(share) * speed * step_s - 0.5 * speed
    spline = ChunkSpline.through(0.0, step_s, rows)
    reference, _ = Reference.hold(rows[0], -1.0, 0.2).spliced(spline, 0.0, 0.2)
    profile = Governor(robot, ControllerConfig(tracker=tracker)).profile(reference)
    return min(profile.pace)


def test_only_a_brief_excess_is_left_to_one_joint_and_only_with_a_tracker_that_looks_ahead():
    robot = robot_of('panda')
    assert slowest(robot, 'mpc', 0.06) == pytest.approx(1.0)
    assert slowest(robot, 'pid', 0.06) < 0.88
    assert slowest(robot, 'mpc', 0.4) < 0.88
    # Nothing is brief about twice the limit.
    robot_speed = robot.limits.velocity_rad_s[JOINT]
    q = np.repeat(robot.home_rad[None], 100, axis=0)
    v = np.zeros_like(q)
    v[50, JOINT] = 2.0 * robot_speed
    q[50:, JOINT] += 2.0 * robot_speed * GRID_S
    assert pace_of(robot, q, v, 'mpc')[50, JOINT] == pytest.approx(0.5 * VELOCITY_SHARE)
