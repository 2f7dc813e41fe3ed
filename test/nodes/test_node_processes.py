"""Nodes as processes, as users run them: real rate, signals, exit codes, help."""

from pathlib import Path
import signal
import subprocess
import sys

import cosmos3_ros.msg as msg
import numpy as np
import pytest
from rclpy.serialization import deserialize_message
from ros_graph import Graph, wait_for
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from cosmos3_ros.contracts import ActionChunk, ControllerMode, ModelIdentity, StopReason
from cosmos3_ros.nodes.messages import chunk_to_message
from cosmos3_ros.robots import load_robot

HERE = Path(__file__).parent
NODES = ('perception', 'generator', 'controller')


class Station:
    """A robot process, a controller process, and what they say."""

    def __init__(self, graph: Graph, processes: object, *, sim_time: bool = False) -> None:
        self.graph = graph
        # Raw: at 500 Hz this interpreter only stores bytes.
        self.wire: list[bytes] = []
        graph.client.create_subscription(JointState, 'joint_command', self.wire.append, 50, raw=True)
        self.states = graph.collect(msg.ControllerState, 'controller_state')
        arguments = ('--sim-time',) if sim_time else ()
        processes.running.append(subprocess.Popen(
            [sys.executable, str(HERE / 'robot_process.py'), *arguments], stdout=subprocess.PIPE, text=True,
            start_new_session=True))
        self.process = processes.start(
            'cosmos3_ros.nodes.controller', '--ros-args', '-p', 'autostart:=true',
            '-p', 'arm_on_activate:=true',
            # A machine that runs other things beside the tests may hold a process up for a while; what
            # such a stall does is tested in test_control_loop.py.
            '-p', 'overrun_stop_s:=5.0', '-p', 'joint_state_stale_s:=1.0',
            '-p', f'use_sim_time:={str(sim_time).lower()}')
        wait_for(lambda: self.states and self.states[-1].mode == ControllerMode.RUNNING, 'RUNNING')

    def move(self, delta_rad: float) -> None:
        """Send a chunk that moves joint 1 and wait until the arm moves."""
        publisher = self.graph.publisher(msg.ActionChunk, 'action_chunk')
        robot, share = load_robot('panda'), (np.arange(32) + 1) / 32
        positions = np.tile(robot.home_rad, (32, 1))
        positions[:, 0] += delta_rad * (3 * share**2 - 2 * share**3)
        stamp = self.states[-1].header.stamp
        publisher.publish(chunk_to_message(ActionChunk(
            stamp_ns=stamp.sec * 10**9 + stamp.nanosec, step_ns=66_666_667, joint_names=robot.joint_names,
            positions=positions, gripper=np.zeros(32), contract='droid_joint', instruction='', seed=0,
            steps=0, guidance=1.0, policy='test', identity=ModelIdentity('t', 't', True), trace_id='t',
            latency_s=0.0)))
        wait_for(lambda: self.wire and abs(self.commands()[-1].velocity[0]) > 0.02, 'motion')

    def commands(self, last: int = 1) -> list[JointState]:
        return [deserialize_message(data, JointState) for data in self.wire[-last:]]


@pytest.mark.parametrize('sim_time', [False, True])
def test_sigterm_brakes_before_the_process_ends(graph, processes, sim_time):
    station = Station(graph, processes, sim_time=sim_time)
    station.move(0.3)
    station.process.send_signal(signal.SIGTERM)
    output, _ = station.process.communicate(timeout=30.0)
    assert station.process.returncode == 0, output
    assert 'SIGTERM: shutting down' in output and 'not safety-rated' in output
    wait_for(lambda: station.states[-1].stop_reason == StopReason.SHUTDOWN, 'the reason')
    commands = station.commands(len(station.wire))
    assert np.abs(commands[-1].velocity[:7]).max() < 1e-3, 'the last command stands still'
    positions = np.array([command.position[:7] for command in commands])
    stamps = np.array([c.header.stamp.sec * 10**9 + c.header.stamp.nanosec for c in commands])
    assert (stamps % 2_000_000 == 0).all() and (np.diff(stamps) > 0).all()
    robot = load_robot('panda')
    speeds = np.abs(np.diff(positions, axis=0)) / (np.diff(stamps)[:, None] * 1e-9)
    assert (speeds <= robot.limits.velocity_rad_s + 1e-6).all()


def test_killed_robot_stops_and_reset_needs_fresh_states(graph, processes):
    station = Station(graph, processes)
    station.move(0.3)
    processes.running[0].kill()
    wait_for(lambda: station.states[-1].mode == ControllerMode.STOPPED, 'STOPPED')
    assert station.states[-1].stop_reason == StopReason.STALE_JOINT_STATE
    assert not graph.call(Trigger, '/controller/reset').success


@pytest.mark.parametrize('node', NODES)
def test_an_idle_node_ends_on_sigint_with_zero(graph, processes, node):
    process = processes.start(
        f'cosmos3_ros.nodes.{node}', '--ros-args', '--params-file', 'config/manipulation.yaml')
    wait_for(lambda: node in graph.client.get_node_names(), f'{node} on the graph')
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30.0)
    assert process.returncode == 0, output
    assert 'Traceback' not in output


@pytest.mark.parametrize('node', NODES)
def test_help_prints_the_table(processes, node):
    output, _ = processes.start(f'cosmos3_ros.nodes.{node}', '--help').communicate(timeout=30.0)
    assert '| `robot` | str |' in output and '`qos.' in output


def test_bad_parameters_end_with_a_usage_error_in_one_line(processes):
    process = processes.start('cosmos3_ros.nodes.controller', '--ros-args', '-p', 'rate_hz:=9000.0')
    output, _ = process.communicate(timeout=30.0)
    assert process.returncode == 2
    assert 'rate_hz' in output and 'Traceback' not in output


def test_failed_autostart_leaves_the_node_up(graph, processes):
    process = processes.start(
        'cosmos3_ros.nodes.generator', '--ros-args', '-p', 'autostart:=true', '-p', 'policy:=crystal_ball')
    wait_for(lambda: 'generator' in graph.client.get_node_names(), 'the node')
    from lifecycle_msgs.srv import GetState
    assert graph.call(GetState, '/generator/get_state').current_state.label == 'unconfigured'
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30.0)
    assert "cannot configure: policy: 'crystal_ball' arrived" in output
