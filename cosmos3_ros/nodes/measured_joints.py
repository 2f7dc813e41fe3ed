"""The simulated arm's measurements as ``joint_states``."""

from array import array

import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState

from cosmos3_ros.robots import Robot
from cosmos3_ros.sim.configuration import FINGER_TRAVEL_M
from cosmos3_ros.sim.snapshot import WorldState

from .messages import to_time


class MeasuredJoints:
    """Publishes sensor_msgs/JointState with the gripper as last joint. Its effort is always 0.

    One message is built once and written in place.
    """

    def __init__(self, node: Node, robot: Robot, profile: QoSProfile) -> None:
        self._publisher = node.create_publisher(JointState, 'joint_states', profile)
        self._gripper = robot.gripper
        names = [*robot.joint_names, robot.gripper.joint_name]
        self._message = JointState(name=names)
        fields = {}
        for name in ('position', 'velocity', 'effort'):
            setattr(self._message, name, array('d', bytes(8 * len(names))))
            # The setter copies unless ROS_PYTHON_CHECK_FIELDS is set, so look at what the message holds.
            fields[name] = np.frombuffer(getattr(self._message, name), dtype=np.float64)
        self._position, self._velocity, self._effort = fields.values()

    def publish(self, state: WorldState) -> None:
        """Publish one state of the arm."""
        gripper = self._gripper
        self._position[:-1] = state.position
        self._velocity[:-1] = state.velocity
        self._effort[:-1] = state.effort
        self._position[-1] = gripper.to_joint(state.gripper)
        # The finger's travel falls while the gripper closes.
        per_metre = (gripper.open_position - gripper.closed_position) / FINGER_TRAVEL_M
        self._velocity[-1] = state.finger_velocity_m_s * per_metre
        self._message.header.stamp = to_time(state.stamp_ns)
        self._publisher.publish(self._message)
