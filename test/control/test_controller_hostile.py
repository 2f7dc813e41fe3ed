"""Ten families of hostile chunks, random starts, stops and clocks: never a limit, always to rest."""

from arm_double import Arm, robot_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limit_witness import Witness
import numpy as np
import pytest

from cosmos3_ros.contracts import ContractError, ControllerMode, StopReason
from cosmos3_ros.control.fuzz import run_fuzz
from cosmos3_ros.control.fuzz_session import draw_pose
from cosmos3_ros.control.hostile import FAMILIES, HostileChunks, make_chunk

ROBOTS = (('panda', 'lab'), ('fr3', 'hardware'), ('ur5e', 'commissioning'))


@pytest.mark.parametrize('family', FAMILIES)
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32 - 1), st.sampled_from(ROBOTS), st.sampled_from(['mpc', 'pid']), st.booleans())
def test_no_family_breaks_a_limit(family, seed, which, tracker, bend):
    robot = robot_of(*which)
    rng = np.random.default_rng(seed)
    witness = Witness(robot, dense=5)
    arm = Arm(robot, draw_pose(robot, rng), witness, tracker=tracker,
              reach_tolerance_rad=np.inf if bend else 0.05).armed()
    chunks = HostileChunks(robot, family, rng)
    for _ in range(6):
        try:
            chunk = chunks.draw(arm.position, arm.now_ns)
        except ContractError:
            chunk = None
        if chunk is not None:
            arm.controller.submit(chunk, arm.now_ns)
        if rng.random() < 0.3:
            arm.controller.set_speed_scale(rng.random(), arm.now_ns)
        arm.run(0.2)
    arm.controller.stop(StopReason.OPERATOR, 'end', arm.now_ns)
    arm.run(1.2)
    assert arm.mode is ControllerMode.STOPPED
    assert np.abs(arm.commands[-1].velocity).max() <= 1e-4
    assert dict(witness.violations) == {}, witness.first
    assert arm.controller.planner.counts.infeasible == 0


def run_scripted(seed, tracker):
    robot = robot_of()
    rng = np.random.default_rng(seed)
    arm = Arm(robot, tracker=tracker).armed()
    chunks = HostileChunks(robot, 'in_limit', rng)
    for _ in range(5):
        arm.controller.submit(chunks.draw(arm.position, arm.now_ns), arm.now_ns)
        arm.run(0.2)
    return b''.join(
        c.position.tobytes() + c.velocity.tobytes() + c.acceleration.tobytes() for c in arm.commands)


@pytest.mark.parametrize('tracker', ['mpc', 'pid'])
def test_the_same_inputs_give_identical_bytes(tracker):
    assert run_scripted(3, tracker) == run_scripted(3, tracker)


def test_refused_chunks_change_nothing():
    """A controller that is also sent rubbish commands the same bytes as one that is not."""
    robot = robot_of()
    runs = []
    for rubbish in (False, True):
        arm = Arm(robot).armed()
        start_ns = arm.now_ns
        for k in range(5):
            stamp = start_ns + k * 200_000_000
            rows = robot.home_rad + 0.1 * np.sin(0.1 * np.arange(32) + k)[:, None]
            assert arm.controller.submit(make_chunk(robot.joint_names, stamp, rows), arm.now_ns).accepted
            if rubbish:
                for family in ('huge', 'uniform'):
                    rows = HostileChunks(robot, family, np.random.default_rng(k)).rows(family, rows[0], 0)
                    bad = make_chunk(robot.joint_names, stamp + 1, rows)
                    assert not arm.controller.submit(bad, arm.now_ns).accepted
            arm.run(0.2)
        runs.append(b''.join(c.position.tobytes() for c in arm.commands))
    assert runs[0] == runs[1]


def test_the_fuzz_reports_what_the_bench_prints_and_reproduces_by_seed():
    robots = [robot_of('panda', 'lab')]
    first, second = (
        run_fuzz(1200, 4, Witness, robots, ['mpc'], ['in_limit', 'malformed']) for _ in range(2))
    keys = {'ticks', 'violations', 'worst_margin', 'plan_ms', 'tick_us', 'rejected', 'infeasible', 'seed'}
    assert keys <= set(first)
    assert first['violations'] == {} and first['infeasible'] == 0
    assert first['rejected']['in_limit'] < 0.5 < first['rejected']['malformed']
    for key in ('worst_margin', 'rejected', 'plans', 'stops'):
        assert first[key] == second[key]
    other = run_fuzz(1200, 5, Witness, robots, ['mpc'], ['in_limit', 'malformed'])
    assert other['worst_margin'] != first['worst_margin']


def test_the_fuzz_refuses_to_run_nothing():
    with pytest.raises(ValueError, match='mpc, pid'):
        run_fuzz(10, 0, Witness, [robot_of()], ['lqr'])


def test_the_witness_does_see_violations():
    """The test of the tests: each limit, broken on purpose, is noticed."""
    robot = robot_of()
    limits = robot.limits
    n = len(robot.joint_names)
    home, still = robot.home_rad, np.zeros(n)
    cases = {
        'position': (limits.upper_rad + 0.01, still, still),
        'velocity': (home, limits.velocity_rad_s * 1.01, still),
        'acceleration': (home, still, limits.acceleration_rad_s2 * 1.01),
    }
    for limit, sample in cases.items():
        witness = Witness(robot)
        witness.check_command(0, *sample)
        assert witness.violations[limit] == 1
    witness = Witness(robot)
    witness.check_command(0, home, still, still)
    witness.check_command(2_000_000, home + 0.01, still, still)
    assert witness.violations['step_velocity'] and witness.violations['consistency']
    witness = Witness(robot)
    folded = np.array(home)
    folded[1] += 1.6
    nodes = np.tile(folded, (3, 1))
    zero = np.zeros((3, n))
    witness.check_plan(np.array([0, 20_000_000, 40_000_000]), nodes, zero, zero, zero[:2])
    assert witness.violations['table']
