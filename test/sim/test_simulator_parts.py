"""The parts of the simulator node that need no process: command inputs, schedule, lockstep, arguments."""

from fractions import Fraction
import threading
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed; the simulator node needs it')
pytest.importorskip('cosmos3_ros.msg', reason='the interfaces are not built; run make setup')

from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from cosmos3_ros.nodes.camera_process import inherited_arguments
from cosmos3_ros.nodes.command_input import COMMAND_INPUTS
from cosmos3_ros.nodes.diagnostics import Report
from cosmos3_ros.nodes.lockstep import LockstepThread
from cosmos3_ros.nodes.schedule import Schedule
from cosmos3_ros.nodes.simulator_cameras import camera_info
from cosmos3_ros.sim.scene import simulated_robot

ROBOT = simulated_robot()
HOME = np.array(ROBOT.home_rad)
NOW = 10**18


class Node:
    """What a CommandInput needs of its node."""

    def __init__(self):
        self.active = True
        self.subscribed = {}
        self.errors = []

    def get_publishers_info_by_topic(self, topic):
        return []

    def create_subscription(self, message_type, topic, callback, profile, **_):
        self.subscribed[topic] = callback
        return SimpleNamespace(callback_group=None)

    def report_exception(self, where, error):
        self.errors.append(str(error))


@pytest.fixture
def wired():
    def wire(interface):
        node = Node()
        time = SimpleNamespace(ns=NOW)
        return node, time, COMMAND_INPUTS[interface](node, ROBOT, None, lambda: time.ns)
    return wire


def joint_state(position, velocity=(), names=None, stamp_ns=NOW):
    message = JointState(
        name=names or [*ROBOT.joint_names, ROBOT.gripper.joint_name],
        position=[float(p) for p in position], velocity=[float(v) for v in velocity])
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
    return message


def test_joint_state_is_taken_once_in_the_robots_order(wired):
    node, _, source = wired('joint_state')
    names = [*reversed(ROBOT.joint_names), ROBOT.gripper.joint_name]
    node.subscribed['joint_command'](joint_state([*HOME[::-1], 0.4], [0.1] * 8, names))
    command = source.take(NOW)
    assert command.position == pytest.approx(HOME) and command.velocity == pytest.approx(0.1)
    assert command.gripper == pytest.approx(0.5) and command.stamp_ns == NOW
    assert source.take(NOW) is None and not node.errors


def test_a_command_without_gripper_keeps_the_last_one(wired):
    node, _, source = wired('joint_state')
    node.subscribed['joint_command'](joint_state([*HOME, 0.8]))
    source.take(NOW)
    node.subscribed['joint_command'](joint_state(HOME, names=list(ROBOT.joint_names)))
    command = source.take(NOW)
    assert command.gripper == 1.0 and command.velocity == pytest.approx(0.0)


def test_names_that_are_known_are_not_looked_at_again_but_others_are(wired):
    node, _, source = wired('joint_state')
    names = [ROBOT.gripper.joint_name, *reversed(ROBOT.joint_names)]
    for _ in range(3):
        node.subscribed['joint_command'](joint_state([0.4, *HOME[::-1]], [0.0, *HOME], names))
        command = source.take(NOW)
        assert command.position == pytest.approx(HOME) and command.velocity == pytest.approx(HOME[::-1])
        assert command.gripper == pytest.approx(0.5)
    node.subscribed['joint_command'](joint_state([*HOME, 0.0], [0.0] * 8))
    assert source.take(NOW).position == pytest.approx(HOME)
    node.subscribed['joint_command'](joint_state([*HOME, 0.0], [0.0] * 8, ['elbow', *names[:-1]]))
    assert source.take(NOW) is None and 'panda_joint1' in node.errors[-1]


@pytest.mark.parametrize(('message', 'text'), [
    (joint_state(HOME[:2], names=['panda_joint1', 'elbow']), 'panda_joint2'),
    (joint_state([*HOME[:6], float('nan'), 0.0]), 'nan'),
    (joint_state(HOME), '7 values of position arrived for 8 names'),
])
def test_a_bad_joint_state_is_reported_and_not_taken(wired, message, text):
    node, _, source = wired('joint_state')
    node.subscribed['joint_command'](message)
    assert source.take(NOW) is None
    assert len(node.errors) == 1 and text in node.errors[0]


def test_an_inactive_node_takes_nothing(wired):
    node, _, source = wired('joint_state')
    node.active = False
    node.subscribed['joint_command'](joint_state([*HOME, 0.0]))
    assert source.take(NOW) is None and source.received == 0


def test_rate_and_lateness_are_reported(wired):
    node, time, source = wired('joint_state')
    for k in range(10):
        time.ns = NOW + k * 2_000_000 + 1_000_000
        node.subscribed['joint_command'](joint_state([*HOME, 0.0], stamp_ns=NOW + k * 2_000_000))
    report = Report()
    source.diagnose(report)
    assert report.values['commands_received'] == '10'
    assert float(report.values['command_rate_hz']) > 10.0
    assert float(report.values['command_lateness_ms_p50']) == pytest.approx(1.0)


def test_position_commands_get_their_velocity_from_their_differences(wired):
    node, time, source = wired('float64_multi_array')
    speed = np.linspace(-0.4, 0.4, 7)
    jitter = np.random.default_rng(0).uniform(-500_000, 500_000, 500).astype(int)
    velocities = []
    for k in range(500):
        time.ns = NOW + 2_000_000 * k + int(jitter[k])
        node.subscribed['joint_command'](Float64MultiArray(data=list(HOME + speed * 0.002 * k)))
        command = source.take(time.ns)
        assert command.stamp_ns == 0 and command.position == pytest.approx(HOME + speed * 0.002 * k)
        velocities.append(command.velocity)
    assert velocities[0] == pytest.approx(0.0)
    assert np.array(velocities[100:]) == pytest.approx(np.tile(speed, (400, 1)), abs=0.05)
    node.subscribed['gripper_command'](Float64MultiArray(data=[0.8]))
    node.subscribed['joint_command'](Float64MultiArray(data=list(HOME)))
    assert source.take(time.ns).gripper == 1.0


@pytest.mark.parametrize('data', [[], [0.0] * 6, [0.0] * 9, [float('inf')] * 7])
def test_bad_position_commands_are_reported(wired, data):
    node, _, source = wired('float64_multi_array')
    node.subscribed['joint_command'](Float64MultiArray(data=data))
    assert source.take(NOW) is None and len(node.errors) == 1


def trajectory(times, positions, velocities, names=ROBOT.joint_names, stamp_ns=NOW):
    message = JointTrajectory(joint_names=list(names))
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
    for time, position, velocity in zip(times, positions, velocities, strict=True):
        point = JointTrajectoryPoint(positions=list(position), velocities=list(velocity))
        point.time_from_start.sec, point.time_from_start.nanosec = divmod(round(time * 1e9), 10**9)
        message.points.append(point)
    return message


@given(st.floats(0.0, 0.14))
@settings(max_examples=30, deadline=None)
def test_a_trajectory_is_interpolated(at):
    node = Node()
    source = COMMAND_INPUTS['joint_trajectory'](node, ROBOT, None, lambda: NOW)
    times = np.arange(8) * 0.02
    path = [HOME + np.sin(3.0 * t) for t in times]
    slopes = [np.full(7, 3.0 * np.cos(3.0 * t)) for t in times]
    node.subscribed['joint_command'](trajectory(times, path, slopes))
    command = source.take(NOW + round(at * 1e9))
    assert not node.errors
    assert command.position == pytest.approx(HOME + np.sin(3.0 * at), abs=1e-6)
    assert command.velocity == pytest.approx(3.0 * np.cos(3.0 * at), abs=1e-4)
    assert command.acceleration == pytest.approx(-9.0 * np.sin(3.0 * at), abs=0.05)
    assert source.take(NOW + 200_000_000) is None
    source.forget()
    assert source.take(NOW) is None


@pytest.mark.parametrize(('message', 'text'), [
    (trajectory([0.0], [HOME], [HOME]), '1 points'),
    (trajectory([0.0, 0.0], [HOME] * 2, [HOME] * 2), 'time_from_start must increase'),
    (trajectory([0.0, 0.1], [HOME[:3]] * 2, [HOME[:3]] * 2, names=ROBOT.joint_names[:3]), 'are needed'),
    (trajectory([0.0, 0.1], [HOME] * 2, [[]] * 2), 'velocities'),
    (trajectory([0.0, 0.1], [HOME, HOME * np.nan], [HOME] * 2), 'nan'),
])
def test_bad_trajectories_are_reported(wired, message, text):
    node, _, source = wired('joint_trajectory')
    node.subscribed['joint_command'](message)
    assert source.take(NOW) is None
    assert len(node.errors) == 1 and text in node.errors[0]


@given(st.sampled_from([10.0, 15.0, 30.0, 100.0, 200.0, 60.0]), st.integers(0, 2**61),
       st.sampled_from([1_000_000, 2_000_000]))
@settings(max_examples=40, deadline=None)
def test_a_schedule_keeps_its_rate_and_never_drifts(rate, epoch, step):
    schedule = Schedule(epoch, rate)
    due = [k * step for k in range(2000) if schedule.is_due(epoch + k * step)]
    for count, at in enumerate(due):
        exact = count * Fraction(10**9) / Fraction(rate)
        assert exact - 1 <= at < exact + step
    assert len(due) >= int(2000 * step * rate / 1e9)


def test_schedules_of_whole_ratios_coincide():
    camera, state = Schedule(NOW, 15.0), Schedule(NOW, 30.0)
    for k in range(20_000):
        now = NOW + k * 2_000_000
        both = camera.is_due(now), state.is_due(now)
        assert both[1] or not both[0]


def test_a_schedule_does_not_catch_up():
    schedule = Schedule(0, 100.0)
    assert schedule.is_due(0)
    assert [schedule.is_due(t) for t in (95_000_000, 95_000_001, 99_999_999, 100_000_000)] == [
        True, False, False, True]


def test_lockstep_makes_exactly_the_steps_that_were_asked_for():
    steps, served, done = [], [], threading.Event()

    def advance():
        steps.append(1)
        if len(steps) == 7:
            done.set()

    thread = LockstepThread(advance, lambda: served.append(1), lambda error: None)
    thread.start()
    try:
        thread.add(3)
        thread.add(4)
        assert done.wait(5.0)
    finally:
        thread.stop()
    thread.add(5)
    assert len(steps) == 7 and served


def test_lockstep_survives_a_failing_step():
    errors, done = [], threading.Event()

    def fail():
        raise RuntimeError('broken')

    def take(error):
        errors.append(error)
        if len(errors) == 2:
            done.set()

    thread = LockstepThread(fail, lambda: None, take)
    thread.start()
    try:
        thread.add(1)
        assert not done.is_set()
        while not done.is_set():
            thread.add(1)
    finally:
        thread.stop()
    assert len(errors) >= 2


def test_the_child_shares_remappings_but_no_name_and_no_parameters():
    line = ('simulator --ros-args -r __node:=sim -r __ns:=/a -p seed:=1 --params-file x.yaml '
            '-r wrist/image_raw:=/cam --remap a:=b -r simulator:__node:=x --log-level debug -- rest')
    assert inherited_arguments(line.split()) == [
        '-r', 'wrist/image_raw:=/cam', '--remap', 'a:=b', '--log-level', 'debug']
    assert inherited_arguments(['simulator', '-r', 'a:=b']) == []


@pytest.mark.parametrize('slot', ROBOT.cameras, ids=lambda slot: slot.name)
def test_camera_info_maps_the_edge_of_the_view_to_the_edge_of_the_image(slot):
    info = camera_info(slot, 640, 360)
    k = np.array(info.k).reshape(3, 3)
    # The ray at half the vertical angle leaves the image half a pixel below the centre of its last row.
    edge = k @ np.array([0.0, np.tan(0.5 * slot.mount.vertical_fov_rad), 1.0])
    assert edge[1] == pytest.approx(359.5) and edge[0] == pytest.approx(319.5)
    assert list(info.p[:3]) == list(info.k[:3]) and info.header.frame_id == slot.frame_id
