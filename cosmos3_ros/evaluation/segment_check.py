"""Hold a planned motion, cubic between knots, against the limits, with its exact extrema.

Shares no code with ``control/``: the fuzz of the controller judges its plans by this.
"""

import numpy as np
from numpy.typing import NDArray

from ..contracts.arrays import frozen_array
from .limit_check import RELATIVE_TOLERANCE
from .limit_file import CheckedLimits
from .limit_report import LimitReport

Array = NDArray[np.float64]

REST_VELOCITY_RAD_S = 1e-9
REST_ACCELERATION_RAD_S2 = 1e-9
JUMP_POSITION_RAD = 1e-9
JUMP_VELOCITY_RAD_S = 1e-8
JUMP_ACCELERATION_RAD_S2 = 1e-6


def check_segments(
    times_s: Array, position: Array, velocity: Array, acceleration: Array, jerk: Array,
    limits: CheckedLimits, *, ends_at_rest: bool = True,
) -> LimitReport:
    """Check K segments of constant jerk between K + 1 knots.

    Extrema are analytic: acceleration is linear, so its extrema are the ends; velocity is extreme where
    ``a + j s = 0``; position is extreme where ``v + a s + j s^2 / 2 = 0``.

    :param times_s: Shape (K + 1,), increasing.
    :param position: Shape (K + 1, N) at the knots; likewise ``velocity`` and ``acceleration``.
    :param jerk: Shape (K, N).
    :param ends_at_rest: Whether the last knot must stand still.
    :return: Violations of position, velocity, velocity_envelope (at knots and turning points),
        acceleration, jerk, continuity between segments, and rest.
    :raises ContractError: Shapes do not fit each other.
    """
    count, joints = len(times_s) - 1, len(limits.joint_names)
    t = frozen_array('times_s', times_s, shape=(count + 1,))
    q, v, a = (
        frozen_array(name, value, shape=(count + 1, joints), finite=False)
        for name, value in (('position', position), ('velocity', velocity), ('acceleration', acceleration)))
    j = frozen_array('jerk', jerk, shape=(count, joints), finite=False)
    report = LimitReport(samples=count + 1, segments=1)
    names = limits.joint_names
    h = np.diff(t)[:, None]
    report.violations['stamp'] = int((h <= 0.0).sum())
    turns = _turning_points(v[:-1], a[:-1], j, h)
    s = np.stack([np.zeros_like(j), np.broadcast_to(h, j.shape), *turns])
    q_all = q[:-1] + s * (v[:-1] + s * (a[:-1] / 2.0 + s * j / 6.0))
    v_all = v[:-1] + s * (a[:-1] + s * j / 2.0)
    q_max, q_min = q_all.max(axis=0), q_all.min(axis=0)
    past = np.maximum(q_max - limits.upper, limits.lower - q_min)
    over = q_max - limits.upper > limits.lower - q_min
    report.record('position', past, np.where(over, q_max, q_min), np.where(over, limits.upper, limits.lower),
                  names, t[:-1], 1e-9)
    a_max = np.maximum(np.abs(a[:-1]), np.abs(a[:-1] + j * h))
    for name, value, bound in (
        ('velocity', np.abs(v_all).max(axis=0), limits.velocity),
        ('acceleration', a_max, limits.acceleration),
        ('jerk', np.abs(j), limits.jerk),
    ):
        full = np.broadcast_to(bound, value.shape)
        report.record(name, value - full, value, full, names, t[:-1], RELATIVE_TOLERANCE * full)
    if limits.envelope is not None:
        for point in range(len(s)):
            _record_envelope(report, q_all[point], v_all[point], limits, t[:-1])
    q_end, v_end, a_end = q_all[1], v_all[1], a[:-1] + j * h
    for found, next_knot, jump in (
        (q_end, q[1:], JUMP_POSITION_RAD), (v_end, v[1:], JUMP_VELOCITY_RAD_S),
        (a_end, a[1:], JUMP_ACCELERATION_RAD_S2),
    ):
        error = np.abs(found - next_knot)
        report.record('continuity', error - jump, error, np.full_like(error, jump), names, t[1:], 0.0)
    if ends_at_rest:
        for value, rest in ((v[-1:], REST_VELOCITY_RAD_S), (a[-1:], REST_ACCELERATION_RAD_S2)):
            report.record('rest', np.abs(value) - rest, np.abs(value), np.full_like(value, rest), names,
                          t[-1:], 0.0)
    return report


def _turning_points(v: Array, a: Array, j: Array, h: Array) -> list[Array]:
    """Return times in each segment where velocity or position may turn, and three between the ends.

    Both forms of each root of ``v + a s + j s^2 / 2`` are returned: one loses digits where the other does
    not. A time that is no root costs an evaluation and cannot make a false violation.
    """
    with np.errstate(divide='ignore', invalid='ignore'):
        root = np.sqrt(np.maximum(a * a - 2.0 * j * v, 0.0))
        candidates = [
            -a / j, (-a + root) / j, (-a - root) / j, 2.0 * v / (-a + root), 2.0 * v / (-a - root)]
    inside = [np.where(np.isfinite(c), np.clip(c, 0.0, h), 0.0) for c in candidates]
    return inside + [np.broadcast_to(h * share, j.shape) for share in (0.25, 0.5, 0.75)]


def _record_envelope(
    report: LimitReport, q: Array, v: Array, limits: CheckedLimits, times_s: Array,
) -> None:
    assert limits.envelope is not None
    bound = limits.envelope.speed(q, v)
    report.record('velocity_envelope', np.abs(v) - bound, np.abs(v), bound, limits.joint_names, times_s, 1e-9)
