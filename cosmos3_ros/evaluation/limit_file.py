"""The limits of a robot under a profile, read from the YAML files for the independent check.

This reads ``config/robots/<name>.yaml`` and ``config/profiles.yaml`` itself and shares no code with
``robots/`` or ``control/``: a mistake there must not excuse itself here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
import yaml

from ..resources import shared_file

Array = NDArray[np.float64]


class LimitFileError(ValueError):
    """A robot or profile does not exist or lacks a number. The text names what exists."""


@dataclass(frozen=True, slots=True)
class Capsule:
    """A capsule fixed to a link; link 0 is the base, link i moves with joint i."""

    name: str
    link: int
    start_m: Array
    end_m: Array
    radius_m: float


@dataclass(frozen=True, slots=True)
class Envelope:
    """Position-dependent speed limit of the joints, rows (offset, curvature, stop) of shape (N, 3).

    Upper ``scale * max(0, sqrt(c (stop - q)) - o)``, lower mirrored (libfranka, FR3, ``rate_limiting.h``).
    """

    upper: Array
    lower: Array
    scale: float

    def speed(self, q: Array, v: Array) -> Array:
        """Return how fast each joint may be at ``q`` in the direction of ``v``, shape (M, N)."""
        top = np.sqrt(np.maximum(self.upper[:, 1] * (self.upper[:, 2] - q), 0.0)) - self.upper[:, 0]
        low = np.sqrt(np.maximum(self.lower[:, 1] * (q - self.lower[:, 2]), 0.0)) - self.lower[:, 0]
        return np.asarray(self.scale * np.maximum(np.where(v >= 0.0, top, low), 0.0))


@dataclass(frozen=True, slots=True)
class Body:
    """A mass on a link; inertia (3, 3) about its centre, axes of the link's frame."""

    link: int
    mass_kg: float
    com_m: Array
    inertia_kg_m2: Array


@dataclass(frozen=True, slots=True)
class Masses:
    """Everything that weighs, and the gravity (3,) in the base frame."""

    bodies: tuple[Body, ...]
    gravity_m_s2: Array


@dataclass(frozen=True, slots=True)
class CheckedLimits:
    """Everything that a recorded motion is held against. Arrays have shape (N,) unless said otherwise.

    :param origins: Fixed transform of each joint in its parent's frame, shape (N, 4, 4).
    :param points: Speed-limited points: name, link, position in the link's frame, highest speed in m/s.
    :param pairs: Index pairs of capsules that must keep ``self_distance_m``.
    :param masses: None where the file has no inertial parameters.
    :param planes: Rows (nx, ny, nz, offset): capsules keep ``n . p - offset - radius >= plane_distance_m``.
    """

    robot: str
    profile: str
    joint_names: tuple[str, ...]
    lower: Array
    upper: Array
    velocity: Array
    acceleration: Array
    jerk: Array
    effort: Array
    effort_rate: Array
    envelope: Envelope | None
    origins: Array
    points: tuple[tuple[str, int, Array, float], ...]
    capsules: tuple[Capsule, ...]
    pairs: tuple[tuple[int, int], ...]
    self_distance_m: float
    planes: Array
    plane_distance_m: float
    box: Array
    box_distance_m: float
    masses: Masses | None


def read_limits(robot: str, profile: str, directory: Path | None = None) -> CheckedLimits:
    """Read the limits of ``robot`` under ``profile``.

    :param directory: Directory with ``robots/`` and ``profiles.yaml``; None takes the shipped one.
    :raises LimitFileError: Unknown robot or profile, or a number is missing.
    """
    root = directory if directory is not None else shared_file('config')
    path = root / 'robots' / f'{robot}.yaml'
    if not path.is_file():
        known = sorted(file.stem for file in (root / 'robots').glob('*.yaml'))
        raise LimitFileError(f"robot '{robot}' is unknown; allowed: {', '.join(known)}")
    profiles = yaml.safe_load((root / 'profiles.yaml').read_text())
    if profile not in profiles:
        raise LimitFileError(f"profile '{profile}' is unknown; allowed: {', '.join(profiles)}")
    try:
        return _build(robot, profile, yaml.safe_load(path.read_text()), profiles[profile])
    except KeyError as error:
        raise LimitFileError(f'{path.name} or profiles.yaml lacks {error}') from error


def _build(robot: str, profile: str, data: dict[str, Any], scale: dict[str, Any]) -> CheckedLimits:
    joints = data['joints']
    margin = float(scale['position_margin_rad'])
    range_rad = np.array([joint['position_rad'] for joint in joints], dtype=np.float64)
    jerk = np.array([joint['jerk_rad_s3'] for joint in joints], dtype=np.float64) * scale['jerk_scale']
    if scale['jerk_rad_s3'] is not None:
        jerk = np.minimum(jerk, float(scale['jerk_rad_s3']))
    links = len(joints)
    tool = np.array(data['tool']['xyz_m'], dtype=np.float64)
    points = [('tcp_speed', links, tool, float(scale['tcp_speed_m_s']))]
    points += [
        (f'{point["name"]}_speed', int(point['link']), np.array(point['xyz_m'], dtype=np.float64),
         float(scale['elbow_speed_m_s']))
        for point in data.get('speed_points', ())]
    capsules = tuple(
        Capsule(c['name'], int(c['link']), np.array(c['start_m'], dtype=np.float64),
                np.array(c['end_m'], dtype=np.float64), float(c['radius_m']))
        for c in data['collision']['capsules'])
    excluded = {
        frozenset(pair) for group in data['collision']['excluded'] for pair in group['pairs']}
    pairs = tuple(
        (i, j) for i in range(len(capsules)) for j in range(i + 1, len(capsules))
        if capsules[i].link != capsules[j].link
        and frozenset((capsules[i].name, capsules[j].name)) not in excluded)
    workspace = data['workspace']
    planes = np.array(
        [[*plane['normal'], plane['offset_m']] for plane in workspace['planes']], dtype=np.float64)
    return CheckedLimits(
        robot=robot, profile=profile, joint_names=tuple(joint['name'] for joint in joints),
        lower=range_rad[:, 0] + margin, upper=range_rad[:, 1] - margin,
        velocity=_scaled(joints, 'velocity_rad_s', scale['velocity_scale']),
        acceleration=_scaled(joints, 'acceleration_rad_s2', scale['acceleration_scale']),
        jerk=jerk, effort=_scaled(joints, 'effort_nm', scale['effort_scale']),
        effort_rate=_scaled(joints, 'effort_rate_nm_s', scale['effort_scale']),
        envelope=_envelope(joints, float(scale['envelope_scale'])),
        origins=np.stack([_transform(joint['xyz_m'], joint['rpy_rad']) for joint in joints]),
        points=tuple(points), capsules=capsules, pairs=pairs,
        self_distance_m=float(scale['self_collision_distance_m']),
        planes=planes.reshape(-1, 4), plane_distance_m=float(scale['table_distance_m']),
        box=np.array([workspace['lower_m'], workspace['upper_m']], dtype=np.float64),
        box_distance_m=float(scale['workspace_distance_m']), masses=_masses(data.get('dynamics')))


def _scaled(joints: list[dict[str, Any]], key: str, scale: float) -> Array:
    return np.array([joint[key] for joint in joints], dtype=np.float64) * float(scale)


def _envelope(joints: list[dict[str, Any]], scale: float) -> Envelope | None:
    rows = [joint.get('envelope') for joint in joints]
    if not any(rows):
        return None
    # A joint without an envelope gets one that never binds.
    free = {'upper': [0.0, 1e12, 1e12], 'lower': [0.0, 1e12, -1e12]}
    filled = [row or free for row in rows]
    return Envelope(
        np.array([row['upper'] for row in filled], dtype=np.float64),
        np.array([row['lower'] for row in filled], dtype=np.float64), scale)


def _masses(dynamics: dict[str, Any] | None) -> Masses | None:
    if dynamics is None:
        return None
    bodies = []
    for body in dynamics['bodies']:
        xx, yy, zz, xy, xz, yz = body['inertia_kg_m2']
        bodies.append(Body(
            int(body['link']), float(body['mass_kg']), np.array(body['com_m'], dtype=np.float64),
            np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]], dtype=np.float64)))
    return Masses(tuple(bodies), np.array(dynamics['gravity_m_s2'], dtype=np.float64))


def _transform(xyz: list[float], rpy: list[float]) -> Array:
    """Return the homogeneous transform of a URDF origin: R = Rz(yaw) Ry(pitch) Rx(roll)."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy), np.sin(rpy)
    return np.array([
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr, xyz[0]],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr, xyz[1]],
        [-sp, cp * sr, cp * cr, xyz[2]],
        [0.0, 0.0, 0.0, 1.0]])
