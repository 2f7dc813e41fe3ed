"""An arm in a process of its own: follows ``joint_command`` exactly, publishes ``joint_states`` at 100 Hz.

With ``--sim-time`` it also publishes ``/clock`` at 100 Hz and stamps by it.
"""

from contextlib import suppress
import sys
import time

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState

from cosmos3_ros.nodes.messages import to_time
from cosmos3_ros.robots import load_robot

SIM_START_NS = 1_000_000_000


class RobotProcess(Node):
    def __init__(self, *, sim_time: bool) -> None:
        super().__init__('robot')
        robot = load_robot('panda')
        self.names = [*robot.joint_names, robot.gripper.joint_name]
        self.position = np.append(robot.home_rad, robot.gripper.open_position)
        self.velocity = np.zeros(8)
        self.begin_ns = time.monotonic_ns()
        self.sim_time = sim_time
        self.clock = self.create_publisher(Clock, '/clock', 10)
        self.states = self.create_publisher(JointState, 'joint_states', 10)
        self.create_subscription(JointState, 'joint_command', self.obey, 1)
        self.create_timer(0.01, self.tick)

    def obey(self, message: JointState) -> None:
        self.position, self.velocity = np.array(message.position), np.array(message.velocity)

    def tick(self) -> None:
        now_ns = SIM_START_NS + time.monotonic_ns() - self.begin_ns if self.sim_time else time.time_ns()
        message = JointState(
            name=self.names, position=self.position.tolist(), velocity=self.velocity.tolist())
        message.header.stamp = to_time(now_ns)
        if self.sim_time:
            self.clock.publish(Clock(clock=message.header.stamp))
        self.states.publish(message)


if __name__ == '__main__':
    rclpy.init()
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(RobotProcess(sim_time='--sim-time' in sys.argv))
