"""Limits from a URDF and from a MoveIt-style joint_limits.yaml."""

from dataclasses import dataclass
from pathlib import Path
import xml.etree.ElementTree as ElementTree

import numpy as np

from .errors import RobotError
from .fields import Fields, read_yaml

# Past these a number is degrees, not radians: no arm joint turns more than twice either way, and the
# fastest in this package does 5.3 rad/s.
HIGHEST_POSITION_RAD = 4.0 * np.pi
HIGHEST_VELOCITY_RAD_S = 50.0
POSITIONS = ('lower_rad', 'upper_rad')
MAGNITUDES = ('velocity_rad_s', 'acceleration_rad_s2', 'jerk_rad_s3', 'effort_nm')


@dataclass(frozen=True, slots=True)
class FileLimits:
    """What one file says about one joint; None where it says nothing.

    :param source: The file, for errors.
    :param envelope: Upper and lower (offset, curvature, stop), as in ``VelocityEnvelope``.
    """

    source: str
    joint: str
    lower_rad: float | None = None
    upper_rad: float | None = None
    velocity_rad_s: float | None = None
    acceleration_rad_s2: float | None = None
    jerk_rad_s3: float | None = None
    effort_nm: float | None = None
    envelope: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None

    def __post_init__(self) -> None:
        """Refuse what is not finite, not positive, inside out, or looks like degrees."""
        where = f'{self.source}: joint {self.joint!r}'
        for name in POSITIONS + MAGNITUDES:
            value = getattr(self, name)
            if value is None:
                continue
            if not np.isfinite(value):
                raise RobotError(f'{where}: {name} {value} arrived, a finite number is needed')
            if name in MAGNITUDES and value <= 0.0:
                raise RobotError(f'{where}: {name} {value:g} arrived, a positive number is needed')
            if name in POSITIONS and abs(value) > HIGHEST_POSITION_RAD:
                raise RobotError(
                    f'{where}: {name} {value:g} arrived; more than 4 pi looks like degrees, '
                    'radians are needed')
        if self.velocity_rad_s is not None and self.velocity_rad_s > HIGHEST_VELOCITY_RAD_S:
            raise RobotError(
                f'{where}: velocity_rad_s {self.velocity_rad_s:g} arrived; more than '
                f'{HIGHEST_VELOCITY_RAD_S:g} looks like degrees, rad/s are needed')
        if self.lower_rad is not None and self.upper_rad is not None and self.lower_rad >= self.upper_rad:
            raise RobotError(
                f'{where}: lower {self.lower_rad:g} is not below upper {self.upper_rad:g} rad')


def read_urdf_limits(path: Path, joint_names: tuple[str, ...]) -> tuple[FileLimits, ...]:
    """Return the limits that a URDF gives for a robot's joints.

    Reads ``<limit lower upper velocity effort>`` and, where Franka's newer descriptions have it,
    ``<position_based_velocity_limits>``. Joints of other robots in the file are left alone.

    :raises RobotError: Not XML, a joint of the robot is missing, fixed or continuous without need, or a
        number is impossible. The text names file, joint and value.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        raise RobotError(f'{path}: cannot be read: {error}') from error
    except ElementTree.ParseError as error:
        raise RobotError(f'{path}: is not valid XML: {error}') from error
    if root.tag != 'robot':
        raise RobotError(f'{path}: the top element is <{root.tag}>, a URDF starts with <robot>')
    elements: dict[str, ElementTree.Element] = {}
    for element in root.findall('joint'):
        name = element.get('name', '')
        if name in elements:
            raise RobotError(f'{path}: the joint {name!r} stands twice')
        elements[name] = element
    missing = [name for name in joint_names if name not in elements]
    if missing:
        raise RobotError(
            f'{path}: the joint {missing[0]!r} is missing; the file has: {", ".join(elements) or "none"}')
    return tuple(_parse_joint(path, name, elements[name]) for name in joint_names)


def _parse_joint(path: Path, name: str, joint: ElementTree.Element) -> FileLimits:
    kind = joint.get('type')
    if kind not in ('revolute', 'continuous'):
        raise RobotError(f'{path}: joint {name!r}: type {kind!r} arrived, revolute or continuous is needed')
    limit = joint.find('limit')
    if limit is None:
        if kind == 'revolute':
            raise RobotError(f'{path}: joint {name!r}: a revolute joint needs <limit>')
        return FileLimits(str(path), name)
    bounded = kind == 'revolute'
    lower = _attribute(path, name, limit, 'lower') if bounded else None
    upper = _attribute(path, name, limit, 'upper') if bounded else None
    return FileLimits(
        str(path), name, lower, upper,
        velocity_rad_s=_attribute(path, name, limit, 'velocity'),
        effort_nm=_attribute(path, name, limit, 'effort'),
        envelope=_envelope(path, name, joint))


def _attribute(path: Path, joint: str, element: ElementTree.Element, key: str) -> float:
    text = element.get(key)
    try:
        return float(text if text is not None else '')
    except ValueError as error:
        raise RobotError(
            f'{path}: joint {joint!r}: <{element.tag}> {key}={text!r} arrived, a number is needed') from error


def _envelope(
    path: Path, name: str, joint: ElementTree.Element,
) -> tuple[tuple[float, float, float], tuple[float, float, float]] | None:
    # v <= sqrt(2 d (q_upper - q)) - offset, with the joint's own ends as stops.
    element = joint.find('position_based_velocity_limits')
    limit = joint.find('limit')
    if element is None or limit is None:
        return None
    deceleration = _attribute(path, name, element, 'deceleration_limit')
    offset = _attribute(path, name, element, 'velocity_offset')
    if deceleration <= 0.0 or offset < 0.0:
        raise RobotError(
            f'{path}: joint {name!r}: deceleration_limit {deceleration:g} and velocity_offset {offset:g} '
            'arrived, a positive one and one of 0 or more are needed')
    lower, upper = (_attribute(path, name, limit, key) for key in ('lower', 'upper'))
    return (offset, 2.0 * deceleration, upper), (offset, 2.0 * deceleration, lower)


def read_joint_limits(path: Path, joint_names: tuple[str, ...]) -> tuple[FileLimits, ...]:
    """Return the limits of a MoveIt-style ``joint_limits.yaml``.

    A joint may be absent, but a joint that the robot does not have is an error: a renamed arm would
    otherwise silently lose its limits. ``has_*: false`` switches the values beside it off.

    :raises RobotError: Unknown joint or key, a ``has_*`` without its value, or an impossible number.
    """
    document = read_yaml(path)
    for scale in ('default_velocity_scaling_factor', 'default_acceleration_scaling_factor'):
        if document.has(scale):
            document.number(scale, lower=0.0, upper=1.0)
    joints = document.section('joint_limits')
    document.close()
    found = []
    for name in joints.names():
        if name not in joint_names:
            raise RobotError(
                f'{path}: the joint {name!r} is unknown; this robot has: {", ".join(joint_names)}')
        found.append(_parse_entry(path, name, joints.section(name)))
    return tuple(found)


def _parse_entry(path: Path, name: str, entry: Fields) -> FileLimits:
    position = _values(entry, 'has_position_limits', ('min_position', 'max_position'))
    velocity = _values(entry, 'has_velocity_limits', ('max_velocity',))
    acceleration = _values(entry, 'has_acceleration_limits', ('max_acceleration',))
    deceleration = _values(entry, 'has_deceleration_limits', ('max_deceleration',))
    jerk = _values(entry, 'has_jerk_limits', ('max_jerk',))
    effort = _values(entry, 'has_effort_limits', ('max_effort',))
    entry.close()
    rates = [x for x in (acceleration[0], deceleration[0]) if x is not None]
    return FileLimits(
        str(path), name, position[0], position[1], velocity_rad_s=velocity[0],
        # One figure serves both directions here, so the smaller one holds.
        acceleration_rad_s2=min(rates) if rates else None, jerk_rad_s3=jerk[0], effort_nm=effort[0])


def _values(entry: Fields, switch: str, keys: tuple[str, ...]) -> tuple[float | None, ...]:
    enabled = False
    if entry.has(switch):
        raw = entry.take(switch)
        if not isinstance(raw, bool):
            raise RobotError(f'{entry.where}: {switch}: {raw!r} arrived, true or false is allowed')
        enabled = raw
    values: list[float | None] = []
    for key in keys:
        if enabled:
            values.append(entry.number(key))
        else:
            values.append(None)
            if entry.has(key):
                entry.take(key)
    return tuple(values)
