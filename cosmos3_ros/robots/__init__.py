"""Robots as data: limits, kinematics, collision capsules, camera slots."""

from .camera import CameraMount, CameraSlot
from .capsules import Capsule, CapsuleModel
from .dynamics import RigidBody, RigidBodyDynamics
from .errors import RobotError
from .gripper import GripperSpec
from .kinematics import Kinematics, SpeedPoint
from .limits import JointLimits, VelocityEnvelope
from .loading import load_robot, profile_names, robot_names, scale_limits
from .profile import Profile
from .reach import ReachViolation, check_reachable
from .robot import Robot
from .workspace import Workspace

__all__ = [
    'CameraMount', 'CameraSlot', 'Capsule', 'CapsuleModel', 'GripperSpec', 'JointLimits', 'Kinematics',
    'Profile', 'ReachViolation', 'RigidBody', 'RigidBodyDynamics', 'Robot', 'RobotError', 'SpeedPoint',
    'VelocityEnvelope', 'Workspace', 'check_reachable', 'load_robot', 'profile_names', 'robot_names',
    'scale_limits',
]
