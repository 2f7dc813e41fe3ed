"""The expert's reference and its inverse kinematics."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from cosmos3_ros.sim.inverse_kinematics import InverseKinematics
from cosmos3_ros.sim.reference import MotionLimits, ToolReference
from cosmos3_ros.sim.scene import simulated_robot

LIMITS = MotionLimits()
ROW_S = 1.0 / 15
KINEMATICS = InverseKinematics()

places = st.tuples(st.floats(0.35, 0.62), st.floats(-0.25, 0.25), st.floats(0.02, 0.30)).map(np.array)
yaws = st.floats(-0.7, 1.6)


def at_rest(position, yaw=0.0):
    return ToolReference(np.array(position, float), np.zeros(3), yaw, 0.0)


@given(places, places, yaws, yaws, st.one_of(st.none(), st.floats(0.05, 0.25)))
@settings(max_examples=60, deadline=None)
def test_a_reference_arrives_at_rest_inside_its_limits(start, goal, yaw, goal_yaw, speed):
    reference, rates = at_rest(start, yaw), []
    for _ in range(200):
        following = reference.advance(goal, goal_yaw, ROW_S, LIMITS, speed)
        change = np.linalg.norm(following.velocity - reference.velocity) / ROW_S
        assert np.linalg.norm(following.velocity) <= (speed or LIMITS.speed_m_s) + 1e-9
        assert change <= LIMITS.acceleration_m_s2 + 1e-9
        assert abs(following.yaw_rate) <= LIMITS.yaw_rate_rad_s + 1e-9
        rates.append(following.yaw_rate)
        reference = following
    assert reference.position == pytest.approx(goal, abs=1e-3)
    assert reference.yaw == pytest.approx(goal_yaw, abs=2e-3)
    assert np.abs(np.diff([0.0, *rates])).max() <= LIMITS.yaw_acceleration_rad_s2 * ROW_S + 1e-9


@given(places, places)
@settings(max_examples=40, deadline=None)
def test_a_reference_does_not_overshoot(start, goal):
    reference, way = at_rest(start), goal - start
    for _ in range(120):
        reference = reference.advance(goal, 0.0, ROW_S, LIMITS)
        assert (reference.position - start) @ way <= way @ way + 3e-4 * np.linalg.norm(way)


@given(places, places, st.floats(0.0, 1.0))
def test_a_reference_between_two_is_between_them(one, other, share):
    between = at_rest(one, 0.0).toward(at_rest(other, 1.0), share)
    assert between.position == pytest.approx(one + share * (other - one))
    assert between.yaw == pytest.approx(share)


@given(places, yaws)
@settings(max_examples=40, deadline=None)
def test_inverse_kinematics_reach_the_table(position, yaw):
    robot = simulated_robot()
    q = np.array(robot.home_rad)
    # As the expert does it: there in small steps, each solved from the last answer.
    home, _ = KINEMATICS.tool_pose(q)
    for share in np.linspace(0.1, 1.0, 10):
        q = KINEMATICS.solve(q, home + share * (position - home), share * yaw)
    reached, reached_yaw = KINEMATICS.tool_pose(q)
    assert reached == pytest.approx(position, abs=2e-3)
    assert reached_yaw == pytest.approx(yaw, abs=1e-2)
    assert (q >= robot.limits.lower_rad).all() and (q <= robot.limits.upper_rad).all()


def test_out_of_reach_gives_the_nearest_and_keeps_the_ranges():
    robot = simulated_robot()
    q = KINEMATICS.solve(np.array(robot.home_rad), np.array([2.0, 0.0, 0.3]), 0.0, iterations=100)
    assert np.isfinite(q).all()
    assert (q >= robot.limits.lower_rad).all() and (q <= robot.limits.upper_rad).all()
