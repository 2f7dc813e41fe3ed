"""Profiles: how much of a robot's datasheet a session may use."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from .errors import RobotError
from .fields import Fields, read_yaml


@dataclass(frozen=True, slots=True)
class Profile:
    """One row of ``config/profiles.yaml``, where every number has its reason.

    :param velocity_scale: Fraction of the datasheet's joint velocity.
    :param acceleration_scale: Fraction of the datasheet's joint acceleration.
    :param jerk_scale: Fraction of the datasheet's jerk.
    :param jerk_rad_s3: Absolute cap on jerk besides, or None.
    :param effort_scale: Fraction of the datasheet's effort and effort rate.
    :param envelope_scale: Fraction of a position-dependent velocity envelope.
    :param position_margin_rad: Distance kept from both position limits.
    :param braking_time_s: Longest time any joint may need from its highest velocity to rest; the
        effective velocity is lowered where acceleration and jerk cannot do it.
    :param tcp_speed_m_s: Highest speed of the point ``tool``.
    :param elbow_speed_m_s: Highest speed of the point ``elbow``.
    :param self_collision_distance_m: Distance kept between capsules.
    :param table_distance_m: Distance kept between moving capsules and the table.
    :param workspace_distance_m: Distance kept from the faces of the workspace box.
    :param joint_state_stale_s: Age past which a joint state is stale.
    :param chunk_stale_s: Time past the end of the newest chunk after which the arm stops as stale.
    :param speed_scale_stale_s: Age past which the speed-scale input is stale.
    :param tracking_error_rad: Measured minus commanded position past which the arm stops.
    :param effort_residual_scale: Fraction of the effort limit that measured minus modelled effort may
        reach before the arm stops.
    :param external_force_n: External force past which the arm stops.
    """

    name: str
    description: str
    velocity_scale: float
    acceleration_scale: float
    jerk_scale: float
    jerk_rad_s3: float | None
    effort_scale: float
    envelope_scale: float
    position_margin_rad: float
    braking_time_s: float
    tcp_speed_m_s: float
    elbow_speed_m_s: float
    self_collision_distance_m: float
    table_distance_m: float
    workspace_distance_m: float
    joint_state_stale_s: float
    chunk_stale_s: float
    speed_scale_stale_s: float
    tracking_error_rad: float
    effort_residual_scale: float
    external_force_n: float

    def __post_init__(self) -> None:
        """Check that scales are within 0..1 and everything else is positive."""
        may_be_zero = {'position_margin_rad', 'table_distance_m', 'workspace_distance_m',
                       'self_collision_distance_m'}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str) or value is None:
                continue
            if value < 0.0 or (value == 0.0 and field.name not in may_be_zero):
                raise RobotError(
                    f'profile {self.name!r}: {field.name} {value:g} arrived, a positive number is needed')
            if field.name.endswith('_scale') and value > 1.0:
                raise RobotError(
                    f'profile {self.name!r}: {field.name} {value:g} arrived, at most 1 is allowed')


def read_profiles(path: Path) -> Mapping[str, Profile]:
    """Return the profiles of a YAML file by name, in the file's order.

    :raises RobotError: Unknown or missing keys, or values outside their range.
    """
    document = read_yaml(path)
    profiles = {}
    for name in document.names():
        profiles[name] = _parse(name, document.section(name))
    if not profiles:
        raise RobotError(f'{path}: no profile found, at least one is needed')
    return profiles


def _parse(name: str, section: Fields) -> Profile:
    values: dict[str, float | None] = {}
    description = section.text('description')
    for field in fields(Profile):
        if field.name in ('name', 'description'):
            continue
        nullable = field.name == 'jerk_rad_s3'
        values[field.name] = section.optional(field.name) if nullable else section.number(field.name)
    section.close()
    return Profile(name=name, description=description, **values)  # type: ignore[arg-type]
