"""A robot: everything that the controller, the simulator and the nodes know about one arm."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..contracts import frozen_array
from .camera import CameraSlot
from .capsules import CapsuleModel
from .dynamics import RigidBodyDynamics
from .errors import RobotError
from .gripper import GripperSpec
from .kinematics import Kinematics
from .limits import JointLimits
from .profile import Profile
from .workspace import Workspace

COMMAND_INTERFACES = ('joint_trajectory', 'position', 'velocity', 'joint_state', 'effort')


@dataclass(frozen=True, slots=True, eq=False)
class Robot:
    """One arm under one profile.

    :param name: Name in its YAML.
    :param title: Product name.
    :param joint_names: N names as in ``joint_states``.
    :param base_frame: Frame of positions, capsules and workspace.
    :param limits: What may be commanded: datasheet and extra files, scaled by the profile; positions
        already keep the profile's margin.
    :param hardware_limits: The datasheet merged with the extra files, unscaled.
    :param home_rad: Shape (N,), a collision-free rest position inside ``limits``.
    :param command_interfaces: What the robot's driver accepts.
    :param action_contracts: Action contracts whose chunks this robot accepts.
    :param dynamics: None where no inertial parameters are known.
    :param velocity_lowered: Joints whose velocity was lowered below the profile's fraction, because
        they could not brake within ``profile.braking_time_s`` otherwise.
    """

    name: str
    title: str
    joint_names: tuple[str, ...]
    base_frame: str
    limits: JointLimits
    hardware_limits: JointLimits
    profile: Profile
    kinematics: Kinematics
    collision: CapsuleModel
    workspace: Workspace
    home_rad: NDArray[np.float64]
    gripper: GripperSpec
    cameras: tuple[CameraSlot, ...]
    command_interfaces: tuple[str, ...]
    action_contracts: tuple[str, ...]
    dynamics: RigidBodyDynamics | None
    velocity_lowered: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that the parts speak of the same joints and that home is allowed."""
        count = len(self.joint_names)
        if self.limits.names != self.joint_names or self.kinematics.joint_count != count:
            raise RobotError(f'robot {self.name!r}: limits, kinematics and joint_names do not match')
        home = frozen_array('home_rad', self.home_rad, shape=(count,))
        object.__setattr__(self, 'home_rad', home)
        outside = (home < self.limits.lower_rad) | (home > self.limits.upper_rad)
        if outside.any():
            i = int(np.argmax(outside))
            raise RobotError(
                f'robot {self.name!r}: home_rad of {self.joint_names[i]} is {home[i]:g}, but the limits '
                f'are {self.limits.lower_rad[i]:g} to {self.limits.upper_rad[i]:g} rad')
        unknown = [c for c in self.command_interfaces if c not in COMMAND_INTERFACES]
        if unknown or not self.command_interfaces:
            raise RobotError(
                f'robot {self.name!r}: command_interfaces {self.command_interfaces} arrived, '
                f'{", ".join(COMMAND_INTERFACES)} are allowed')
