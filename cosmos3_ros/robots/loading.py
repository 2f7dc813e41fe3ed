"""Find, read and scale a robot."""

from dataclasses import replace
from functools import cache
import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..resources import shared_file
from .description import Description, read_description
from .errors import RobotError
from .limit_files import FileLimits, read_joint_limits, read_urdf_limits
from .limits import JointLimits
from .merging import merge_limits
from .profile import Profile, read_profiles
from .robot import Robot

_logger = logging.getLogger(__name__)
DEFAULT_PROFILE = 'commissioning'


def robot_names() -> tuple[str, ...]:
    """Return the names of the shipped robots."""
    return tuple(sorted(path.stem for path in shared_file('config', 'robots').glob('*.yaml')))


def profile_names() -> tuple[str, ...]:
    """Return the names of the profiles."""
    return tuple(_profiles())


def load_robot(
    name_or_path: str,
    profile: str = DEFAULT_PROFILE,
    *,
    urdf: Path | None = None,
    joint_limits: Path | None = None,
) -> Robot:
    """Return a robot under a profile.

    :param name_or_path: One of ``robot_names()``, or the path of a YAML file (ending in .yaml).
    :param profile: One of ``profile_names()``.
    :param urdf: URDF whose limits are merged in; the tighter wins.
    :param joint_limits: MoveIt-style joint_limits.yaml, merged likewise.
    :raises RobotError: Unknown name (the text lists the valid ones), or files that do not fit.
    """
    description = read_description(_find(name_or_path))
    profiles = _profiles()
    if profile not in profiles:
        raise RobotError(f'profile: {profile!r} arrived, {", ".join(profiles)} are allowed')
    hardware = _merge_files(description, urdf, joint_limits)
    chosen = profiles[profile]
    limits = scale_limits(hardware, chosen)
    expected = hardware.velocity_rad_s * chosen.velocity_scale
    lowered = tuple(
        name for name, is_low in zip(limits.names, limits.velocity_rad_s < expected * (1 - 1e-9), strict=True)
        if is_low)
    if lowered:
        _logger.info(
            'robot %s, profile %s: velocity lowered on %s so that each joint can stop within %.2f s',
            description.name, profile, ', '.join(lowered), chosen.braking_time_s)
    try:
        return Robot(
            name=description.name, title=description.title, joint_names=description.joint_names,
            base_frame=description.base_frame, limits=limits, hardware_limits=hardware, profile=chosen,
            kinematics=description.kinematics, collision=description.collision,
            workspace=description.workspace, home_rad=description.home_rad, gripper=description.gripper,
            cameras=description.cameras, command_interfaces=description.command_interfaces,
            action_contracts=description.action_contracts, dynamics=description.dynamics,
            velocity_lowered=lowered)
    except RobotError as error:
        raise RobotError(f'{description.path}: {error}') from error


def scale_limits(hardware: JointLimits, profile: Profile) -> JointLimits:
    """Return the limits that a profile leaves of the hardware's.

    Velocity is lowered further where ``v / a + a / j`` (a trapezoidal acceleration from the highest
    velocity to rest) would exceed the profile's braking time.

    :raises RobotError: The margin leaves a joint no range, or acceleration and jerk no velocity.
    """
    acceleration = hardware.acceleration_rad_s2 * profile.acceleration_scale
    jerk = hardware.jerk_rad_s3 * profile.jerk_scale
    if profile.jerk_rad_s3 is not None:
        jerk = np.minimum(jerk, profile.jerk_rad_s3)
    stoppable = highest_stoppable_velocity(acceleration, jerk, profile.braking_time_s)
    if (stoppable <= 0.0).any():
        i = int(np.argmax(stoppable <= 0.0))
        raise RobotError(
            f'{hardware.names[i]}: {acceleration[i]:g} rad/s^2 is not reached within half of '
            f'{profile.braking_time_s:g} s at {jerk[i]:g} rad/s^3; lower acceleration_scale of the profile '
            f'{profile.name!r} or raise its jerk')
    envelope = hardware.envelope
    if envelope is not None:
        envelope = replace(envelope, scale=envelope.scale * profile.envelope_scale)
    return JointLimits(
        hardware.names,
        hardware.lower_rad + profile.position_margin_rad,
        hardware.upper_rad - profile.position_margin_rad,
        np.minimum(hardware.velocity_rad_s * profile.velocity_scale, stoppable),
        acceleration,
        jerk,
        hardware.effort_nm * profile.effort_scale,
        hardware.effort_rate_nm_s * profile.effort_scale,
        envelope,
    )


def highest_stoppable_velocity(
    acceleration: NDArray[np.float64], jerk: NDArray[np.float64], duration_s: float,
) -> NDArray[np.float64]:
    """Return the velocity v with ``v / a + a / j = duration_s``, rad/s (not positive: there is none)."""
    return acceleration * (duration_s - acceleration / jerk)


@cache
def _profiles() -> dict[str, Profile]:
    return dict(read_profiles(shared_file('config', 'profiles.yaml')))


def _find(name_or_path: str) -> Path:
    if name_or_path.endswith(('.yaml', '.yml')):
        path = Path(name_or_path).expanduser()
        if not path.is_file():
            raise RobotError(f'robot: there is no file {path}')
        return path
    names = robot_names()
    if name_or_path not in names:
        raise RobotError(
            f'robot: {name_or_path!r} arrived, {", ".join(names)} or the path of a .yaml file are allowed')
    return shared_file('config', 'robots', f'{name_or_path}.yaml')


def _merge_files(description: Description, urdf: Path | None, joint_limits: Path | None) -> JointLimits:
    names = description.joint_names
    extra: list[FileLimits] = []
    if urdf is not None:
        extra.extend(read_urdf_limits(Path(urdf), names))
    if joint_limits is not None:
        extra.extend(read_joint_limits(Path(joint_limits), names))
    return merge_limits(description.datasheet, extra)
