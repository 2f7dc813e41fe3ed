"""Commands as the simulated arm gets them: three message types behind one call."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.qos import QoSProfile
from scipy.interpolate import CubicHermiteSpline
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from cosmos3_ros.contracts import ContractError, JointCommand, frozen_array
from cosmos3_ros.robots import Robot

from .base import LifecycleBase
from .diagnostics import Level, Report, Window
from .messages import joint_measurement, to_ns
from .polled_subscription import PolledSubscription

# Lateness is kept for this many commands and the rate is measured over them: 2 s at 500 Hz.
WINDOW = 1000
COMMAND_TOPIC = 'joint_command'
# Without a command for this long the rate is 0 and not that of the last ones.
SILENT_NS = 1_000_000_000
# Share of the newest interval in the smoothed one: the sender's period, without the transport's jitter.
INTERVAL_SHARE = 0.02

FloatArray = NDArray[np.float64]


class CommandInput(ABC):
    """Subscribes ``joint_command`` and gives the physics thread what is newest.

    All of it runs in that thread: :meth:`poll` takes what has arrived, :meth:`take` is asked for it.

    :param now_ns: Returns simulated time now.
    """

    def __init__(self, node: LifecycleBase, robot: Robot, now_ns: Callable[[], int]) -> None:
        self._node = node
        self._robot = robot
        self._now_ns = now_ns
        self._gripper = 0.0
        self._subscriptions: list[PolledSubscription] = []
        self._arrivals: deque[int] = deque(maxlen=WINDOW)
        self.received = 0
        self.on_accepted: Callable[[], None] = lambda: None
        """Called after each command that was understood."""
        self.lateness_ms = Window(WINDOW)

    @abstractmethod
    def take(self, now_ns: int) -> JointCommand | None:
        """Return what the arm shall follow from ``now_ns`` on, or None if nothing new is due."""

    @abstractmethod
    def forget(self) -> None:
        """Drop what has not been taken, because the arm was put elsewhere."""

    def poll(self) -> None:
        """Take in what has arrived since the last call."""
        for subscription in self._subscriptions:
            subscription.poll()

    def rate_hz(self) -> float:
        """Return commands per real second."""
        arrivals = tuple(self._arrivals)
        if len(arrivals) < 2 or time.monotonic_ns() - arrivals[-1] > SILENT_NS:
            return 0.0
        return (len(arrivals) - 1) / max((arrivals[-1] - arrivals[0]) * 1e-9, 1e-9)

    def diagnose(self, report: Report) -> None:
        """Add counts, rate, lateness (simulated time at arrival minus the command's stamp), QoS trouble."""
        report.put(commands_received=self.received, command_rate_hz=self.rate_hz(),
                   **self.lateness_ms.summary('command_lateness_ms'))
        for subscription in self._subscriptions:
            mismatch = subscription.find_mismatch()
            if mismatch:
                report.add(Level.WARN, mismatch)

    def _count(self, stamp_ns: int) -> None:
        self.received += 1
        self._arrivals.append(time.monotonic_ns())
        if stamp_ns:
            self.lateness_ms.add((self._now_ns() - stamp_ns) * 1e-6)

    def _normalized(self, joint_position: float) -> float:
        return self._robot.gripper.to_normalized(joint_position)

    def _listen(self, message_type: Any, topic: str, accept: Callable[[Any], None],
                profile: QoSProfile) -> None:
        def receive(message: Any) -> None:
            if not self._node.active:
                return
            try:
                accept(message)
                if topic == COMMAND_TOPIC:
                    self.on_accepted()
            except Exception as error:
                self._node.report_exception(topic, error)

        self._subscriptions.append(PolledSubscription(self._node, message_type, topic, profile, receive))


class JointStateInput(CommandInput):
    """sensor_msgs/JointState: positions, velocities if there are any, the gripper as a further joint."""

    def __init__(self, node: LifecycleBase, robot: Robot, profile: QoSProfile,
                 now_ns: Callable[[], int]) -> None:
        super().__init__(node, robot, now_ns)
        self._newest: JointCommand | None = None
        self._still = np.zeros(len(robot.joint_names))
        self._known: list[str] = []
        self._order: list[int] = []
        self._listen(JointState, COMMAND_TOPIC, self._accept, profile)

    def take(self, now_ns: int) -> JointCommand | None:  # noqa: ARG002
        """Return the newest command once."""
        newest, self._newest = self._newest, None
        return newest

    def forget(self) -> None:
        """Drop the newest command."""
        self._newest = None

    def _accept(self, message: JointState) -> None:
        stamp_ns = to_ns(message.header.stamp)
        self._count(stamp_ns)
        if message.name == self._known and len(message.position) == len(message.velocity) == len(self._known):
            # As the last one that was looked at closely; the servo checks the numbers anyhow.
            position = np.frombuffer(message.position, dtype=np.float64)
            velocity = np.frombuffer(message.velocity, dtype=np.float64)
            self._gripper = self._normalized(position[self._order[-1]])
            arm = self._order[:-1]
            self._newest = JointCommand(stamp_ns, position[arm], velocity[arm], self._still, self._gripper)
            return
        gripper = self._robot.gripper.joint_name
        wanted = joint_measurement(
            message, self._robot.joint_names, gripper_joint=gripper,
            gripper_closed=self._normalized, velocity_required=False)
        if wanted.gripper is not None:
            self._gripper = wanted.gripper
            self._known = list(message.name)
            self._order = [self._known.index(name) for name in (*self._robot.joint_names, gripper)]
        self._newest = JointCommand(stamp_ns, wanted.position, wanted.velocity, self._still, self._gripper)


class _SeparateGripper(CommandInput):
    """What the two types without a gripper share: it comes on ``gripper_command``."""

    def __init__(self, node: LifecycleBase, robot: Robot, profile: QoSProfile,
                 now_ns: Callable[[], int]) -> None:
        super().__init__(node, robot, now_ns)
        self._listen(Float64MultiArray, 'gripper_command', self._accept_gripper, profile)

    def _accept_gripper(self, message: Float64MultiArray) -> None:
        value = frozen_array('gripper_command', message.data, shape=(1,))
        self._gripper = self._normalized(float(value[0]))


class Float64Input(_SeparateGripper):
    """std_msgs/Float64MultiArray: the arm's positions, no stamp, no velocity.

    The velocity is the difference of successive positions over the sender's smoothed period.
    """

    def __init__(self, node: LifecycleBase, robot: Robot, profile: QoSProfile,
                 now_ns: Callable[[], int]) -> None:
        super().__init__(node, robot, profile, now_ns)
        self._newest: JointCommand | None = None
        self._position: FloatArray | None = None
        self._arrived_ns = 0
        self._interval_s = 0.0
        self._listen(Float64MultiArray, COMMAND_TOPIC, self._accept, profile)

    def take(self, now_ns: int) -> JointCommand | None:  # noqa: ARG002
        """Return the newest command once."""
        newest, self._newest = self._newest, None
        return newest

    def forget(self) -> None:
        """Drop the newest command and start differencing anew."""
        self._newest = self._position = None

    def _accept(self, message: Float64MultiArray) -> None:
        self._count(0)
        position = frozen_array('joint_command', message.data, shape=(len(self._robot.joint_names),))
        now = self._now_ns()
        elapsed_s = (now - self._arrived_ns) * 1e-9
        velocity = np.zeros(len(position))
        # A gap longer than the servo's patience is no period.
        if self._position is not None and 0.0 < elapsed_s < 0.1:
            self._interval_s += INTERVAL_SHARE * (elapsed_s - self._interval_s)
            velocity = (position - self._position) / self._interval_s
        else:
            self._interval_s = 0.002
        self._position, self._arrived_ns = position, now
        self._newest = JointCommand(0, position, velocity, np.zeros(len(position)), self._gripper)


class TrajectoryInput(_SeparateGripper):
    """trajectory_msgs/JointTrajectory: points ahead, interpolated by cubics; a newer message replaces it."""

    def __init__(self, node: LifecycleBase, robot: Robot, profile: QoSProfile,
                 now_ns: Callable[[], int]) -> None:
        super().__init__(node, robot, profile, now_ns)
        self._plan: tuple[FloatArray, CubicHermiteSpline, CubicHermiteSpline, CubicHermiteSpline, int] | None
        self._plan = None
        self._listen(JointTrajectory, COMMAND_TOPIC, self._accept, profile)

    def take(self, now_ns: int) -> JointCommand | None:
        """Return the trajectory's sample at ``now_ns``; None before its first and after its last point."""
        plan = self._plan
        if plan is None:
            return None
        times, position, velocity, acceleration, start_ns = plan
        at = (now_ns - start_ns) * 1e-9
        if not times[0] - 0.01 <= at <= times[-1]:
            return None
        at = max(at, float(times[0]))
        return JointCommand(now_ns, position(at), velocity(at), acceleration(at), self._gripper)

    def forget(self) -> None:
        """Drop the trajectory."""
        self._plan = None

    def _accept(self, message: JointTrajectory) -> None:
        stamp_ns = to_ns(message.header.stamp)
        self._count(stamp_ns)
        names = list(message.joint_names)
        missing = [name for name in self._robot.joint_names if name not in names]
        if missing or len(message.points) < 2:
            raise ContractError(
                f'joint_command: {len(message.points)} points for {names} arrived, at least 2 points for '
                f'{", ".join(self._robot.joint_names)} are needed')
        order = [names.index(name) for name in self._robot.joint_names]
        size = len(names)
        times = np.array([to_ns(point.time_from_start) for point in message.points]) * 1e-9
        if (np.diff(times) <= 0.0).any():
            raise ContractError('joint_command: time_from_start must increase from point to point')
        rows = frozen_array('positions', [p.positions for p in message.points], shape=(None, size))
        slopes = frozen_array('velocities', [p.velocities for p in message.points], shape=(None, size))
        position = CubicHermiteSpline(times, rows[:, order], slopes[:, order])
        velocity = position.derivative()
        self._plan = (times, position, velocity, velocity.derivative(), stamp_ns or self._now_ns())


COMMAND_INPUTS: dict[str, Callable[[LifecycleBase, Robot, QoSProfile, Callable[[], int]], CommandInput]] = {
    'joint_state': JointStateInput,
    'float64_multi_array': Float64Input,
    'joint_trajectory': TrajectoryInput,
}
"""Parameter value to what reads it; the names are those of the controller's ``command_interface``."""
