"""An arm that does exactly what it is told, and a source of joint states that can misbehave."""

import threading
from typing import Any

import numpy as np
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import JointState

from cosmos3_ros.contracts import ActionChunk, ModelIdentity
from cosmos3_ros.nodes.messages import to_time
from cosmos3_ros.robots import load_robot

IDENTITY = ModelIdentity('test', 'test', True)


class FakeArm:
    """Publishes ``joint_states`` at 100 Hz and follows ``joint_command``.

    :param graph: The test's graph; its client node is used.
    :param listen: False only publishes, for tests of other types of ``joint_command``.
    """

    def __init__(self, graph: Any, robot_name: str = 'panda', *, listen: bool = True) -> None:
        self.graph = graph
        self.robot = load_robot(robot_name)
        self.names = [*self.robot.joint_names, self.robot.gripper.joint_name]
        self.position = self.robot.home_rad.copy()
        self.velocity = np.zeros(len(self.robot.joint_names))
        self.gripper = self.robot.gripper.open_position
        self.commands: list[JointState] = []
        self.frozen = False
        self.clock: Any = None
        """With simulated time: returns nanoseconds; ``/clock`` is published too."""
        self.change: Any = None
        """Called with every JointState before it is sent; returns what to send instead, None: nothing."""
        self._lock = threading.Lock()
        node = graph.client
        self._ticker = node.create_publisher(ClockMessage, '/clock', 10)
        self._publisher = node.create_publisher(JointState, 'joint_states', 10)
        if listen:
            node.create_subscription(JointState, 'joint_command', self._obey, 10)
        node.create_timer(0.01, self._publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _obey(self, message: JointState) -> None:
        with self._lock:
            count = len(self.velocity)
            self.commands.append(message)
            self.position = np.array(message.position[:count])
            self.velocity = np.array(message.velocity[:count])
            self.gripper = message.position[count]

    def message(self) -> JointState:
        """Return the present joint state."""
        with self._lock:
            message = JointState(name=list(self.names))
            message.position = [*self.position.tolist(), float(self.gripper)]
            message.velocity = [*self.velocity.tolist(), 0.0]
        now_ns = self.clock() if self.clock else self.graph.client.get_clock().now().nanoseconds
        message.header.stamp = to_time(now_ns)
        return message

    def _publish(self) -> None:
        if not self.frozen:
            message = self.message()
            if self.clock:
                self._ticker.publish(ClockMessage(clock=message.header.stamp))
            if self.change:
                message = self.change(message)
            if message is not None:
                self._publisher.publish(message)

    def chunk(self, delta_rad: float, *, trace_id: str = 'chunk', rows: int = 32) -> ActionChunk:
        """Return a chunk that moves the first joint smoothly by ``delta_rad`` within 2 s."""
        share = (np.arange(rows) + 1) / rows
        smooth = 3 * share**2 - 2 * share**3
        positions = np.tile(self.position, (rows, 1))
        positions[:, 0] += delta_rad * smooth
        return ActionChunk(
            stamp_ns=self.graph.client.get_clock().now().nanoseconds, step_ns=66_666_667,
            joint_names=self.robot.joint_names, positions=positions, gripper=np.zeros(rows),
            contract='droid_joint', instruction='test', seed=0, steps=0, guidance=1.0, policy='test',
            identity=IDENTITY, trace_id=trace_id, latency_s=0.0)
