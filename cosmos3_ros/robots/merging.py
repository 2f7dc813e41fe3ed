"""Merge limits of several sources: the tighter wins."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from .errors import RobotError
from .limit_files import FileLimits
from .limits import JointLimits, VelocityEnvelope

_SHAPE = ('offset_upper', 'curvature_upper', 'stop_upper', 'offset_lower', 'curvature_lower', 'stop_lower')
_MAGNITUDES = ('velocity_rad_s', 'acceleration_rad_s2', 'jerk_rad_s3', 'effort_nm')


def merge_limits(limits: JointLimits, extra: Iterable[FileLimits]) -> JointLimits:
    """Return ``limits`` with every tighter number of ``extra``.

    The result never allows more than ``limits`` or any of ``extra`` does, in whatever order they come.

    :raises RobotError: A joint that ``limits`` lacks, or ranges that do not overlap. The text names the
        file, the joint and the values.
    """
    lower, upper = limits.lower_rad.copy(), limits.upper_rad.copy()
    values = {key: getattr(limits, key).copy() for key in _MAGNITUDES}
    envelope = limits.envelope
    for entry in extra:
        if entry.joint not in limits.names:
            raise RobotError(
                f'{entry.source}: the joint {entry.joint!r} is unknown; this robot has: '
                f'{", ".join(limits.names)}')
        i = limits.names.index(entry.joint)
        before = lower[i], upper[i]
        if entry.lower_rad is not None:
            lower[i] = max(lower[i], entry.lower_rad)
        if entry.upper_rad is not None:
            upper[i] = min(upper[i], entry.upper_rad)
        if lower[i] >= upper[i]:
            raise RobotError(
                f'{entry.source}: joint {entry.joint!r}: {entry.lower_rad} to {entry.upper_rad} rad '
                f'contradicts {before[0]:g} to {before[1]:g} rad from the other sources: no position is left')
        for key in _MAGNITUDES:
            value = getattr(entry, key)
            if value is not None:
                values[key][i] = min(values[key][i], value)
        if entry.envelope is not None:
            envelope = _tighten(envelope, limits, i, *entry.envelope)
    return replace(limits, lower_rad=lower, upper_rad=upper, envelope=envelope, **values)


def _tighten(
    envelope: VelocityEnvelope | None,
    limits: JointLimits,
    joint: int,
    upper: tuple[float, float, float],
    lower: tuple[float, float, float],
) -> VelocityEnvelope:
    # The curve sqrt(c (stop - q)) - o falls with each of: smaller c, smaller stop, larger o. Taking the
    # tighter of each lies on or below both curves.
    if envelope is None:
        envelope = _loose(limits)
    arrays = {key: getattr(envelope, key).copy() for key in _SHAPE}
    for side, (offset, curvature, stop), nearer in (('upper', upper, min), ('lower', lower, max)):
        for key, value, choose in (
            (f'offset_{side}', offset, max), (f'curvature_{side}', curvature, min),
            (f'stop_{side}', stop, nearer),
        ):
            arrays[key][joint] = choose(arrays[key][joint], value)
    return VelocityEnvelope(**arrays, scale=envelope.scale)


def _loose(limits: JointLimits) -> VelocityEnvelope:
    # So steep that no velocity anywhere in the range is touched; any real curve is tighter in each number.
    n = len(limits.names)
    steep = np.full(n, 1e6)
    return VelocityEnvelope(
        np.zeros(n), steep, limits.upper_rad + 1.0, np.zeros(n), steep, limits.lower_rad - 1.0)
