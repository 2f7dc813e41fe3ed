"""A joint whose optimum keeps its velocity envelope anyway is solved without the envelope's rows."""

from arm_double import robot_of
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from cosmos3_ros.control import ControllerConfig
from cosmos3_ros.control.envelope import inscribe_envelope
from cosmos3_ros.control.mpc import Mpc
from cosmos3_ros.control.plan import Plan
from cosmos3_ros.control.planner import Planner
from cosmos3_ros.control.triple_integrator import predict

STEP_NS = 20_000_000
PREDICTION = predict(30, STEP_NS * 1e-9)


def mpc_of(name):
    planner = Planner(robot_of(name), ControllerConfig())
    return Mpc(PREDICTION, planner.bounds, ControllerConfig().mpc)


def follow(mpc, kept, goal, gain):
    """Return the plan towards ``goal`` (joints,) at a reference of ``gain`` rad/s."""
    state = kept.state(0)
    reach = gain * STEP_NS * 1e-9 * np.arange(1, 31)[:, None]
    way = goal - state[0]
    position = state[0] + np.sign(way) * np.minimum(np.abs(way), reach)
    jerk = mpc.solve(state, kept, position, np.where(np.abs(way) > reach, np.sign(way) * gain, 0.0))
    assert jerk is not None
    return Plan.from_jerk(kept.start_ns, STEP_NS, state, jerk, PREDICTION)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 3.0))
@settings(max_examples=25, deadline=None)
def test_the_plans_are_those_of_the_qp_with_every_row(seed, gain):
    """Goals at the ends of the joints, where the envelope shapes the motion."""
    robot, rng = robot_of('fr3'), np.random.default_rng(seed)
    limits = robot.limits
    goal = np.where(rng.random(7) < 0.5, limits.lower_rad, limits.upper_rad)
    start = np.clip(goal + rng.uniform(-0.4, 0.4, 7), limits.lower_rad + 0.05, limits.upper_rad - 0.05)
    quick, whole = mpc_of('fr3'), mpc_of('fr3')
    kept = Plan.hold(start, 0, STEP_NS, 30)
    for _ in range(25):
        whole._is_new = True
        plan, other = follow(quick, kept, goal, gain), follow(whole, kept, goal, gain)
        # The solver's own tolerance: the whole QP from a warm and from a cold start differs by as much.
        assert np.abs(plan.position - other.position).max() < 2e-5
        assert np.abs(plan.velocity - other.velocity).max() < 2e-4
        kept = plan.shifted(1)


def test_the_rows_are_left_out_in_the_open_and_used_at_the_end_of_a_joint():
    robot = robot_of('fr3')
    limits = robot.limits
    solved = []
    for goal, gain in ((robot.home_rad + 0.2, 0.3), (inscribe_envelope(limits).upper_rad, 3.0)):
        mpc = mpc_of('fr3')
        kept = Plan.hold(np.array(goal) - 0.3, 0, STEP_NS, 30)
        follow(mpc, kept, goal, gain)
        count = 0
        with pytest.MonkeyPatch.context() as patch:
            solve = mpc._enveloped.solve

            def counted(*args, solve=solve):
                nonlocal count
                count += 1
                return solve(*args)

            patch.setattr(mpc._enveloped, 'solve', counted)
            for _ in range(40):
                kept = follow(mpc, kept, goal, gain).shifted(1)
        solved.append(count)
    assert solved[0] == 0 and solved[1] > 0


@pytest.mark.parametrize('name', ['panda', 'ur5e'])
def test_an_arm_without_an_envelope_has_no_second_qp(name):
    mpc = mpc_of(name)
    follow(mpc, Plan.hold(robot_of(name).home_rad, 0, STEP_NS, 30), robot_of(name).home_rad + 0.1, 0.3)
    assert not any(mpc._enveloped._models)
