"""Hold recorded commands against the limits, with arithmetic of its own.

Velocity, acceleration and jerk are recomputed from the commanded positions and their stamps. For k = 1, 2, 3
the divided difference k! f[t0..tk] of exact samples is a weighted mean of the k-th derivative over [t0, tk]
(mean value theorem for divided differences; Peano kernel where the derivative only exists piecewise). So a
motion within its limits can never fail, at any spacing of the stamps, and no numerical derivative needs
smoothing. What a mean could hide is checked on the commanded velocities and accelerations themselves, which
must also fit the positions.
"""

from dataclasses import dataclass
from math import factorial

import numpy as np
from numpy.typing import NDArray

from ..contracts.arrays import ContractError, frozen_array
from .effort_check import EffortSamples, check_efforts
from .geometry_check import box_distances, link_poses, place, plane_distances, self_distances
from .limit_file import CheckedLimits
from .limit_report import LIMITS, LimitReport

Array = NDArray[np.float64]
Stamps = NDArray[np.int64]

POSITION_ROUNDING_RAD = 2e-15
"""Error of a float64 joint position near pi, with a few roundings of the sampler's polynomial."""
RELATIVE_TOLERANCE = 1e-6
GAP_S = 0.1
"""Commands come at 500 Hz; a pause this long means that the controller was stopped and armed again."""
REST_PERIODS = 3.0
_NAMES = ('velocity', 'acceleration', 'jerk')
GEOMETRY_STRIDE = 5
"""Clearances change by less than 0.1 mm between samples of 2 ms; every fifth is 10 ms."""


@dataclass(frozen=True, slots=True, eq=False)
class CommandLog:
    """Commands as they were sent.

    :param stamps_ns: Shape (M,), the instants that the commands are for.
    :param position: Shape (M, N), radians, columns as ``joint_names``.
    :param velocity: Shape (M, N) or None where the interface carries none; likewise ``acceleration``.
    """

    joint_names: tuple[str, ...]
    stamps_ns: Stamps
    position: Array
    velocity: Array | None = None
    acceleration: Array | None = None

    def __post_init__(self) -> None:
        """Check shapes; values may be anything, even NaN: judging them is the point."""
        stamps = frozen_array('stamps_ns', self.stamps_ns, shape=(None,), dtype=np.int64)
        object.__setattr__(self, 'stamps_ns', stamps)
        shape = (len(stamps), len(self.joint_names))
        for name in ('position', 'velocity', 'acceleration'):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, frozen_array(name, value, shape=shape, finite=False))

    def rows(self, start: int, stop: int) -> 'CommandLog':
        """Return the commands ``start`` up to ``stop``."""
        def cut(value: Array | None) -> Array | None:
            return None if value is None else value[start:stop]

        return CommandLog(
            self.joint_names, self.stamps_ns[start:stop], self.position[start:stop],
            cut(self.velocity), cut(self.acceleration))


def check_commands(
    log: CommandLog, limits: CheckedLimits, *, breaks_ns: tuple[int, ...] = (), ends_at_rest: bool = True,
) -> LimitReport:
    """Check a whole recording.

    The stream is cut where it pauses for ``GAP_S`` and at ``breaks_ns``; every piece must begin and end at
    rest, so that nothing hides in a cut.

    :param breaks_ns: Instants at which the arm was put elsewhere, e.g. resets of a simulation.
    :param ends_at_rest: False if the recording stopped before the arm did.
    :raises ContractError: The joints are not the robot's.
    """
    if log.joint_names != limits.joint_names:
        raise ContractError(
            f'joint_names: {log.joint_names} arrived, the limits of {limits.robot} are for '
            f'{limits.joint_names}')
    report = LimitReport(violations=dict.fromkeys(LIMITS, 0))
    if len(log.stamps_ns) == 0:
        return report
    steps = np.diff(log.stamps_ns)
    report.violations['stamp'] += int((steps <= 0).sum())
    cut = (steps > GAP_S * 1e9) | (steps <= 0)
    for instant in breaks_ns:
        after = int(np.searchsorted(log.stamps_ns, instant))
        if 0 < after < len(log.stamps_ns):
            cut[after - 1] = True
    edges = [0, *(np.flatnonzero(cut) + 1).tolist(), len(log.stamps_ns)]
    origin_ns = int(log.stamps_ns[0])
    for i in range(len(edges) - 1):
        last = i == len(edges) - 2
        piece = log.rows(edges[i], edges[i + 1])
        report.merge(_check_piece(piece, limits, origin_ns, ends_at_rest or not last))
    return report


def _check_piece(log: CommandLog, limits: CheckedLimits, origin_ns: int, ends_at_rest: bool) -> LimitReport:
    report = LimitReport(samples=len(log.stamps_ns), segments=1)
    # Relative to the piece's start: a float64 holds nanoseconds since 1970 only to 0.2 us.
    t = (log.stamps_ns - log.stamps_ns[0]).astype(np.float64) * 1e-9
    shown_s = t + float(log.stamps_ns[0] - origin_ns) * 1e-9
    names, q = limits.joint_names, log.position
    room = np.minimum(q - limits.lower, limits.upper - q)
    nearest = np.where(q < 0.5 * (limits.lower + limits.upper), limits.lower, limits.upper)
    report.record('position', -room, q, nearest, names, shown_s, 1e-9)
    bounds = (limits.velocity, limits.acceleration, limits.jerk)
    for order, name in enumerate(('velocity', 'acceleration', 'jerk'), start=1):
        if len(t) <= order:
            continue
        slope, noise = _divided_difference(t, q, order)
        _record_magnitude(report, name, slope, bounds[order - 1], names, shown_s[order:], noise)
    _check_derivative_fields(report, log, limits, t, shown_s)
    _check_rest(report, log, limits, t, shown_s, ends_at_rest)
    check_geometry(report, q, t, shown_s, limits)
    if log.velocity is not None and log.acceleration is not None:
        finite = np.isfinite(np.hstack([q, log.velocity, log.acceleration])).all(axis=1)
        some = np.flatnonzero(finite)[::GEOMETRY_STRIDE]
        check_efforts(
            report, limits, EffortSamples(q[some], log.velocity[some], log.acceleration[some]), shown_s[some])
    return report


def _divided_difference(t: Array, values: Array, order: int) -> tuple[Array, Array]:
    """Return ``order! f[t_i .. t_{i+order}]``, shape (M - order, N), and its rounding error."""
    total = np.zeros((len(t) - order, values.shape[1]))
    noise = np.zeros(len(t) - order)
    count = len(t) - order
    for i in range(order + 1):
        weight = np.ones(count)
        for j in range(order + 1):
            if j != i:
                weight *= t[i:i + count] - t[j:j + count]
        total += values[i:i + count] / weight[:, None]
        noise += POSITION_ROUNDING_RAD / np.abs(weight)
    # Stamps are whole nanoseconds and exact, so positions are the only source of rounding.
    return factorial(order) * total, factorial(order) * noise[:, None]


def _record_magnitude(
    report: LimitReport, name: str, value: Array, bound: Array, where: tuple[str, ...], times_s: Array,
    noise: Array | float,
) -> None:
    """Record |value| <= bound with the rounding of both."""
    full = np.broadcast_to(bound, value.shape)
    report.record(name, np.abs(value) - full, np.abs(value), full, where, times_s,
                  noise + RELATIVE_TOLERANCE * full)


def _check_derivative_fields(
    report: LimitReport, log: CommandLog, limits: CheckedLimits, t: Array, shown_s: Array,
) -> None:
    """Check the commanded velocities and accelerations, and that they belong to the positions."""
    names, q = limits.joint_names, log.position
    v, a = log.velocity, log.acceleration
    h = np.diff(t)[:, None]
    if v is not None:
        _record_magnitude(report, 'velocity', v, limits.velocity, names, shown_s, 0.0)
        _check_envelope(report, q, v, limits, shown_s)
    if a is not None:
        _record_magnitude(report, 'acceleration', a, limits.acceleration, names, shown_s, 0.0)
    if len(t) < 2:
        return
    # Differences of lower order than those of the positions, so rounding hides less.
    for field, bounds, size in (
        (v, (limits.acceleration, limits.jerk), limits.velocity),
        (a, (limits.jerk,), limits.acceleration),
    ):
        for order, bound in enumerate(bounds, start=1):
            if field is None or len(t) <= order:
                continue
            slope, noise = _divided_difference(t, field, order)
            # The rounding of positions, scaled to the size of this field.
            noise = noise * 2.0 * float(size.max())
            _record_magnitude(report, _NAMES[order + (field is a)], slope, bound, names,
                              shown_s[order:], noise)
    # The trapezoid rule with end correction is exact for the cubic, so for a jerk within j the trapezoid rule
    # misses a motion by at most j h^3 / 12, and that of the accelerations misses the velocity by j h^2 / 4.
    for low, high, miss in (
        (q, v, limits.jerk * h**3 / 12.0 + POSITION_ROUNDING_RAD * 2),
        (v, a, limits.jerk * h**2 / 4.0 + 1e-14),
    ):
        if low is None or high is None:
            continue
        error = np.abs(np.diff(low, axis=0) - 0.5 * h * (high[1:] + high[:-1]))
        report.record('consistency', error - miss, error, miss, names, shown_s[1:],
                      RELATIVE_TOLERANCE * miss + 1e-12)


def _check_envelope(
    report: LimitReport, q: Array, v: Array, limits: CheckedLimits, shown_s: Array,
) -> None:
    """Check the position-dependent speed of robots that have one."""
    if limits.envelope is not None:
        _record_magnitude(
            report, 'velocity_envelope', v, limits.envelope.speed(q, v), limits.joint_names, shown_s, 1e-9)


def _check_rest(
    report: LimitReport, log: CommandLog, limits: CheckedLimits, t: Array, shown_s: Array,
    ends_at_rest: bool,
) -> None:
    """A piece begins at rest and, unless the recording was cut, ends at rest.

    The bound is the speed that full jerk reaches from rest within three of the piece's own periods, so that
    one or two lost messages at the cut are no violation.
    """
    if len(t) < 2:
        return
    speed = np.abs(np.diff(log.position, axis=0) / np.diff(t)[:, None])
    rows = [0, -1] if ends_at_rest else [0]
    bound = np.tile(0.5 * limits.jerk * (REST_PERIODS * float(np.median(np.diff(t))))**2, (len(rows), 1))
    report.record('rest', speed[rows] - bound, speed[rows], bound, limits.joint_names, shown_s[1:][rows],
                  1e-9)


def check_geometry(
    report: LimitReport, q: Array, t: Array, shown_s: Array, limits: CheckedLimits,
) -> None:
    """Check speeds of points (their chord is never longer than their path) and clearances."""
    finite = np.isfinite(q).all(axis=1)
    if not finite.all():
        # NaN positions are counted as position violations; kinematics cannot say more about them.
        q, t, shown_s = q[finite], t[finite], shown_s[finite]
    if len(t) == 0:
        return
    for begin in range(0, len(t), 20_000):
        part = slice(max(0, begin - 1), begin + 20_000)
        _check_points(report, q[part], t[part], shown_s[part], limits)


def _check_points(
    report: LimitReport, q: Array, t: Array, shown_s: Array, limits: CheckedLimits,
) -> None:
    poses = link_poses(limits, q)
    if len(t) > 1:
        for name, link, point, speed_limit in limits.points:
            path = place(poses, link, point)
            speed = (np.linalg.norm(np.diff(path, axis=0), axis=1) / np.diff(t))[:, None]
            bound = np.full_like(speed, speed_limit)
            # Rounding of the kinematics (1e-15 m) over one step.
            noise = 4e-15 / np.diff(t)[:, None] + RELATIVE_TOLERANCE * bound
            report.record(name, speed - bound, speed, bound, (name,), shown_s[1:], noise)
    some = poses[::GEOMETRY_STRIDE]
    for name, distance, least in (
        ('self_collision', self_distances(limits, some), limits.self_distance_m),
        ('plane', plane_distances(limits, some), limits.plane_distance_m),
        ('workspace', box_distances(limits, some), limits.box_distance_m),
    ):
        column = distance[:, None]
        report.record(name, least - column, column, np.full_like(column, least), (name,),
                      shown_s[::GEOMETRY_STRIDE], 1e-9)
