"""The order of arm, stop, disarm and reset, and what each needs."""

from arm_double import TICK_NS, Arm
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from cosmos3_ros.contracts import ControllerMode, StopReason

Mode = ControllerMode


def test_nothing_works_before_warm_up_and_the_answer_says_so():
    arm = Arm()
    arm.measure()
    verdict = arm.controller.arm(arm.now_ns)
    assert not verdict.accepted and 'warm_up' in verdict.reason
    assert arm.controller.tick(arm.now_ns) is None
    assert arm.mode is Mode.UNCONFIGURED


def test_arming_needs_a_fresh_joint_state():
    arm = Arm()
    arm.controller.warm_up()
    assert 'no joint state' in arm.controller.arm(arm.now_ns).reason
    arm.measure()
    arm.now_ns += 150_000_000
    verdict = arm.controller.arm(arm.now_ns)
    assert not verdict.accepted
    assert '0.150 s old' in verdict.reason and 'joint_state_stale_s' in verdict.reason


def test_arming_needs_standstill():
    arm = Arm().ready()
    arm.now_ns += TICK_NS
    arm.measure(velocity=np.full(7, 0.05))
    verdict = arm.controller.arm(arm.now_ns)
    assert not verdict.accepted and '0.050 rad/s' in verdict.reason


def test_arming_outside_of_the_hardware_range_is_refused_by_name():
    arm = Arm()
    arm.controller.warm_up()
    position = np.array(arm.robot.home_rad)
    position[3] = arm.robot.hardware_limits.upper_rad[3] + 0.01
    arm.measure(position=position)
    verdict = arm.controller.arm(arm.now_ns)
    assert not verdict.accepted and arm.robot.joint_names[3] in verdict.reason


def test_an_armed_arm_without_a_chunk_stands_exactly_still():
    arm = Arm().armed().run(0.5)
    assert arm.mode is Mode.RUNNING
    for command in arm.commands:
        np.testing.assert_array_equal(command.position, arm.robot.home_rad)
        assert not command.velocity.any() and not command.acceleration.any()


def test_stop_brakes_latches_and_stays_until_reset():
    arm = Arm().armed()
    assert arm.submit(arm.swing(0.3)).accepted
    arm.run(1.0)
    assert np.abs(arm.velocity).max() > 0.05
    assert arm.controller.stop(StopReason.OPERATOR, 'red button', arm.now_ns).accepted
    assert arm.mode is Mode.STOPPING
    arm.run(1.0)
    state = arm.state()
    assert state.mode is Mode.STOPPED
    assert state.stop_reason is StopReason.OPERATOR and state.stop_detail == 'red button'
    assert arm.controller.tick(arm.now_ns) is None
    assert not arm.controller.arm(arm.now_ns).accepted
    assert not arm.submit(arm.swing()).accepted


def test_reset_needs_the_cooldown_goes_to_inactive_and_does_not_move():
    arm = Arm().armed().run(0.1)
    arm.controller.stop(StopReason.OPERATOR, '', arm.now_ns)
    arm.run(0.05)
    arm.measure(velocity=np.full(7, 0.1))
    arm.run(0.1)
    verdict = arm.controller.reset(arm.now_ns)
    assert not verdict.accepted and 'reset_cooldown_s' in verdict.reason
    arm.run(0.5)
    count = len(arm.commands)
    assert arm.controller.reset(arm.now_ns).accepted
    assert arm.mode is Mode.INACTIVE
    assert arm.state().stop_reason is StopReason.NONE
    arm.run(0.2)
    assert len(arm.commands) == count, 'a reset must not arm'


@pytest.mark.parametrize('mode', ['inactive', 'running', 'shadow'])
def test_reset_is_refused_unless_stopped(mode):
    arm = Arm().ready()
    if mode == 'running':
        arm.controller.arm(arm.now_ns)
    elif mode == 'shadow':
        arm.controller.start_shadow(arm.now_ns)
    verdict = arm.controller.reset(arm.now_ns)
    assert not verdict.accepted and 'STOPPED is needed' in verdict.reason


def test_reset_needs_a_fresh_joint_state():
    arm = Arm().armed().run(0.1)
    arm.controller.stop(StopReason.OPERATOR, '', arm.now_ns)
    arm.run(1.0)
    arm.now_ns += 10**9
    assert 'old' in arm.controller.reset(arm.now_ns).reason


def test_the_first_reason_stays():
    arm = Arm().armed().run(0.1)
    arm.controller.stop(StopReason.SHUTDOWN, 'first', arm.now_ns)
    second = arm.controller.stop(StopReason.OPERATOR, 'second', arm.now_ns)
    assert 'SHUTDOWN' in second.reason
    arm.run(1.0)
    assert (arm.state().stop_reason, arm.state().stop_detail) == (StopReason.SHUTDOWN, 'first')


def test_disarm_brakes_and_latches_nothing():
    arm = Arm().armed()
    arm.submit(arm.swing(0.3))
    arm.run(1.0)
    assert arm.controller.disarm(arm.now_ns).accepted
    arm.run(1.0)
    assert arm.mode is Mode.INACTIVE and arm.state().stop_reason is StopReason.NONE
    assert np.abs(arm.commands[-1].velocity).max() <= 1e-4


def test_a_stop_during_a_disarm_is_latched():
    arm = Arm().armed()
    arm.submit(arm.swing(0.3))
    arm.run(1.0)
    arm.controller.disarm(arm.now_ns)
    arm.controller.stop(StopReason.OPERATOR, '', arm.now_ns)
    arm.run(1.0)
    assert arm.mode is Mode.STOPPED and arm.state().stop_reason is StopReason.OPERATOR


@pytest.mark.parametrize('start', ['unconfigured', 'inactive', 'shadow'])
def test_a_stop_without_motion_latches_at_once(start):
    arm = Arm()
    if start != 'unconfigured':
        arm.ready()
    if start == 'shadow':
        arm.controller.start_shadow(arm.now_ns)
    arm.controller.stop(StopReason.OPERATOR, '', arm.now_ns)
    assert arm.mode is Mode.STOPPED
    assert not arm.controller.arm(arm.now_ns).accepted


def test_shadow_computes_what_would_be_sent_and_arming_starts_over():
    arm = Arm().ready()
    assert arm.controller.start_shadow(arm.now_ns).accepted
    assert arm.submit(arm.swing(0.2)).accepted
    arm.run(1.0)
    assert arm.mode is Mode.SHADOW
    assert np.abs(arm.commands[-1].position - arm.robot.home_rad).max() > 0.01
    assert arm.state().stop_reason is StopReason.NONE, 'an arm that is not driven has no tracking error'
    assert arm.controller.arm(arm.now_ns).accepted
    command = arm.step()
    np.testing.assert_array_equal(command.position, arm.position)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(
    ['arm', 'shadow', 'disarm', 'stop', 'reset', 'run', 'wait', 'chunk']), max_size=14))
def test_only_arm_leads_to_running_and_only_reset_leaves_stopped(actions):
    arm = Arm().ready()
    for action in actions:
        before = arm.mode
        controller, now = arm.controller, arm.now_ns
        if action == 'run':
            arm.run(0.05)
        elif action == 'wait':
            arm.run(0.7)
        elif action == 'chunk':
            arm.submit(arm.swing(0.1))
        elif action == 'stop':
            controller.stop(StopReason.OPERATOR, '', now)
        else:
            {'arm': controller.arm, 'shadow': controller.start_shadow, 'disarm': controller.disarm,
             'reset': controller.reset}[action](now)
        after = arm.mode
        if after is Mode.RUNNING and before is not Mode.RUNNING:
            assert action == 'arm'
        if before is Mode.STOPPED and after is not Mode.STOPPED:
            assert action == 'reset' and after is Mode.INACTIVE
        assert (arm.state().stop_reason is not StopReason.NONE) or after is not Mode.STOPPED
