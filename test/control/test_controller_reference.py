"""Chunks on the absolute timeline: C2 seams, first chunk at the measured state, no jumps."""

from arm_double import STEP_NS, Arm, chunk_of, robot_of
from hypothesis import given, settings
from hypothesis import strategies as st
from limit_witness import Witness
import numpy as np
import pytest

from cosmos3_ros.control.reference import Bridge, ChunkSpline, Reference

DT = 1 / 15


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_the_spline_passes_its_rows_is_c2_and_ends_at_rest(rows, seed):
    q = np.random.default_rng(seed).normal(size=(rows, 2))
    spline = ChunkSpline.through(3.0, DT, q)
    knots = 3.0 + DT * np.arange(rows)
    np.testing.assert_allclose(spline.evaluate(knots)[0], q, atol=1e-9)
    eps = 1e-9
    for knot in knots[1:-1]:
        before, after = (spline.evaluate(np.array([knot + d])) for d in (-eps, eps))
        np.testing.assert_allclose(before[1], after[1], atol=1e-4)
        np.testing.assert_allclose(before[2], after[2], atol=1e-3)
    q_end, v, a, j = spline.evaluate(np.array([knots[-1] + 1.0]))
    np.testing.assert_allclose(q_end[0], q[-1])
    assert not v.any() and not a.any() and not j.any()
    assert np.abs(spline.evaluate(np.array([knots[-1] - eps]))[1]).max() < 1e-4


def test_spline_derivatives_match_differences():
    q = np.random.default_rng(0).normal(size=(12, 3))
    spline = ChunkSpline.through(0.0, DT, q)
    t = np.linspace(0.01, 0.7, 57)
    eps = 1e-5
    up, down, here = spline.evaluate(t + eps), spline.evaluate(t - eps), spline.evaluate(t)
    np.testing.assert_allclose((up[0] - down[0]) / (2 * eps), here[1], atol=1e-5)
    np.testing.assert_allclose((up[1] - down[1]) / (2 * eps), here[2], atol=1e-3)


@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3), st.floats(0.05, 1.0))
@settings(max_examples=40, deadline=None)
def test_the_bridge_starts_at_the_offset_and_vanishes_c2(offset, blend):
    bridge = Bridge.away(1.0, blend, np.array(offset)[:, None])
    q, v, a, _ = bridge.evaluate(np.array([1.0]))
    np.testing.assert_allclose([q[0, 0], v[0, 0], a[0, 0]], offset, atol=1e-9)
    # The third derivative jumps there, by at most some 60 e / T^3, so the second is small just before.
    near = bridge.evaluate(np.array([1.0 + blend * (1 - 1e-7)]))
    np.testing.assert_allclose([near[i][0, 0] for i in range(3)], 0, atol=1e-6 * 3 * 100 / blend**2)
    assert not any(x.any() for x in bridge.evaluate(np.array([1.0 + blend + 1e-9, 9.0])))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_any_sequence_of_splices_is_c2(seed):
    """However chunks disagree and whenever they come, even within a blend or before their first row."""
    rng = np.random.default_rng(seed)
    reference = Reference.hold(rng.normal(size=2), 0.0, 0.2)
    now = 0.0
    for _ in range(8):
        now += rng.uniform(0.0, 0.4)
        start = now + rng.uniform(-1.0, 0.3)
        spline = ChunkSpline.through(start, DT, rng.normal(size=(rng.integers(1, 20), 2)))
        before = reference
        reference, seam = reference.spliced(spline, now, 0.2)
        assert seam['position'] < 1e-9 and seam['velocity'] < 1e-8 and seam['acceleration'] < 1e-6
        # At the instant itself nothing changes, and what was to come until the splice neither.
        if now < reference.splice_s:
            times = np.linspace(now, reference.splice_s - 1e-6, 5)
            base = before.previous if before.previous is not None and now < before.splice_s else before
            for new, old in zip(reference.evaluate(times), base.evaluate(times), strict=True):
                np.testing.assert_allclose(new, old)
        for kink in (reference.splice_s, reference.splice_s + 0.2):
            low, high = (reference.evaluate(np.array([kink + d])) for d in (-1e-9, 1e-9))
            np.testing.assert_allclose(low[0], high[0], atol=1e-6)
            np.testing.assert_allclose(low[1], high[1], atol=1e-4)


def test_agreeing_chunks_are_followed_exactly():
    times = np.arange(1, 60) * DT
    path = np.sin(times)[:, None]
    reference, _ = Reference.hold(path[0], 0.0, 0.2).spliced(ChunkSpline.through(DT, DT, path[:32]), 0.0, 0.2)
    inner, seam = reference.spliced(ChunkSpline.through(DT * 11, DT, path[10:42]), 1.0, 0.2)
    # The two splines differ only by the end condition of the first, far away.
    assert seam['gap_position'] < 1e-5
    t = np.linspace(1.0, 1.5, 50)
    np.testing.assert_allclose(inner.evaluate(t)[0], reference.evaluate(t)[0], atol=1e-4)


def test_chains_of_references_do_not_grow():
    reference = Reference.hold(np.zeros(1), 0.0, 0.2)
    for k in range(50):
        reference, _ = reference.spliced(ChunkSpline.through(k + 5.0, DT, np.ones((4, 1)) * k), float(k), 0.2)
        depth, at = 0, reference
        while at is not None:
            depth, at = depth + 1, at.previous
        assert depth <= 2


def test_the_first_chunk_starts_at_the_measured_state_however_far_it_is():
    robot = robot_of()
    arm = Arm(robot, witness=Witness(robot)).armed()
    rows = np.repeat(robot.home_rad[None] + 0.4, 32, axis=0)
    assert arm.submit(rows).accepted
    command = arm.step()
    np.testing.assert_allclose(command.position, robot.home_rad, atol=1e-6)
    arm.run(2.0)
    # One chunk of 2.1 s at the pace that the limits allow does not reach it all, but it goes there.
    assert (arm.position - robot.home_rad > 0.05).all()
    assert dict(arm.witness.violations) == {}, arm.witness.first


@pytest.mark.parametrize('latency_s', [0.05, 0.6, 1.5])
def test_chunks_seen_at_rest_start_at_their_first_row_however_late_they_come(latency_s):
    """What a slow policy asks of an arm at rest is done from its beginning, and the next one agrees."""
    robot = robot_of()
    arm = Arm(robot).armed()
    arm.run(latency_s)
    t = DT * np.arange(1, 33)
    rows = robot.home_rad + 0.3 * (1 - np.cos(1.2 * t))[:, None]
    assert arm.submit(rows, age_s=latency_s).accepted
    # Seen a moment later, at rest as well, and arriving in the midst of the motion.
    arm.run(0.4)
    moved = np.abs(arm.position - robot.home_rad).max()
    assert 0.0 < moved < 0.05
    assert arm.submit(rows, age_s=latency_s + 0.4 - 1e-3).accepted
    seam = arm.state().seam
    # The first one is still being blended in.
    assert seam['gap_position'] < 5e-3 and seam['gap_velocity'] < 0.03
    highest = max(np.abs(c.velocity).max() for c in arm.run(3.5).commands)
    assert highest < 1.1 * 0.3 * 1.2, 'nothing is hurried'
    np.testing.assert_allclose(arm.position, rows[-1], atol=2e-3)


def test_after_a_chunk_has_run_out_the_next_starts_at_its_first_row():
    robot = robot_of()
    arm = Arm(robot).armed()
    assert arm.submit(arm.swing(0.05, rows=8)).accepted
    arm.run(3.0)
    rest = arm.position.copy()
    t = DT * np.arange(1, 33)
    assert arm.submit(rest + 0.3 * (1 - np.cos(1.2 * t))[:, None], age_s=1.2).accepted
    assert arm.state().seam['gap_position'] < 2e-3
    arm.run(0.2)
    assert np.abs(arm.position - rest).max() < 0.02


def test_a_smooth_motion_is_tracked_without_lag():
    robot = robot_of()
    arm = Arm(robot).armed()
    start = arm.now_ns

    def path(t):
        return robot.home_rad + 0.1 * (1 - np.cos(1.5 * t))[:, None]

    for _ in range(8):
        t0 = (arm.now_ns - start) * 1e-9 - 0.2
        assert arm.submit(path(np.maximum(t0 + DT * np.arange(1, 33), 0.0)), age_s=0.2).accepted
        arm.run(0.5)
    late = [c for c in arm.commands if c.stamp_ns - start > 2e9]
    t = np.array([(c.stamp_ns - start) * 1e-9 for c in late])
    q = np.stack([c.position for c in late])
    error = {lag: np.sqrt(np.mean((q - path(t - lag)) ** 2)) for lag in np.arange(-0.03, 0.031, 0.005)}
    best = min(error, key=error.get)
    assert abs(best) <= 0.006 and error[best] < 1e-3
    assert arm.state().seam['velocity'] < 1e-6 * robot.limits.velocity_rad_s.min()


@pytest.mark.parametrize(('shift_s', 'word'), [
    (-2.4, 'stale'), (0.5, 'future'), (0.0, 'duplicated'), (-0.05, 'regressing')])
def test_stamps_that_make_no_sense_are_refused_with_numbers(shift_s, word):
    arm = Arm().armed()
    assert arm.submit(arm.swing(), age_s=0.0).accepted
    verdict = arm.submit(arm.swing(), age_s=-shift_s)
    assert not verdict.accepted and word in verdict.reason
    assert arm.state().last_rejection == verdict.reason and arm.state().chunks_rejected == 1


def test_columns_are_put_in_order_and_wrong_names_listed():
    arm = Arm().armed()
    names = arm.robot.joint_names
    order = [6, 5, 4, 3, 2, 1, 0]
    rows = arm.swing(0.05)
    shuffled = chunk_of(arm.robot, arm.now_ns, rows[:, order], names=tuple(names[i] for i in order))
    assert arm.controller.submit(shuffled, arm.now_ns).accepted
    np.testing.assert_allclose(arm.controller._timeline.reference.spline.position, rows)
    wrong = chunk_of(arm.robot, arm.now_ns + 1, rows, names=tuple(f'x{i}' for i in range(7)))
    verdict = arm.controller.submit(wrong, arm.now_ns)
    assert not verdict.accepted and names[0] in verdict.reason and 'x3' in verdict.reason


def test_rows_out_of_reach_are_refused_by_joint_row_and_number():
    arm = Arm(robot_of('fr3', 'lab')).armed()
    rows = np.array(arm.swing(0.01))
    rows[:, 5] = 0.0
    verdict = arm.submit(rows)
    assert not verdict.accepted
    assert arm.robot.joint_names[5] in verdict.reason and 'reach_tolerance_rad' in verdict.reason
    rows[:, 5] = arm.robot.limits.lower_rad[5] - 0.01
    verdict = arm.submit(rows)
    assert verdict.accepted and 'moved to the limit' in verdict.reason


def test_rows_are_due_at_absolute_times_gripper_too():
    arm = Arm().armed()
    rows = np.repeat(arm.robot.home_rad[None], 32, axis=0)
    gripper = np.zeros(32)
    gripper[10:] = 1.0
    assert arm.submit(rows, age_s=0.0, gripper=gripper).accepted
    stamp = arm.now_ns
    # The ramp delays the first chunk's rows.
    arm.controller._timeline.governor._ramp_ns = None
    arm.controller._timeline.clock._pace = 1.0
    arm.run(1.0)
    closed = [c.stamp_ns for c in arm.commands if c.gripper == 1.0]
    assert abs(closed[0] - (stamp + 11 * STEP_NS)) < 30_000_000
