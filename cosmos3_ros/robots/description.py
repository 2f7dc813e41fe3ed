"""Parse a robot's YAML into its parts."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..contracts.arrays import ContractError, check_names
from .camera import CameraMount, CameraSlot
from .capsules import Capsule, CapsuleModel
from .dynamics import RigidBody, RigidBodyDynamics
from .errors import RobotError
from .fields import Fields, read_yaml
from .gripper import GripperSpec
from .kinematics import Kinematics, SpeedPoint
from .limits import JointLimits, VelocityEnvelope
from .workspace import Workspace

LIMIT_KEYS = ('velocity_rad_s', 'acceleration_rad_s2', 'jerk_rad_s3', 'effort_nm', 'effort_rate_nm_s')


@dataclass(frozen=True, slots=True, eq=False)
class Description:
    """A robot's YAML, parsed, before a profile is applied. Fields as in ``Robot``."""

    path: Path
    name: str
    title: str
    joint_names: tuple[str, ...]
    base_frame: str
    datasheet: JointLimits
    kinematics: Kinematics
    collision: CapsuleModel
    workspace: Workspace
    home_rad: NDArray[np.float64]
    gripper: GripperSpec
    cameras: tuple[CameraSlot, ...]
    command_interfaces: tuple[str, ...]
    action_contracts: tuple[str, ...]
    dynamics: RigidBodyDynamics | None


def read_description(path: Path) -> Description:
    """Return the description in a YAML file.

    :raises RobotError: Unknown, missing or repeated keys, wrong lengths or contradictory numbers.
    """
    document = read_yaml(path)
    try:
        return _parse(path, document)
    except RobotError as error:
        raise error if str(path) in str(error) else RobotError(f'{path}: {error}') from error
    except ContractError as error:
        raise RobotError(f'{path}: {error}') from error


def _parse(path: Path, document: Fields) -> Description:
    joints = document.sections('joints')
    names, limits, xyz, rpy = _parse_joints(joints)
    kinematics = _parse_kinematics(document, xyz, rpy)
    collision = _parse_collision(document.section('collision'), kinematics)
    description = Description(
        path=path,
        name=document.text('name'),
        title=document.text('title'),
        joint_names=names,
        base_frame=document.text('base_frame'),
        datasheet=limits,
        kinematics=kinematics,
        collision=collision,
        workspace=_parse_workspace(document.section('workspace')),
        home_rad=document.vector('home_rad', len(names)),
        gripper=_parse_gripper(document.section('gripper')),
        cameras=tuple(_parse_camera(section) for section in document.sections('cameras')),
        command_interfaces=document.texts('command_interfaces'),
        action_contracts=document.texts('action_contracts'),
        dynamics=_parse_dynamics(document, kinematics),
    )
    document.close()
    return description


def _parse_joints(
    joints: list[Fields],
) -> tuple[tuple[str, ...], JointLimits, NDArray[np.float64], NDArray[np.float64]]:
    names, bounds, xyz, rpy, envelopes = [], [], [], [], []
    values: dict[str, list[float]] = {key: [] for key in LIMIT_KEYS}
    for joint in joints:
        names.append(joint.text('name'))
        xyz.append(joint.vector('xyz_m', 3))
        rpy.append(joint.vector('rpy_rad', 3))
        bounds.append(joint.vector('position_rad', 2))
        for key in LIMIT_KEYS:
            values[key].append(joint.positive(key))
        if joint.has('envelope'):
            envelopes.append(_parse_envelope(joint.section('envelope')))
        joint.close()
    checked = check_names('joint names', tuple(names))
    if envelopes and len(envelopes) != len(names):
        raise RobotError(
            f'joints: {len(envelopes)} of {len(names)} joints have an envelope, all or none is allowed')
    envelope = None
    if envelopes:
        upper, lower = (np.array([pair[side] for pair in envelopes]).T for side in (0, 1))
        envelope = VelocityEnvelope(upper[0], upper[1], upper[2], lower[0], lower[1], lower[2])
    lower_rad, upper_rad = np.array(bounds).T
    limits = JointLimits(
        checked, lower_rad, upper_rad, envelope=envelope,
        **{key: np.array(column) for key, column in values.items()})
    return checked, limits, np.array(xyz), np.array(rpy)


def _parse_envelope(section: Fields) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    tolerance = section.number('tolerance_rad_s', lower=0.0)
    sides = []
    for key in ('upper', 'lower'):
        offset, curvature, stop = section.vector(key, 3)
        sides.append(np.array([offset + tolerance, curvature, stop]))
    section.close()
    return sides[0], sides[1]


def _parse_kinematics(
    document: Fields, xyz: NDArray[np.float64], rpy: NDArray[np.float64],
) -> Kinematics:
    tool = document.section('tool')
    tool_xyz, tool_rpy = tool.vector('xyz_m', 3), tool.vector('rpy_rad', 3)
    tool.close()
    points = [SpeedPoint('tool', len(xyz), tool_xyz)]
    for section in document.sections('speed_points'):
        points.append(SpeedPoint(
            section.text('name'), section.whole('link', lower=0, upper=len(xyz)), section.vector('xyz_m', 3)))
        section.close()
    check_names('speed_points', tuple(point.name for point in points))
    return Kinematics(xyz, rpy, tool_xyz, tool_rpy, tuple(points))


def _parse_collision(section: Fields, kinematics: Kinematics) -> CapsuleModel:
    capsules = []
    for item in section.sections('capsules'):
        capsules.append(Capsule(
            item.text('name'), item.whole('link', lower=0, upper=kinematics.joint_count),
            item.vector('start_m', 3), item.vector('end_m', 3), item.positive('radius_m')))
        item.close()
    excluded = set()
    for item in section.sections('excluded'):
        item.text('reason')
        pairs = item.items('pairs')
        for pair in pairs:
            if not isinstance(pair, list) or len(pair) != 2:
                raise RobotError(f'{item.where}: the pair {pair!r} arrived, two capsule names are needed')
            excluded.add(frozenset(pair))
        item.close()
    section.close()
    return CapsuleModel(kinematics, tuple(capsules), frozenset(excluded))


def _parse_workspace(section: Fields) -> Workspace:
    names, normals, offsets = [], [], []
    lower, upper = section.vector('lower_m', 3), section.vector('upper_m', 3)
    for plane in section.sections('planes'):
        names.append(plane.text('name'))
        normals.append(plane.vector('normal', 3))
        offsets.append(plane.number('offset_m'))
        plane.close()
    section.close()
    return Workspace(lower, upper, tuple(names), np.array(normals), np.array(offsets))


def _parse_gripper(section: Fields) -> GripperSpec:
    spec = GripperSpec(
        section.text('joint_name'), section.number('open_position'), section.number('closed_position'),
        section.text('polarity'), section.number('threshold_close'), section.number('threshold_open'),
        section.number('min_dwell_s'))
    section.close()
    return spec


def _parse_camera(section: Fields) -> CameraSlot:
    nested = section.section('mount')
    mount = CameraMount(
        nested.text('parent'), nested.vector('xyz_m', 3), nested.vector('rpy_rad', 3),
        nested.positive('vertical_fov_rad'))
    nested.close()
    slot = CameraSlot(
        section.text('name'), section.text('topic'), section.text('frame_id'),
        section.whole('width', lower=1, upper=8192), section.whole('height', lower=1, upper=8192), mount)
    section.close()
    return slot


def _parse_dynamics(document: Fields, kinematics: Kinematics) -> RigidBodyDynamics | None:
    if document.has('dynamics') and document.peek('dynamics') is None:
        document.take('dynamics')
        return None
    section = document.section('dynamics')
    bodies = []
    for item in section.sections('bodies'):
        xx, yy, zz, xy, xz, yz = item.vector('inertia_kg_m2', 6)
        bodies.append(RigidBody(
            item.text('name'), item.whole('link', lower=1, upper=kinematics.joint_count),
            item.positive('mass_kg'), item.vector('com_m', 3),
            np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])))
        item.close()
    gravity = section.vector('gravity_m_s2', 3)
    section.close()
    return RigidBodyDynamics(kinematics, tuple(bodies), gravity)
