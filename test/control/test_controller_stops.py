"""Every stop source brings the arm to rest inside all limits and latches its own reason."""

from arm_double import TICK_NS, Arm, robot_of
from limit_witness import Witness
import numpy as np
import pytest

from cosmos3_ros.contracts import ControllerMode, StopReason


def moving(**config):
    """Return an arm in the middle of a motion, watched."""
    robot = robot_of()
    arm = Arm(robot, witness=Witness(robot), **config).armed()
    assert arm.submit(arm.swing(0.3)).accepted
    arm.run(1.2)
    assert np.abs(arm.velocity).max() > 0.05
    return arm


def rest(arm, reason, word, seconds=1.5):
    """Let the stop end and check it."""
    arm.run(seconds)
    state = arm.state()
    assert state.mode is ControllerMode.STOPPED
    assert state.stop_reason is reason, state.stop_detail
    assert word in state.stop_detail
    assert np.abs(arm.commands[-1].velocity).max() <= 1e-4
    assert dict(arm.witness.violations) == {}, arm.witness.first


def test_stale_joint_state():
    arm = moving()
    arm.reports = False
    rest(arm, StopReason.STALE_JOINT_STATE, 'joint_state_stale_s', 2.5)


def test_tracking_error_yields_towards_the_measured_arm():
    arm = moving(tracking_error_rad=0.03)
    arm.follows = False
    blocked = arm.position
    arm.velocity = np.zeros(7)
    rest(arm, StopReason.TRACKING_ERROR, 'tracking_error_rad', 3.0)
    # The stop ends nearer to the blocked arm than the command was when it stopped.
    assert np.abs(arm.commands[-1].position - blocked).max() < 0.02


PUSHED = {
    'sags': lambda t: (-0.03, 0.0), 'swings': lambda t: (0.03 * np.sin(6.0 * t), 0.18 * np.cos(6.0 * t)),
    'is carried away': lambda t: (0.1 * t, 0.1)}


def push(arm, how, seconds):
    """Show an arm beside its commands until it is stopped; return how long that took."""
    began_ns = arm.now_ns
    while arm.mode is ControllerMode.STOPPING and arm.now_ns - began_ns < seconds * 1e9:
        offset, speed = PUSHED[how]((arm.now_ns - began_ns) * 1e-9)
        arm.offset = offset * np.eye(7)[3]
        arm.velocity = arm.velocity + speed * np.eye(7)[3]
        arm.step()
    return (arm.now_ns - began_ns) * 1e-9


@pytest.mark.parametrize('stop_yield_s', [0.0, 0.4, 1.0])
@pytest.mark.parametrize('pushed', PUSHED)
def test_a_stop_that_yields_ends_whatever_the_measured_arm_does(pushed, stop_yield_s):
    """An arm that is never where it was told: beside each command, back and forth, ever further."""
    arm = moving(stop_yield_s=stop_yield_s)
    arm.controller.stop(StopReason.TRACKING_ERROR, 'a test', arm.now_ns)
    config, waited_s = arm.controller.config, push(arm, pushed, 10.0)
    # The brake itself takes no longer than the plan's horizon. What sags stands, what is carried away never
    # does, what swings stands where it turns.
    horizon_s = config.horizon_steps * config.plan_period_ns * 1e-9
    least_s, most_s = {'sags': (0.0, 0.0), 'swings': (0.0, 1.0), 'is carried away': (1.0, 1.0)}[pushed]
    assert least_s * config.stop_timeout_s < waited_s
    assert waited_s < stop_yield_s + horizon_s + most_s * config.stop_timeout_s + 0.05
    rest(arm, StopReason.TRACKING_ERROR, 'a test', 0.1)


@pytest.mark.parametrize('ends', ['disarm', 'shutdown'])
def test_who_ends_motion_does_not_wait_for_an_arm_that_is_yielded_to(ends):
    arm = moving(stop_yield_s=10.0)
    arm.controller.stop(StopReason.TRACKING_ERROR, 'a test', arm.now_ns)
    assert push(arm, 'sags', 1.0) >= 1.0
    if ends == 'disarm':
        assert not arm.controller.disarm(arm.now_ns).accepted  # the stop stays latched
    else:
        arm.controller.stop(StopReason.SHUTDOWN, 'the process ends', arm.now_ns)
    assert push(arm, 'sags', 10.0) < 0.65
    rest(arm, StopReason.TRACKING_ERROR, 'a test', 0.1)


def test_a_stale_chunk_holds_by_default_and_resumes():
    arm = moving()
    arm.run(4.0)
    assert arm.mode is ControllerMode.RUNNING
    assert 'chunk:run_out' in arm.state().active_limits
    assert np.abs(arm.velocity).max() < 1e-3
    assert arm.submit(arm.swing(0.1)).accepted
    arm.run(1.0)
    assert np.abs(arm.velocity).max() > 0.01
    assert dict(arm.witness.violations) == {}


def test_a_stale_chunk_stops_where_asked_for():
    rest(moving(stop_on_stale_chunk=True), StopReason.STALE_CHUNK, 'chunk_stale_s', 4.5)


@pytest.mark.parametrize('jump_s', [-3.0, -0.02, 0.5, 1e6])
def test_clock_jump_continues_the_motion_and_stops(jump_s):
    arm = moving()
    last = arm.commands[-1]
    arm.now_ns += int(jump_s * 1e9)
    command = arm.step()
    # The command goes on by one period, whatever the clock says.
    step = np.abs(command.position - last.position).max()
    assert step < 1.5 * np.abs(last.velocity).max() * TICK_NS * 1e-9
    arm.witness.restart()
    rest(arm, StopReason.CLOCK_JUMP, 'the clock moved')


def test_a_clock_that_hesitates_is_no_jump():
    arm = moving()
    arm.step(-3_000_000)
    arm.step(8_000_000)
    arm.run(0.1)
    assert arm.mode is ControllerMode.RUNNING


def test_a_late_tick_stops_without_a_step_in_the_command():
    arm = moving()
    last = arm.commands[-1]
    command = arm.step(80_000_000)
    assert np.abs(command.position - last.position).max() < 1.5 * np.abs(last.velocity).max() * TICK_NS * 1e-9
    arm.witness.restart()
    rest(arm, StopReason.OVERRUN, 'overrun_stop_ns')


def test_reported_overruns_are_counted_and_a_long_one_stops():
    arm = moving()
    arm.controller.report_overrun(3_000_000, arm.now_ns)
    assert arm.mode is ControllerMode.RUNNING and arm.state().overruns == 1
    arm.controller.report_overrun(90_000_000, arm.now_ns)
    rest(arm, StopReason.OVERRUN, '90.0 ms late')


def test_a_measured_jump_is_no_measurement():
    arm = moving()
    arm.offset = np.array([0, 0, 0.5, 0, 0, 0, 0])
    arm.step()
    rest(arm, StopReason.INVALID_STATE, arm.robot.joint_names[2])


def test_a_measurement_out_of_range_is_invalid():
    arm = moving()
    position = np.array(arm.position)
    position[1] = 9.0
    arm.now_ns += TICK_NS
    arm.measure(position=position)
    rest(arm, StopReason.INVALID_STATE, arm.robot.joint_names[1])


def test_an_external_force_stops():
    arm = moving()
    arm.controller.report_wrench(np.array([0.0, 3.0, 0.0]))
    assert arm.mode is ControllerMode.RUNNING
    arm.controller.report_wrench(np.array([0.0, 300.0, 0.0]))
    rest(arm, StopReason.EXTERNAL_FORCE, '300.0 N')


def test_a_stale_speed_scale_slows_to_a_stop():
    arm = moving()
    arm.controller.set_speed_scale(1.0, arm.now_ns)
    rest(arm, StopReason.SPEED_SCALE_STALE, 'speed_scale_stale_s', 4.0)


def test_a_reference_that_stays_in_the_table_is_a_limit_storm():
    robot = robot_of()
    arm = Arm(robot, witness=Witness(robot), project=False, limit_storm_plans=30).armed()
    down = np.array(robot.home_rad)
    down[1] += 1.6
    for _ in range(8):
        arm.submit(np.repeat(down[None], 32, axis=0))
        arm.run(0.5)
    state = arm.state()
    assert state.stop_reason is StopReason.LIMIT_STORM
    assert 'is allowed' in state.stop_detail and 'rejected' in state.stop_detail
    assert dict(arm.witness.violations) == {}, arm.witness.first


def test_projection_rests_above_the_table_instead():
    robot = robot_of()
    arm = Arm(robot, witness=Witness(robot), limit_storm_plans=30).armed()
    down = np.array(robot.home_rad)
    down[1] += 1.6
    for _ in range(8):
        verdict = arm.submit(np.repeat(down[None], 32, axis=0))
        assert verdict.accepted and 'moved' in verdict.reason
        arm.run(0.5)
    assert arm.mode is ControllerMode.RUNNING
    assert dict(arm.witness.violations) == {}, arm.witness.first
