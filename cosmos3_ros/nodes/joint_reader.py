"""Joint states as measurements, quickly: a driver sends the same names again and again."""

from collections.abc import Sequence
import math

import numpy as np
from sensor_msgs.msg import JointState

from cosmos3_ros.contracts import ContractError, JointMeasurement
from cosmos3_ros.robots import GripperSpec

from .messages import joint_measurement, to_ns


class JointReader:
    """Does what :func:`messages.joint_measurement` does, in a fifth of its time after the first message.

    :param joint_names: The robot's joints, in its order.
    :param gripper: Whose joint tells the gripper's opening.
    """

    def __init__(self, joint_names: Sequence[str], gripper: GripperSpec) -> None:
        self._names = tuple(joint_names)
        self._gripper = gripper
        self._known: list[str] = []
        self._order: slice | list[int] = []
        self._gripper_index: int | None = None

    def read(self, message: JointState, offset_ns: int) -> JointMeasurement:
        """Return the robot's part of a joint state.

        :param offset_ns: Added to the stamp (see ``clock.ControlClock``).
        :raises ContractError: As :func:`messages.joint_measurement`.
        """
        if message.name == self._known:
            measurement = self._read_known(message, offset_ns)
            if measurement is not None:
                return measurement
        measurement = joint_measurement(
            message, self._names, gripper_joint=self._gripper.joint_name,
            gripper_closed=self._gripper.to_normalized, offset_ns=offset_ns)
        self._remember(list(message.name))
        return measurement

    def _remember(self, names: list[str]) -> None:
        order = [names.index(name) for name in self._names]
        begin = order[0]
        adjacent = order == list(range(begin, begin + len(order)))
        self._order = slice(begin, begin + len(order)) if adjacent else order
        gripper = self._gripper.joint_name
        self._gripper_index = names.index(gripper) if gripper in names else None
        self._known = names

    def _read_known(self, message: JointState, offset_ns: int) -> JointMeasurement | None:
        """Return None for what the careful reader has to explain."""
        count, efforts = len(self._known), len(message.effort)
        if len(message.position) != count or len(message.velocity) != count or efforts not in (0, count):
            return None
        position = np.frombuffer(message.position, dtype=np.float64)
        velocity = np.frombuffer(message.velocity, dtype=np.float64)
        effort = np.frombuffer(message.effort, dtype=np.float64)[self._order] if efforts else None
        gripper = None
        if self._gripper_index is not None:
            gripper = self._gripper.to_normalized(position[self._gripper_index])
            if math.isnan(gripper):
                return None
        try:
            return JointMeasurement(
                to_ns(message.header.stamp) + offset_ns, self._names, position[self._order],
                velocity[self._order], effort, gripper)
        except ContractError:
            return None
