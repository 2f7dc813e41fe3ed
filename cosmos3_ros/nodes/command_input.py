"""Commands as the simulated arm gets them: three message types behind one call."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
import time

import numpy as np
from numpy.typing import NDArray
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from cosmos3_ros.contracts import ContractError, JointCommand, frozen_array
from cosmos3_ros.robots import Robot

from .base import LifecycleBase, guarded_when_active
from .diagnostics import Report, Window
from .messages import joint_measurement, to_ns

# Lateness is kept for this many commands and the rate is measured over them: 2 s at 500 Hz.
WINDOW = 1000
# Without a command for this long the rate is 0 and not that of the last ones.
SILENT_NS = 1_000_000_000
# Share of the newest interval in the smoothed one: the sender's period, without the transport's jitter.
INTERVAL_SHARE = 0.02

FloatArray = NDArray[np.float64]


class CommandInput(ABC):
    """Subscribes ``joint_command`` and gives the physics thread what is newest.

    :param now_ns: Returns simulated time now.
    """

    def __init__(self, node: LifecycleBase, robot: Robot, now_ns: Callable[[], int]) -> None:
        self._node = node
        self._robot = robot
        self._now_ns = now_ns
        self._gripper = 0.0
        self._arrivals: deque[int] = deque(maxlen=WINDOW)
        self.received = 0
        self.lateness_ms = Window(WINDOW)

    @abstractmethod
    def take(self, now_ns: int) -> JointCommand | None:
        """Return what the arm shall follow from ``now_ns`` on, or None if nothing new is due."""

    @abstractmethod
    def forget(self) -> None:
        """Drop what has not been taken, because the arm was put elsewhere."""

    def rate_hz(self) -> float:
        """Return commands per real second."""
        arrivals = tuple(self._arrivals)
        if len(arrivals) < 2 or time.monotonic_ns() - arrivals[-1] > SILENT_NS:
            return 0.0
        return (len(arrivals) - 1) / max((arrivals[-1] - arrivals[0]) * 1e-9, 1e-9)

    def diagnose(self, report: Report) -> None:
        """Add counts, rate and lateness (simulated time at arrival minus the command's stamp)."""
        report.put(commands_received=self.received, command_rate_hz=self.rate_hz(),
                   **self.lateness_ms.summary('command_lateness_ms'))

    def _count(self, stamp_ns: int) -> None:
        self.received += 1
        self._arrivals.append(time.monotonic_ns())
        if stamp_ns:
            self.lateness_ms.add((self._now_ns() - stamp_ns) * 1e-6)

    def _normalized(self, joint_position: float) -> float:
        return self._robot.gripper.to_normalized(joint_position)


class JointStateInput(CommandInput):
    """sensor_msgs/JointState: positions, velocities if there are any, the gripper as a further joint."""

    def __init__(self, node: LifecycleBase, robot: Robot, now_ns: Callable[[], int],
                 profile: QoSProfile) -> None:
        super().__init__(node, robot, now_ns)
        self._newest: JointCommand | None = None
        self._still = np.zeros(len(robot.joint_names))
        node.create_subscription(
            JointState, 'joint_command', self._on_command, profile, callback_group=node.data_group)

    def take(self, now_ns: int) -> JointCommand | None:
        """Return the newest command once."""
        newest, self._newest = self._newest, None
        return newest

    def forget(self) -> None:
        """Drop the newest command."""
        self._newest = None

    def _on_command(self, message: JointState) -> None:
        self._receive(self._node, message)

    def _receive(self, node: LifecycleBase, message: JointState) -> None:
        receive = guarded_when_active(lambda _, arrived: self._accept(arrived))
        receive(node, message)

    def _accept(self, message: JointState) -> None:
        self._count(to_ns(message.header.stamp))
        wanted = joint_measurement(
            message, self._robot.joint_names, gripper_joint=self._robot.gripper.joint_name,
            gripper_closed=self._normalized, velocity_required=False)
        if wanted.gripper is not None:
            self._gripper = wanted.gripper
        self._newest = JointCommand(
            wanted.stamp_ns, wanted.position, wanted.velocity, self._still, self._gripper)
