"""The cheap bound never lies below the inverse dynamics, and never decides what it cannot."""

from dataclasses import replace

from arm_double import robot_of
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from cosmos3_ros.control.effort_bound import EffortBound
from cosmos3_ros.control.envelope import inscribe_envelope
from cosmos3_ros.control.plan import Plan
from cosmos3_ros.control.verification import Verifier

STEP_NS = 20_000_000
INSIDE = np.linspace(0.0, 1.0, 21)


def motion(robot, rng, scale, steps=12):
    """Segments of random constant jerk from a random state: no rest, no limits."""
    h, limits = STEP_NS * 1e-9, robot.limits
    q = rng.uniform(limits.lower_rad, limits.upper_rad)
    v = rng.normal(size=len(q)) * limits.velocity_rad_s * scale
    a = rng.normal(size=len(q)) * limits.acceleration_rad_s2 * scale
    jerk = rng.normal(size=(steps, len(q))) * limits.jerk_rad_s3 * scale
    rows = [(q, v, a)]
    for j in jerk:
        q, v, a = q + h * v + h * h / 2 * a + h**3 / 6 * j, v + h * a + h * h / 2 * j, a + h * j
        rows.append((q, v, a))
    return Plan.of(0, STEP_NS, *(np.stack(column) for column in zip(*rows, strict=True)), jerk)


def bound_of(robot, plan):
    x = plan.extrema()
    return EffortBound.of(robot).effort_and_change(
        robot.kinematics.chain(plan.position), x.speed_max, x.acceleration_max, np.abs(plan.jerk),
        plan.step_ns * 1e-9)


@pytest.mark.parametrize('name', ['panda', 'fr3'])
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.0, 3.0))
@settings(max_examples=60, deadline=None)
def test_the_bound_is_above_the_exact_effort_and_its_change(name, seed, scale):
    robot = robot_of(name)
    plan = motion(robot, np.random.default_rng(seed), scale)
    most, change = bound_of(robot, plan)
    exact = robot.dynamics.effort(plan.position, plan.velocity, plan.acceleration)
    size = np.abs(exact)
    assert (most >= np.maximum(size[:-1], size[1:]) * (1 - 1e-9) - 1e-9).all()
    assert (change >= np.abs(np.diff(exact, axis=0)) / (plan.step_ns * 1e-9) * (1 - 1e-9) - 1e-6).all()


def test_it_is_tight_enough_to_be_of_use():
    """In slow motion the bound of the joint that carries most is close to its exact effort."""
    robot = robot_of()
    rng = np.random.default_rng(0)
    ratio = []
    for _ in range(50):
        plan = motion(robot, rng, 0.005)
        exact = np.abs(robot.dynamics.effort(plan.position, plan.velocity, plan.acceleration))
        ratio.append((bound_of(robot, plan)[0].max(axis=0) / exact.max(axis=0))[1])
    assert np.median(ratio) < 1.5


@pytest.mark.parametrize('name', ['panda', 'fr3'])
def test_gravity_from_frames_is_gravity(name):
    robot = robot_of(name)
    q = np.random.default_rng(1).uniform(robot.limits.lower_rad, robot.limits.upper_rad, (40, 7))
    np.testing.assert_allclose(
        robot.dynamics.chain_gravity(robot.kinematics.chain(q)), robot.dynamics.gravity(q), atol=1e-10)


def verifier_of(robot):
    return Verifier(robot, inscribe_envelope(robot.limits).chords)


@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.2, 3.0))
@settings(max_examples=60, deadline=None)
def test_the_verdict_is_the_one_of_the_exact_check(seed, share):
    """Limits around what a motion needs: with and without the short cut the verdicts agree."""
    robot = robot_of()
    plan = motion(robot, np.random.default_rng(seed), 0.2)
    needed = np.abs(robot.dynamics.effort(plan.position, plan.velocity, plan.acceleration))
    rate = np.abs(np.diff(needed, axis=0)).max(axis=0) / (STEP_NS * 1e-9)
    limits = replace(
        robot.limits, effort_nm=needed.max(axis=0) * share + 1e-3, effort_rate_nm_s=rate * share + 1e-3)
    verifier = verifier_of(replace(robot, limits=limits))
    x, jerk, frames = plan.extrema(), np.abs(plan.jerk), robot.kinematics.chain(plan.position)
    short = verifier._check_effort(plan, x, jerk, frames)
    verifier._effort_bound = replace(
        verifier._effort_bound, inertia_kg_m2=verifier._effort_bound.inertia_kg_m2 + 1e9)
    assert short == verifier._check_effort(plan, x, jerk, frames)
    if share < 1.0:
        assert short is not None and short.limit in ('effort', 'effort_rate')


def test_without_numbers_the_exact_check_decides(monkeypatch):
    robot = robot_of()
    verifier = verifier_of(robot)
    plan = motion(robot, np.random.default_rng(0), 0.01)
    asked = []
    exact = robot.dynamics.effort
    monkeypatch.setattr(robot.dynamics, 'effort', lambda *a: asked.append(1) or exact(*a))
    x, jerk, frames = plan.extrema(), np.abs(plan.jerk), robot.kinematics.chain(plan.position)
    assert verifier._check_effort(plan, x, jerk, frames) is None and not asked
    assert verifier._check_effort(plan, x, jerk, frames * np.nan) is None and asked
