"""The controller node on a real graph: nothing leaves it in SHADOW, and bad input only ever stops it."""

import time

import cosmos3_ros.msg as msg
from fake_arm import FakeArm
import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_graph import Graph, wait_for
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from cosmos3_ros.contracts import ControllerMode, StopReason
from cosmos3_ros.nodes.controller import ControllerNode
from cosmos3_ros.nodes.diagnostics import Report
from cosmos3_ros.nodes.messages import chunk_to_message

# Everything shares one interpreter here, so the test runs at a fifth of the real rate; the real rate runs
# in test_node_processes.py.
SLOW = {'rate_hz': 100.0, 'joint_state_stale_s': 1.5, 'overrun_stop_s': 5.0}
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Bench:
    """A controller in SHADOW, an arm, and the topics to watch."""

    def __init__(self, graph: Graph, **parameters: object) -> None:
        self.graph = graph
        self.arm = FakeArm(graph)
        self.states = graph.collect(msg.ControllerState, 'controller_state')
        self.node = graph.add(ControllerNode, **{**SLOW, **parameters})
        self.node.trigger_configure()
        assert self.node.state_label == 'inactive', self.node.failure
        self.node.trigger_activate()
        assert self.node.state_label == 'active', self.node.failure
        self.chunks = graph.publisher(msg.ActionChunk, 'action_chunk')
        self.expect(ControllerMode.SHADOW)

    @property
    def state(self) -> msg.ControllerState:
        return self.states[-1]

    def expect(self, mode: ControllerMode) -> None:
        wait_for(lambda: self.states and self.state.mode == mode, f'mode {mode.name}')

    def expect_stop(self, reason: StopReason) -> None:
        wait_for(lambda: self.state.mode == ControllerMode.STOPPED, 'STOPPED')
        assert StopReason(self.state.stop_reason) is reason, self.state.stop_detail

    def arm_it(self) -> None:
        answer = self.graph.call(Trigger, '/controller/arm')
        assert answer.success, answer.message
        self.expect(ControllerMode.RUNNING)

    def send(self, chunk: object) -> None:
        self.chunks.publish(chunk_to_message(chunk))


def test_shadow_commands_nothing_but_says_what_it_would(graph):
    bench = Bench(graph)
    begin = bench.arm.position.copy()
    bench.send(bench.arm.chunk(0.1, trace_id='wanted'))
    wait_for(lambda: bench.state.chunk_trace_id == 'wanted', 'the chunk in use')
    wait_for(lambda: abs(bench.state.commanded_position[0] - begin[0]) > 0.01, 'a shadow of motion')
    # The sentinel: the first command after arming is the first command at all.
    assert bench.arm.commands == []
    bench.arm_it()
    wait_for(lambda: bench.arm.commands, 'commands after arming')
    assert np.allclose(bench.arm.commands[0].position[:7], begin, atol=1e-6)


def test_a_chunk_moves_the_armed_arm_smoothly(graph):
    bench = Bench(graph)
    bench.arm_it()
    begin = bench.arm.position[0]
    bench.send(bench.arm.chunk(0.05))
    wait_for(lambda: abs(bench.arm.position[0] - begin - 0.05) < 2e-3, 'the end of the chunk')
    assert bench.state.chunks_accepted == 1
    stamps = [c.header.stamp.sec * 10**9 + c.header.stamp.nanosec for c in bench.arm.commands]
    assert (np.diff(stamps) % 10_000_000 == 0).all(), 'sample times lie on the 100 Hz grid'
    assert (np.diff(stamps) > 0).all()
    assert list(bench.arm.commands[0].name) == bench.arm.names


def test_stop_reset_arm(graph):
    bench = Bench(graph)
    bench.arm_it()
    assert graph.call(Trigger, '/controller/stop').success
    bench.expect_stop(StopReason.OPERATOR)
    refused = graph.call(Trigger, '/controller/arm')
    assert not refused.success and 'OPERATOR' in refused.message
    wait_for(lambda: graph.call(Trigger, '/controller/reset').success, 'a reset after the cooldown')
    bench.expect(ControllerMode.INACTIVE)
    bench.arm_it()


def test_latched_stop_topic_stops_a_late_controller_and_holds(graph):
    stop = graph.client.create_publisher(Bool, 'stop', LATCHED)
    stop.publish(Bool(data=True))
    arm = FakeArm(graph)
    states = graph.collect(msg.ControllerState, 'controller_state')
    node = graph.add(ControllerNode, **SLOW)
    node.trigger_configure()
    node.trigger_activate()
    wait_for(lambda: states and states[-1].mode == ControllerMode.STOPPED, 'STOPPED')
    assert 'stop topic' in graph.call(Trigger, '/controller/reset').message
    assert arm.commands == []


@pytest.mark.parametrize(('poison', 'reason'), [
    (float('nan'), StopReason.INVALID_STATE), (float('inf'), StopReason.INVALID_STATE)])
def test_nonfinite_joint_state_stops(graph, poison, reason):
    bench = Bench(graph)
    bench.arm_it()

    def spoil(message: JointState) -> JointState:
        message.position[2] = poison
        return message

    bench.arm.change = spoil
    bench.expect_stop(reason)
    assert 'panda_joint3' in bench.state.stop_detail
    assert all(np.isfinite(c.position).all() for c in bench.arm.commands)


def test_frozen_joint_states_stop(graph):
    bench = Bench(graph)
    bench.arm_it()
    bench.arm.frozen = True
    bench.expect_stop(StopReason.STALE_JOINT_STATE)


def test_missing_joint_is_named_and_then_stale(graph):
    bench = Bench(graph)
    bench.arm_it()

    def drop(message: JointState) -> JointState:
        return JointState(header=message.header, name=message.name[1:], position=message.position[1:],
                          velocity=message.velocity[1:])

    bench.arm.change = drop
    bench.expect_stop(StopReason.STALE_JOINT_STATE)
    assert bench.node.counters['rejected'] > 0
    assert bench.node.state_label == 'active'


def test_reordered_and_foreign_joints_are_understood(graph):
    arm = FakeArm(graph)
    expected = arm.position.copy()

    def shuffle(message: JointState) -> JointState:
        names = ['lift_joint', *reversed(message.name)]
        return JointState(header=message.header, name=names, position=[9.0, *reversed(message.position)],
                          velocity=[9.0, *reversed(message.velocity)])

    arm.change = shuffle
    states = graph.collect(msg.ControllerState, 'controller_state')
    node = graph.add(ControllerNode, **SLOW)
    node.trigger_configure()
    node.trigger_activate()
    wait_for(lambda: states and states[-1].mode == ControllerMode.SHADOW, 'SHADOW')
    assert np.allclose(states[-1].commanded_position, expected, atol=1e-6)


def test_chunk_of_wrong_shape_or_joints_is_refused_and_reported(graph):
    bench = Bench(graph)
    good = chunk_to_message(bench.arm.chunk(0.01))
    good.horizon = 31
    bench.chunks.publish(good)
    wait_for(lambda: bench.node.counters['rejected'] == 1, 'the refusal of a contradictory horizon')
    other = chunk_to_message(bench.arm.chunk(0.01))
    other.joint_names = [f'other_{i}' for i in range(7)]
    bench.chunks.publish(other)
    wait_for(lambda: bench.state.chunks_rejected == 1, 'the refusal of foreign joints')
    assert bench.state.mode == ControllerMode.SHADOW


def test_second_controller_is_refused_and_stays_up(graph):
    bench = Bench(graph)
    second = graph.add(ControllerNode, **SLOW)
    wait_for(lambda: second.get_node_names().count('controller') == 2, 'the discovery of the first')
    second.trigger_configure()
    assert second.state_label == 'unconfigured'
    assert 'another node /controller' in second.failure
    bench.arm_it()
    assert bench.state.mode == ControllerMode.RUNNING


def test_a_commander_that_appears_later_stops_the_arm(graph):
    bench = Bench(graph)
    bench.arm_it()
    graph.client.create_publisher(JointState, 'joint_command', 10)
    bench.expect_stop(StopReason.CONFLICT)


def test_activation_beside_a_commander_is_refused(graph):
    graph.client.create_publisher(JointState, 'joint_command', 10)
    node = graph.add(ControllerNode, **SLOW)
    node.trigger_configure()
    assert node.state_label == 'unconfigured'
    assert '/client already publishes /joint_command' in node.failure


@pytest.mark.parametrize(('parameters', 'text'), [
    ({'robot': 'r2d2'}, "'r2d2' arrived"), ({'profile': 'reckless'}, "'reckless' arrived")])
def test_unknown_names_fail_configure_with_the_valid_ones(graph, parameters, text):
    node = graph.add(ControllerNode, **parameters)
    node.trigger_configure()
    assert node.state_label == 'unconfigured'
    assert text in node.failure and ('panda' in node.failure or 'commissioning' in node.failure)


def test_deactivate_brakes_and_activate_starts_again(graph):
    bench = Bench(graph)
    bench.arm_it()
    bench.send(bench.arm.chunk(0.1))
    wait_for(lambda: np.abs(bench.arm.velocity).max() > 0.02, 'motion')
    bench.node.trigger_deactivate()
    assert np.abs(bench.arm.velocity).max() < 1e-3
    assert bench.node.state_label == 'inactive'
    bench.node.trigger_activate()
    bench.expect(ControllerMode.SHADOW)


def test_joint_trajectory_carries_the_plan_ahead(graph):
    trajectories = graph.collect(JointTrajectory, 'joint_command')
    source = FakeArm(graph, listen=False)
    node = graph.add(
        ControllerNode, command_interface='joint_trajectory', arm_on_activate=True, **SLOW)
    node.trigger_configure()
    node.trigger_activate()
    wait_for(lambda: len(trajectories) > 5, 'trajectories')
    message = trajectories[-1]
    times = [p.time_from_start.sec + p.time_from_start.nanosec * 1e-9 for p in message.points]
    assert list(message.joint_names) == list(source.robot.joint_names)
    assert np.allclose(np.diff(times), 0.02)
    assert all(len(p.positions) == len(p.velocities) == len(p.accelerations) == 7 for p in message.points)
    assert np.allclose(message.points[0].positions, source.position, atol=1e-6)


def test_a_stop_publisher_that_cannot_be_heard_is_reported(graph):
    bench = Bench(graph)
    graph.client.create_publisher(Bool, 'stop', QoSProfile(depth=1, durability=DurabilityPolicy.VOLATILE))

    def reported() -> bool:
        report = Report()
        bench.node.diagnose(report)
        return any('stop: what client publishes cannot be heard' in text for text in report.messages)

    wait_for(reported, 'the mismatch in /diagnostics')


def test_polled_inputs_do_not_wake_the_executor(graph):
    """The reason for polled_subscription.py: the executor must not collect its entities per message."""
    bench = Bench(graph)
    executor = bench.node.executor
    rounds = []
    collect = executor.get_nodes

    def count() -> list[object]:
        rounds.append(None)
        return collect()

    executor.get_nodes = count
    before = bench.node.counters['joint_states']
    wait_for(lambda: bench.node.counters['joint_states'] >= before + 200, 'joint states')
    # 2 s hold 40 state messages, 2 diagnostics, 2 looks for conflicts, each one or two rounds.
    assert len(rounds) < 200


# This process stalls for up to a second on a loaded machine, and the clock it publishes with it.
CALM = {**SLOW, 'clock_jump_s': 3.0}


@pytest.mark.parametrize('step_s', [-5.0, 30.0])
def test_a_clock_that_jumps_while_nothing_moves_does_not_stop(graph, step_s):
    begin, shift = time.monotonic_ns(), [0]
    arm = FakeArm(graph)
    arm.clock = lambda: 100 * 10**9 + time.monotonic_ns() - begin + shift[0]
    arm.change = lambda message: None if not shift[0] else message
    states = graph.collect(msg.ControllerState, 'controller_state')
    node = graph.add(ControllerNode, sim_time=True, arm_on_activate=True, **CALM)
    node.trigger_configure()
    node.trigger_activate()
    wait_for(lambda: states and states[-1].header.stamp.sec > 0, 'a state on the first clock')
    assert states[-1].mode == ControllerMode.INACTIVE, 'without joint states nothing begins'
    shift[0] = int(step_s * 1e9)
    wait_for(lambda: node.counters['clock_jumps'], 'the jump')
    wait_for(lambda: states[-1].mode == ControllerMode.RUNNING, 'RUNNING')


@pytest.mark.parametrize('step_s', [-5.0, 30.0])
def test_a_clock_that_jumps_stops_and_the_next_life_is_clean(graph, step_s):
    begin, shift = time.monotonic_ns(), [0]
    arm = FakeArm(graph)
    arm.clock = lambda: 100 * 10**9 + time.monotonic_ns() - begin + shift[0]
    states = graph.collect(msg.ControllerState, 'controller_state')
    node = graph.add(ControllerNode, sim_time=True, arm_on_activate=True, **CALM)
    node.trigger_configure()
    node.trigger_activate()
    wait_for(lambda: states and states[-1].mode == ControllerMode.RUNNING, 'RUNNING')
    wait_for(lambda: len(arm.commands) > 20, 'commands')
    shift[0] = int(step_s * 1e9)
    wait_for(lambda: states[-1].mode == ControllerMode.STOPPED, 'STOPPED')
    assert states[-1].stop_reason == StopReason.CLOCK_JUMP, states[-1].stop_detail
    stamp = states[-1].header.stamp
    assert abs(stamp.sec - arm.clock() / 1e9) < 2.0, 'the state is stamped on the new clock'
    wait_for(lambda: graph.call(Trigger, '/controller/reset').success, 'a reset on the new clock')
    assert graph.call(Trigger, '/controller/arm').success
    wait_for(lambda: states[-1].mode == ControllerMode.RUNNING, 'RUNNING again')


def test_simulated_time_without_a_clock_is_said(graph):
    FakeArm(graph)
    node = graph.add(ControllerNode, sim_time=True, **SLOW)
    node.trigger_configure()
    node.trigger_activate()
    answer = graph.call(Trigger, '/controller/arm')
    assert not answer.success and 'no /clock has arrived' in answer.message
