"""Commands as the robot's driver wants them: three message types behind one call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Mapping, Sequence
import time
from typing import TYPE_CHECKING, Any

from builtin_interfaces.msg import Duration
import numpy as np
from numpy.typing import NDArray
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from cosmos3_ros.contracts import JointCommand
from cosmos3_ros.robots import GripperSpec, Robot

from .conflict_watch import COMMAND_TOPIC
from .diagnostics import Window
from .guarding import SetupError
from .messages import NS_PER_S
from .qos import qos_profile

if TYPE_CHECKING:
    from .base import LifecycleBase

# Parameter value -> entry of the robot's command_interfaces that it needs.
COMMAND_INTERFACES = {
    'joint_state': 'joint_state',
    'joint_trajectory': 'joint_trajectory',
    'float64_multi_array': 'position',
}
# The gripper's driver gets a command when it changes, and this often besides.
GRIPPER_REPEAT_NS = 100_000_000

Samples = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
Preview = Callable[[int, Sequence[float]], Samples]


def _bind(message: Any, field: str, size: int) -> NDArray[np.float64]:
    """Give ``field`` its length and return a view to write into it: no allocation per command.

    The view is taken of what the message holds after the assignment, because the setter copies.
    """
    setattr(message, field, array('d', bytes(8 * size)))
    return np.frombuffer(getattr(message, field), dtype=np.float64)


class CommandOutput(ABC):
    """Publishes commands on ``joint_command``; called from the control thread.

    Messages are built once and written in place.

    :param offset_ns: Returns control time minus the node's clock; stamps leave on the node's clock.
    """

    def __init__(
        self, node: LifecycleBase, message_type: Any, profile: QoSProfile, offset_ns: Callable[[], int],
    ) -> None:
        self._publisher = node.create_publisher(message_type, COMMAND_TOPIC, profile)
        self._offset_ns = offset_ns
        self.sent = 0
        self.publish_us = Window(5000)

    def send(self, command: JointCommand) -> None:
        """Publish one command, if this output is due at its instant."""
        begin = time.perf_counter_ns()
        if self._write(command):
            self.sent += 1
            self.publish_us.add((time.perf_counter_ns() - begin) * 1e-3)

    @abstractmethod
    def _write(self, command: JointCommand) -> bool:
        """Write and publish; return False if nothing was due."""

    def _stamp(self, stamp: Any, control_ns: int) -> None:
        stamp.sec, stamp.nanosec = divmod(control_ns - self._offset_ns(), NS_PER_S)


class JointStateOutput(CommandOutput):
    """sensor_msgs/JointState with the gripper as last joint (Isaac Sim, our simulator)."""

    def __init__(
        self, node: LifecycleBase, robot: Robot, profile: QoSProfile, offset_ns: Callable[[], int],
    ) -> None:
        super().__init__(node, JointState, profile, offset_ns)
        self._gripper = robot.gripper
        count = len(robot.joint_names)
        self._message = JointState(name=[*robot.joint_names, robot.gripper.joint_name])
        self._position = _bind(self._message, 'position', count + 1)
        self._velocity = _bind(self._message, 'velocity', count + 1)
        self._effort: NDArray[np.float64] | None = None
        self._count = count

    def _write(self, command: JointCommand) -> bool:
        count = self._count
        self._position[:count] = command.position
        self._position[count] = self._gripper.to_joint(command.gripper)
        self._velocity[:count] = command.velocity
        if command.effort is not None:
            if self._effort is None:
                self._effort = _bind(self._message, 'effort', count + 1)
            self._effort[:count] = command.effort
        self._stamp(self._message.header.stamp, command.stamp_ns)
        self._publisher.publish(self._message)
        return True


class _GripperOutput:
    """std_msgs/Float64MultiArray with the gripper's joint position on ``gripper_command``."""

    def __init__(self, node: LifecycleBase, gripper: GripperSpec, profile: QoSProfile) -> None:
        self._publisher = node.create_publisher(Float64MultiArray, 'gripper_command', profile)
        self._gripper = gripper
        self._message = Float64MultiArray()
        self._data = _bind(self._message, 'data', 1)
        self._sent_ns: int | None = None

    def send(self, stamp_ns: int, closed: float) -> None:
        """Publish on change, and now and then."""
        wanted = self._gripper.to_joint(closed)
        recent = self._sent_ns is not None and stamp_ns - self._sent_ns < GRIPPER_REPEAT_NS
        if recent and wanted == self._data[0]:
            return
        self._data[0] = wanted
        self._sent_ns = stamp_ns
        self._publisher.publish(self._message)


class Float64Output(CommandOutput):
    """std_msgs/Float64MultiArray with the arm's positions (ros2_control forward_command_controller)."""

    def __init__(
        self, node: LifecycleBase, robot: Robot, profile: QoSProfile, offset_ns: Callable[[], int],
    ) -> None:
        super().__init__(node, Float64MultiArray, profile, offset_ns)
        self._message = Float64MultiArray()
        self._data = _bind(self._message, 'data', len(robot.joint_names))
        self._gripper = _GripperOutput(node, robot.gripper, profile)

    def _write(self, command: JointCommand) -> bool:
        self._data[:] = command.position
        self._publisher.publish(self._message)
        self._gripper.send(command.stamp_ns, command.gripper)
        return True


class TrajectoryOutput(CommandOutput):
    """trajectory_msgs/JointTrajectory: a window of the committed plan ahead of now.

    joint_trajectory_controller interpolates points that carry positions, velocities and accelerations
    with quintics, so the plan's continuity survives; its header stamp of now lets it splice.

    :param preview: Returns position, velocity and acceleration of the committed plan, each (M, N), at
        M offsets in seconds from a control time (``Controller.preview``).
    :param period_ns: Time between two messages.
    :param spacing_ns: Time between two points.
    :param points: Points of a message, the first at the command's own instant.
    """

    def __init__(
        self, node: LifecycleBase, robot: Robot, profile: QoSProfile, offset_ns: Callable[[], int], *,
        preview: Preview, period_ns: int, spacing_ns: int, points: int,
    ) -> None:
        super().__init__(node, JointTrajectory, profile, offset_ns)
        count = len(robot.joint_names)
        self._preview = preview
        self._period_ns = period_ns
        self._offsets_s = [i * spacing_ns * 1e-9 for i in range(points)]
        self._message = JointTrajectory(joint_names=list(robot.joint_names))
        self._rows: list[Samples] = []
        for offset in range(0, points * spacing_ns, spacing_ns):
            point = JointTrajectoryPoint(
                time_from_start=Duration(sec=offset // NS_PER_S, nanosec=offset % NS_PER_S))
            positions = _bind(point, 'positions', count)
            velocities = _bind(point, 'velocities', count)
            accelerations = _bind(point, 'accelerations', count)
            self._message.points.append(point)
            self._rows.append((positions, velocities, accelerations))
        self._gripper = _GripperOutput(node, robot.gripper, profile)
        self._due_ns = 0

    def _write(self, command: JointCommand) -> bool:
        if command.stamp_ns < self._due_ns:
            return False
        self._due_ns = command.stamp_ns + self._period_ns
        ahead = self._preview(command.stamp_ns, self._offsets_s)
        for i, fields in enumerate(self._rows):
            for field, samples in zip(fields, ahead, strict=True):
                field[:] = samples[i]
        self._stamp(self._message.header.stamp, command.stamp_ns)
        self._publisher.publish(self._message)
        self._gripper.send(command.stamp_ns, command.gripper)
        return True


def check_interface(robot: Robot, interface: str) -> None:
    """Refuse a command interface that the robot's driver does not take.

    :raises SetupError: The text lists what it takes.
    """
    if COMMAND_INTERFACES[interface] not in robot.command_interfaces:
        fitting = [name for name, needs in COMMAND_INTERFACES.items() if needs in robot.command_interfaces]
        raise SetupError(
            f'command_interface: {interface!r} arrived, robot {robot.name} takes: '
            f'{", ".join(fitting) or "none of ours"}')


def make_output(
    node: LifecycleBase, robot: Robot, values: Mapping[str, Any], *, offset_ns: Callable[[], int],
    preview: Preview,
) -> CommandOutput:
    """Return the output that the parameter ``command_interface`` asks for.

    :param offset_ns: See :class:`CommandOutput`.
    :param preview: See :class:`TrajectoryOutput`.
    """
    interface, profile = values['command_interface'], qos_profile(values, COMMAND_TOPIC)
    if interface == 'joint_trajectory':
        return TrajectoryOutput(
            node, robot, profile, offset_ns, preview=preview,
            period_ns=round(values['trajectory_period_s'] * NS_PER_S),
            spacing_ns=round(values['trajectory_spacing_s'] * NS_PER_S), points=values['trajectory_points'])
    kind = JointStateOutput if interface == 'joint_state' else Float64Output
    return kind(node, robot, profile, offset_ns)
