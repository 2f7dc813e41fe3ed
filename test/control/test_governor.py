"""The pace of the reference: ramp, speed scale, latency arithmetic, and the limits themselves."""

from arm_double import Arm, robot_of
from hypothesis import given, settings
from hypothesis import strategies as st
from limit_witness import Witness
import numpy as np
import pytest

from cosmos3_ros.contracts import ControllerMode, StopReason
from cosmos3_ros.control.latency import LatencyKind, LatencyMonitor, assess_latency
from cosmos3_ros.control.reference_clock import FREE_PACE, PaceProfile, ReferenceClock

STEP_S = 1 / 15


@pytest.mark.parametrize(('p99_s', 'kind', 'delay', 'scale'), [
    (0.3, LatencyKind.OVERLAP, 5, 1.0),
    (16 * STEP_S, LatencyKind.OVERLAP, 16, 1.0),        # exactly half of 32 rows
    (1.1, LatencyKind.SLOW, 17, 16 / 15 / 1.1),         # half of the horizon / latency
    (2.4, LatencyKind.SLOW, 36, 16 / 15 / 2.4),
    (6.0, LatencyKind.REFUSE, 90, 0.0),
])
def test_latency_against_a_droid_chunk(p99_s, kind, delay, scale):
    found = assess_latency(32, STEP_S, p99_s, 0.2)
    assert (found.kind, found.delay_steps) == (kind, delay)
    assert found.scale == pytest.approx(scale)
    for number in ('32', '66.7', f'{p99_s:.3f}', str(delay)):
        assert number in found.text


@given(st.integers(2, 200), st.floats(0.005, 0.2), st.floats(0.0, 20.0))
def test_the_pace_that_is_offered_does_overlap(horizon, step_s, p99_s):
    found = assess_latency(horizon, step_s, p99_s, 0.01)
    if found.kind is not LatencyKind.REFUSE:
        assert assess_latency(horizon, step_s, p99_s * found.scale, 0.01).kind is LatencyKind.OVERLAP
        assert 0.0 < found.scale <= 1.0


def test_p99_counts_after_enough_samples_and_forgets_old_ones():
    monitor = LatencyMonitor(10)
    for _ in range(9):
        monitor.record(0.5)
    assert monitor.p99_s is None
    assert not monitor.record(float('nan')) and not monitor.record(-1.0)
    monitor.record(2.0)
    assert monitor.p99_s == 2.0
    for _ in range(200):
        monitor.record(0.1)
    assert monitor.p99_s == 0.1


def run_latency(latency_s, **config):
    arm = Arm(latency_samples=5, **config).armed()
    for _ in range(5):
        arm.controller.record_latency(latency_s)
    return arm, arm.submit(arm.swing(), age_s=0.1)


def test_a_slow_policy_slows_the_clock():
    arm, verdict = run_latency(2.4)
    assert verdict.accepted
    arm.run(1.5)
    assert arm.state().speed_scale == pytest.approx(16 / 15 / 2.4, abs=0.01)
    assert 'governor:latency' in arm.state().active_limits


def test_a_policy_that_is_too_slow_is_refused_with_the_numbers():
    arm, verdict = run_latency(9.0)
    assert not verdict.accepted and '9.000 s' in verdict.reason and 'min_latency_scale' in verdict.reason
    assert arm.mode is ControllerMode.RUNNING


def test_or_stops_where_asked_for():
    arm, _ = run_latency(9.0, stop_on_latency=True)
    arm.run(1.0)
    assert arm.state().stop_reason is StopReason.LATENCY


@pytest.mark.parametrize('scale', [-0.1, 1.1, float('nan'), float('inf')])
def test_a_speed_scale_out_of_range_is_refused(scale):
    arm = Arm().armed()
    verdict = arm.controller.set_speed_scale(scale, arm.now_ns)
    assert not verdict.accepted and '0 to 1' in verdict.reason


@settings(max_examples=8, deadline=None)
@given(st.floats(0.0, 1.0))
def test_any_speed_scale_keeps_the_limits_and_slows_accordingly(scale):
    robot = robot_of()
    arm = Arm(robot, witness=Witness(robot), enable_ramp_s=0.0).armed()
    arm.submit(arm.swing(0.2, rate=0.5), age_s=0.0)
    for _ in range(10):
        arm.controller.set_speed_scale(scale, arm.now_ns)
        arm.run(0.1)
    expected = robot.home_rad + 0.2 * np.sin(0.5 * arm.controller._timeline.clock.reading_s)
    assert arm.state().speed_scale == pytest.approx(scale, abs=1e-6)
    np.testing.assert_allclose(arm.position, expected, atol=0.02)
    assert dict(arm.witness.violations) == {}, arm.witness.first


def test_scale_zero_holds_and_one_goes_on():
    arm = Arm().armed()
    arm.submit(arm.swing(0.3))
    arm.run(0.8)
    for _ in range(10):
        arm.controller.set_speed_scale(0.0, arm.now_ns)
        arm.run(0.1)
    held = arm.position
    assert np.abs(arm.velocity).max() < 1e-4
    for _ in range(8):
        arm.controller.set_speed_scale(1.0, arm.now_ns)
        arm.run(0.1)
    assert np.abs(arm.position - held).max() > 0.01


def test_a_required_speed_scale_is_waited_for():
    arm = Arm(speed_scale_required=True).armed()
    arm.submit(arm.swing(0.3))
    arm.run(0.5)
    np.testing.assert_allclose(arm.position, arm.robot.home_rad, atol=1e-9)


def test_the_ramp_starts_slowly():
    slow, fast = Arm(enable_ramp_s=2.0).armed(), Arm(enable_ramp_s=0.0).armed()
    for arm in (slow, fast):
        arm.submit(arm.swing(0.3))
        arm.run(0.5)
    moved = [np.abs(arm.position - arm.robot.home_rad).max() for arm in (slow, fast)]
    assert moved[0] < 0.3 * moved[1]


def test_chunks_faster_than_the_tool_may_be_are_slowed_not_bent():
    """The path in joint space stays the same line; only the time along it changes."""
    robot = robot_of('panda', 'commissioning')
    arm = Arm(robot, witness=Witness(robot)).armed()
    end = np.array(robot.home_rad)
    end[0] += 0.8
    t = np.minimum(np.arange(1, 33) / 20, 1.0)[:, None]
    arm.submit(robot.home_rad + t * (end - robot.home_rad))
    arm.run(3.0)
    q = np.stack([c.position for c in arm.commands])
    assert np.abs(q[:, 1:] - robot.home_rad[1:]).max() < 1e-3
    assert np.abs(q[-1, 0] - q[0, 0]) > 0.2
    assert dict(arm.witness.violations) == {}, arm.witness.first


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 20)), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_the_clock_never_jumps_nor_runs_faster_than_time(paces):
    clock = ReferenceClock(0, 4.0)
    now, step_ns = 0, 20_000_000
    readings = np.empty(0)
    steps = np.empty(0)
    last = 0.0
    for target, count in paces:
        for _ in range(count):
            now += step_ns
            clock.advance(now, readings, steps, step_ns)
            assert 0.0 <= clock.reading_s - last <= step_ns * 1e-9 + 1e-12
            last = clock.reading_s
            readings, steps = clock.predict(30, 0.02, target, FREE_PACE)
            assert (np.diff(readings) >= 0.0).all()
            assert (np.abs(np.diff(steps)) <= 4.0 * 0.02 + 1e-12).all()
    for stamp in range(0, now, 7_000_000):
        reading = clock.reading_at(stamp)
        assert reading is not None and reading <= stamp * 1e-9 + 1e-9


def test_readings_before_the_origin_run_freely_and_forgotten_ones_are_none():
    clock = ReferenceClock(10**9, 4.0)
    assert clock.reading_at(10**9 - 500_000_000) == pytest.approx(-0.5)
    for k in range(1, 1200):
        clock.advance(10**9 + k * 20_000_000, np.empty(0), np.empty(0), 20_000_000)
    assert clock.reading_at(10**9) is None


def test_a_pace_profile_takes_the_lower_neighbour():
    profile = PaceProfile(1.0, 0.1, [0.5, 0.2, 0.9], [0, 1, -1], ('a', 'b'))
    assert profile.at(1.05) == 0.2 and profile.at(1.15) == 0.2 and profile.at(0.5) == 1.0
    assert profile.cause(1.05) == 'a' and profile.cause(1.25) == ''
    assert PaceProfile(2.0, 0.1, [1.0], [-1], ()).after(profile).at(1.05) == 0.2
