"""An arm that rests where it is asked to rest is not planned for again, and leaves at once when asked."""

from arm_double import Arm, robot_of
import numpy as np
import pytest


def counted(arm, monkeypatch):
    solved, tracker = [], arm.controller.planner._tracker
    solve = tracker.solve
    monkeypatch.setattr(tracker, 'solve', lambda *a: solved.append(arm.now_ns) or solve(*a))
    return solved


def test_without_chunks_nothing_is_solved_and_the_arm_stands(monkeypatch):
    arm = Arm().armed()
    solved = counted(arm, monkeypatch)
    before = arm.position.copy()
    arm.run(1.0)
    assert not solved
    np.testing.assert_array_equal(arm.position, before)
    assert arm.state().plans_committed >= 45 and arm.state().plans_rejected == 0


def test_it_rests_again_after_a_chunk_and_close_to_its_end(monkeypatch):
    arm = Arm().armed()
    rows = np.repeat(arm.position[None] + 0.05, 16, axis=0)
    assert arm.submit(rows, age_s=0.0).accepted
    arm.run(5.0)
    np.testing.assert_allclose(arm.position, rows[-1], atol=2e-5)
    solved = counted(arm, monkeypatch)
    arm.run(1.0)
    assert not solved


@pytest.mark.parametrize('size', [2e-4, 0.05])
def test_a_chunk_is_followed_from_the_next_plan_on(size, monkeypatch):
    arm = Arm(enable_ramp_s=0.0).armed().run(0.5)
    solved = counted(arm, monkeypatch)
    assert arm.submit(np.repeat(arm.position[None] + size, 16, axis=0), age_s=0.0).accepted
    arm.run(0.2)
    assert solved
    start = robot_of().home_rad
    arm.run(3.0)
    np.testing.assert_allclose(arm.position, start + size, atol=2e-5)


def test_pid_has_a_state_of_its_own_and_goes_on(monkeypatch):
    arm = Arm(tracker='pid').armed()
    solved = counted(arm, monkeypatch)
    arm.run(0.5)
    assert solved
