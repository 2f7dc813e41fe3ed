"""Where a recorded motion itself exceeds the limits: no controller inside of them can follow it there.

A recording is rows at some 15 Hz; what lies between them is the C2 cubic through them, the smoothest motion
that passes all of them and the one that the controller is asked to follow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from ..contracts.arrays import frozen_array
from .geometry_check import box_distances, link_poses, place, plane_distances, self_distances
from .limit_file import CheckedLimits

Array = NDArray[np.float64]

STEP_S = 0.002
"""Samples at the rate of the commands."""
MERGE_S = 0.1
"""Excursions of one limit with less between them are one."""
_UNITS = {
    'position': 'rad', 'velocity': 'rad/s', 'velocity_envelope': 'rad/s', 'acceleration': 'rad/s^2',
    'jerk': 'rad/s^3', 'tcp_speed': 'm/s', 'elbow_speed': 'm/s', 'self_collision': 'm', 'plane': 'm',
    'workspace': 'm'}


@dataclass(frozen=True, slots=True)
class Exceedance:
    """A stretch of a recording past one limit.

    :param where: Joint or point.
    :param start_s: Seconds after the first row; likewise ``end_s`` and ``worst_s``.
    :param value: The worst value in the stretch, in ``unit``.
    :param allowed: The limit at that instant.
    """

    limit: str
    where: str
    start_s: float
    end_s: float
    worst_s: float
    value: float
    allowed: float
    unit: str

    def __str__(self) -> str:
        """Say it in one sentence."""
        by = abs(self.value - self.allowed)
        share = f' ({by / abs(self.allowed):.0%})' if self.allowed else ''
        return (
            f'{self.limit} of {self.where}, {self.start_s:.2f} to {self.end_s:.2f} s: {self.value:.4g} '
            f'{self.unit} at {self.worst_s:.2f} s, {self.allowed:.4g} is allowed, past it by {by:.3g}{share}')


def find_exceedances(stamps_s: Array, position: Array, limits: CheckedLimits) -> tuple[Exceedance, ...]:
    """Return where the motion through recorded rows leaves the limits, in order of time.

    :param stamps_s: Shape (T,), increasing, T >= 4.
    :param position: Shape (T, N), radians, columns as ``limits.joint_names``.
    :raises ContractError: Shapes do not fit, or a value is not finite.
    """
    stamps = frozen_array('stamps_s', stamps_s, shape=(None,))
    rows = frozen_array('position', position, shape=(len(stamps), len(limits.joint_names)))
    curve = CubicSpline(stamps, rows)
    t = np.arange(stamps[0], stamps[-1], STEP_S)
    q, v, a, j = (np.asarray(curve(t, order)) for order in range(4))
    found: list[Exceedance] = []

    def look(limit: str, value: Array, allowed: Array | float, where: Sequence[str], over: Array) -> None:
        bound = np.broadcast_to(allowed, value.shape)
        for column, name in enumerate(where):
            found.extend(_stretches(
                limit, name, t - stamps[0], value[:, column], bound[:, column], over[:, column]))

    names = limits.joint_names
    look('position', q, limits.upper, names, q - limits.upper)
    look('position', q, limits.lower, names, limits.lower - q)
    for limit, value, bound in (
            ('velocity', v, limits.velocity), ('acceleration', a, limits.acceleration),
            ('jerk', j, limits.jerk)):
        look(limit, np.abs(value), bound, names, np.abs(value) - bound)
    if limits.envelope is not None:
        bound = limits.envelope.speed(q, v)
        look('velocity_envelope', np.abs(v), bound, names, np.abs(v) - bound)
    poses = link_poses(limits, q)
    for name, link, point, speed_limit in limits.points:
        path = place(poses, link, point)
        speed = np.linalg.norm(np.gradient(path, STEP_S, axis=0), axis=1)[:, None]
        look(name, speed, speed_limit, (name.removesuffix('_speed'),), speed - speed_limit)
    for name, distance, least in (
            ('self_collision', self_distances(limits, poses), limits.self_distance_m),
            ('plane', plane_distances(limits, poses), limits.plane_distance_m),
            ('workspace', box_distances(limits, poses), limits.box_distance_m)):
        column = distance[:, None]
        look(name, column, least, ('the arm',), least - column)
    return tuple(sorted(found, key=lambda one: (one.start_s, one.limit, one.where)))


def is_within(times_s: Array, exceedances: Sequence[Exceedance], margin_s: float) -> NDArray[np.bool_]:
    """Tell for every time (M,) whether no exceedance is nearer than ``margin_s``."""
    free = np.ones(len(times_s), dtype=np.bool_)
    for one in exceedances:
        free &= (times_s < one.start_s - margin_s) | (times_s > one.end_s + margin_s)
    return free


def _stretches(
    limit: str, where: str, t: Array, value: Array, allowed: Array, over: Array,
) -> list[Exceedance]:
    past = np.flatnonzero(over > 0.0)
    if len(past) == 0:
        return []
    cuts = np.flatnonzero(np.diff(t[past]) > MERGE_S) + 1
    found = []
    for part in np.split(past, cuts):
        worst = int(part[np.argmax(over[part])])
        found.append(Exceedance(
            limit, where, float(t[part[0]]), float(t[part[-1]]), float(t[worst]), float(value[worst]),
            float(allowed[worst]), _UNITS[limit]))
    return found
