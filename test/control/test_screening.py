"""The short cut of the verification admits nothing that the long way refuses."""

from arm_double import robot_of
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from cosmos3_ros.control.envelope import inscribe_envelope
from cosmos3_ros.control.fuzz_session import draw_pose
from cosmos3_ros.control.plan import Plan
from cosmos3_ros.control.triple_integrator import predict
from cosmos3_ros.control.verification import Verifier

STEP_NS = 20_000_000
PREDICTION = predict(30, STEP_NS * 1e-9)
SCREENS = ('admits_joints', 'admits_envelope', 'admits_space', 'admits_effort')
_verifiers = {}


def verifier_of(name):
    if name not in _verifiers:
        robot = robot_of(name, 'lab')
        _verifiers[name] = Verifier(robot, inscribe_envelope(robot.limits).chords)
    return _verifiers[name]


def plan_of(name, seed, scale):
    """A motion to rest of random size from a random pose; about half of them keep the limits."""
    robot, rng = robot_of(name, 'lab'), np.random.default_rng(seed)
    limits = robot.limits
    state = np.stack([
        draw_pose(robot, rng), rng.normal(size=len(limits.names)) * limits.velocity_rad_s * scale,
        rng.normal(size=len(limits.names)) * limits.acceleration_rad_s2 * scale])
    jerk = rng.normal(size=(30, len(limits.names))) * limits.jerk_rad_s3 * scale * 0.1
    end = np.stack([
        PREDICTION.free_v[-1] @ state + PREDICTION.forced_v[-1] @ jerk,
        PREDICTION.free_a[-1] @ state + PREDICTION.forced_a[-1] @ jerk])
    jerk = jerk + PREDICTION.rest_correction @ end
    return Plan.from_jerk(0, STEP_NS, state, jerk, PREDICTION)


@pytest.mark.parametrize('name', ['panda', 'fr3', 'ur5e'])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.0, 1.0))
def test_with_and_without_the_short_cut_the_verdict_is_the_same(name, seed, scale):
    verifier, plan = verifier_of(name), plan_of(name, seed, scale)
    quick = verifier.check(plan)
    with pytest.MonkeyPatch.context() as patch:
        for screen in SCREENS:
            patch.setattr(type(verifier._screen), screen, lambda *_: False)
        assert verifier.check(plan) == quick


@pytest.mark.parametrize('name', ['panda', 'fr3', 'ur5e'])
def test_the_short_cut_is_taken(name):
    """A slow motion in the open needs no segment to be looked at."""
    verifier, robot = verifier_of(name), robot_of(name, 'lab')
    reference = plan_of(name, 1, 0.02)
    nodes = np.array(reference.nodes)
    nodes[0] += robot.home_rad - nodes[0, 0]
    with pytest.MonkeyPatch.context() as patch:
        for check in ('_check_joints', '_check_chords', '_check_space', '_check_effort'):
            patch.setattr(verifier, check, lambda *_: pytest.fail('looked at every segment'))
        assert verifier.check(Plan(0, STEP_NS, nodes)) is None


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.0, 2.0))
@settings(max_examples=60, deadline=None)
def test_peaks_are_never_below_the_exact_extrema(seed, scale):
    plan = plan_of('panda', seed, scale)
    x, peaks = plan.extrema(), plan.peaks()
    for bound, exact in (
            (-peaks.position_min, -x.position_min), (peaks.position_max, x.position_max),
            (peaks.speed, x.speed_max), (peaks.acceleration, x.acceleration_max),
            (peaks.jerk, np.abs(plan.jerk))):
        assert (bound >= exact.max(axis=0) - 1e-12).all()
