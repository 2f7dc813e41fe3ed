"""Plans: exact extrema, exact rest, and solvers that never leave the limits."""

from arm_double import robot_of
from hypothesis import given, settings
from hypothesis import strategies as st
from limit_witness import Witness
import numpy as np
import pytest

from cosmos3_ros.contracts import ContractError
from cosmos3_ros.control.config import ControllerConfig, MpcWeights
from cosmos3_ros.control.envelope import inscribe_envelope
from cosmos3_ros.control.plan import Plan
from cosmos3_ros.control.planner import Planner
from cosmos3_ros.control.triple_integrator import discretise, predict

STEP_NS = 20_000_000


def test_discretisation_is_the_exact_solution():
    transition, drive = discretise(0.1)
    q, v, a, j = 0.3, -1.0, 2.0, 7.0
    t = 0.1
    exact = [q + v * t + a * t**2 / 2 + j * t**3 / 6, v + a * t + j * t**2 / 2, a + j * t]
    np.testing.assert_allclose(transition @ [q, v, a] + drive * j, exact, rtol=1e-14)


@given(st.integers(2, 40), st.floats(0.002, 0.1), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_prediction_equals_stepping(steps, step_s, seed):
    rng = np.random.default_rng(seed)
    p = predict(steps, step_s)
    transition, drive = discretise(step_s)
    x = rng.normal(size=3)
    u = rng.normal(size=steps)
    state = x
    for k in range(steps):
        state = transition @ state + drive * u[k]
        found = [p.free_q[k] @ x + p.forced_q[k] @ u, p.free_v[k] @ x + p.forced_v[k] @ u,
                 p.free_a[k] @ x + p.forced_a[k] @ u]
        np.testing.assert_allclose(found, state, rtol=1e-9, atol=1e-9)


def test_a_grid_too_short_for_rest_is_refused():
    with pytest.raises(ContractError, match='at least 2 steps'):
        predict(1, 0.02)


def random_plan(seed, joints=3, steps=8):
    """Random jerks, with the last ones chosen so that the plan ends at rest."""
    rng = np.random.default_rng(seed)
    p = predict(steps, STEP_NS * 1e-9)
    state = rng.normal(size=(3, joints)) * np.array([[1.0], [0.5], [3.0]])
    jerk = rng.normal(size=(steps, joints)) * 300.0
    end_v = p.free_v[-1] @ state + p.forced_v[-1] @ jerk
    end_a = p.free_a[-1] @ state + p.forced_a[-1] @ jerk
    jerk = jerk + p.rest_correction @ np.stack([end_v, end_a])
    return Plan.from_jerk(1_000, STEP_NS, state, jerk, p)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_extrema_bound_dense_samples_and_are_reached(seed):
    plan = random_plan(seed)
    x = plan.extrema()
    t = np.linspace(0, STEP_NS * 1e-9, 201)[:, None, None]
    q0, v0, a0 = plan.position[:-1], plan.velocity[:-1], plan.acceleration[:-1]
    q = q0 + t * v0 + t**2 / 2 * a0 + t**3 / 6 * plan.jerk
    v = v0 + t * a0 + t**2 / 2 * plan.jerk
    assert (q.max(axis=0) <= x.position_max + 1e-12).all() and (q.min(axis=0) >= x.position_min - 1e-12).all()
    assert (np.abs(v).max(axis=0) <= x.speed_max + 1e-12).all()
    np.testing.assert_allclose(q.max(axis=0), x.position_max, atol=1e-6)
    np.testing.assert_allclose(q.min(axis=0), x.position_min, atol=1e-6)
    np.testing.assert_allclose(np.abs(v).max(axis=0), x.speed_max, atol=2e-3)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_a_plan_ends_exactly_at_rest_and_stays_there(seed):
    plan = random_plan(seed)
    assert not plan.velocity[-1].any() and not plan.acceleration[-1].any()
    for later in (0, 1, 10**9):
        q, v, a = plan.sample(plan.end_ns + later)
        np.testing.assert_array_equal(q, plan.position[-1])
        assert not v.any() and not a.any()


@given(st.integers(0, 2**32 - 1), st.integers(0, 10))
@settings(max_examples=30, deadline=None)
def test_shifting_a_plan_changes_nothing_of_the_future(seed, nodes):
    plan = random_plan(seed)
    shifted = plan.shifted(nodes)
    times = np.arange(shifted.start_ns, plan.end_ns + STEP_NS, 3_333_333)
    for one, other in zip(plan.sample_many(times), shifted.sample_many(times), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)
    for k, time in enumerate(times):
        for one, many in zip(plan.sample(int(time)), plan.sample_many(times), strict=True):
            np.testing.assert_allclose(one, many[k], atol=1e-15)


def test_jerks_that_do_not_lead_to_rest_are_refused():
    p = predict(5, 0.02)
    with pytest.raises(ContractError, match='rest is needed'):
        Plan.from_jerk(0, STEP_NS, np.zeros((3, 1)), np.full((5, 1), 10.0), p)
    with pytest.raises(ContractError, match='rest is needed'):
        Plan.from_jerk(0, STEP_NS, np.zeros((3, 1)), np.full((5, 1), np.nan), p)


def test_chords_lie_inside_the_envelope_of_the_fr3():
    limits = robot_of('fr3', 'hardware').limits
    envelope = inscribe_envelope(limits)
    chords = envelope.chords
    assert {c.joint for c in chords} == set(range(7))
    assert (envelope.upper_rad > limits.upper_rad - 0.01).all()
    assert (envelope.lower_rad < limits.lower_rad + 0.01).all()
    q = np.linspace(envelope.lower_rad, envelope.upper_rad, 3001)
    low, high = limits.velocity_bounds(q)
    upper = np.tile(limits.velocity_rad_s, (len(q), 1))
    lower = -upper
    for c in chords:
        line = c.slope * q[:, c.joint] + c.offset
        if c.upper:
            upper[:, c.joint] = np.minimum(upper[:, c.joint], line)
        else:
            lower[:, c.joint] = np.maximum(lower[:, c.joint], line)
    assert (upper <= high + 1e-9).all() and (lower >= low - 1e-9).all()
    assert (upper >= 0).all() and (lower <= 0).all(), 'standing still must be allowed everywhere'
    # The chords give away little.
    assert np.mean(upper) > 0.95 * np.mean(high)


def test_robots_without_an_envelope_need_no_chords():
    assert inscribe_envelope(robot_of('panda', 'lab').limits).chords == ()


@pytest.mark.parametrize('tracker', ['mpc', 'pid'])
@pytest.mark.parametrize('name', ['panda', 'fr3', 'ur5e'])
def test_any_reference_gives_admissible_plans_that_end_at_rest(tracker, name):
    robot = robot_of(name, 'lab')
    witness = Witness(robot)
    rng = np.random.default_rng(7)
    joints = len(robot.joint_names)
    planner = Planner(robot, ControllerConfig(tracker=tracker))
    planner.start(robot.home_rad, 0)
    for k in range(1, 120):
        size = rng.choice([0.01, 0.3, 3.0, 1e6])
        reference = robot.home_rad + size * rng.normal(size=(30, joints))
        velocity = size * rng.normal(size=(30, joints))
        planner.follow(k * STEP_NS, reference, velocity, 10 * velocity)
        plan = planner.plan
        times = plan.start_ns + plan.step_ns * np.arange(plan.steps + 1)
        witness.check_plan(times, plan.position, plan.velocity, plan.acceleration, plan.jerk)
    assert planner.counts.infeasible == 0
    assert planner.counts.committed > 20
    assert dict(witness.violations) == {}, witness.first


@pytest.mark.parametrize('tracker', ['mpc', 'pid'])
def test_a_solver_that_fails_keeps_the_plan(tracker, monkeypatch):
    robot = robot_of()
    planner = Planner(robot, ControllerConfig(tracker=tracker))
    planner.start(robot.home_rad, 0)
    goal = np.repeat(robot.home_rad[None] + 0.01, 30, axis=0)
    still = np.zeros_like(goal)
    for k in range(1, 10):
        planner.follow(k * STEP_NS, goal, still, still)
    kept = planner.plan.shifted(1)
    monkeypatch.setattr(planner._tracker, 'solve', lambda *a: None)
    planner.follow(10 * STEP_NS, goal, still, still)
    np.testing.assert_array_equal(planner.plan.position, kept.position)
    assert planner.counts.infeasible == 1 and planner.counts.in_a_row == 1


def test_a_plan_that_leads_astray_is_rejected_with_names_and_numbers():
    robot = robot_of()
    planner = Planner(robot, ControllerConfig())
    plan = Plan.hold(robot.home_rad, 0, STEP_NS, 30)
    position = np.array(plan.position)
    position[5:, 2] = 4.0
    rejection = planner.verifier.check(
        Plan.of(0, STEP_NS, position, plan.velocity, plan.acceleration, plan.jerk))
    assert rejection.limit == 'position' and rejection.subject == robot.joint_names[2]
    text = rejection.describe(0)
    assert '4 rad' in text and f'{robot.limits.upper_rad[2]:.5g}' in text and 'ms ahead' in text


def test_nan_in_a_plan_is_rejected():
    robot = robot_of()
    planner = Planner(robot, ControllerConfig())
    plan = Plan.hold(robot.home_rad, 0, STEP_NS, 30)
    for field in ('position', 'velocity', 'acceleration', 'jerk'):
        values = {f: np.array(getattr(plan, f)) for f in ('position', 'velocity', 'acceleration', 'jerk')}
        values[field][7, 1] = np.nan
        assert planner.verifier.check(Plan.of(0, STEP_NS, **values)) is not None, field


@pytest.mark.parametrize(('name', 'value'), [
    ('tracker', 'lqr'), ('rate_hz', 0.0), ('horizon_steps', 3), ('plan_period_ns', 1), ('blend_s', -1.0),
    ('reset_cooldown_s', 0.1), ('clock_slew_per_s', float('nan'))])
def test_bad_configuration_is_refused_by_name(name, value):
    with pytest.raises(ContractError, match=name):
        ControllerConfig(**{name: value})


def test_bad_weights_are_refused():
    with pytest.raises(ContractError, match='positive'):
        ControllerConfig(mpc=MpcWeights(jerk=0.0))
