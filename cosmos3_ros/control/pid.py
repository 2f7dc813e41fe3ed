"""PID with feed-forward whose every output is a whole plan: one step of PID, then a stop.

The law works on the acceleration that the next node shall have,

    a = a_ref + Kp (q_ref - q) + Kd (v_ref - v) + integral,

where q and v are the plan's own, extrapolated to that node, and v_ref is feed-forward: the derivative
term acts on the measurement (-Kd v), so a step of the reference's position gives no kick. The jerk
that reaches this acceleration is followed by the shortest stop of least jerk that keeps the limits.
If none does, the plan is mixed with what is left of the committed one, exactly as far as the limits
allow (a ratio test: joint limits are linear in the jerks). So a PID can no more leave the limits than
the MPC can, and passes the same verification.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .config import PidGains
from .mpc import SOLVER_MARGIN, JointBounds
from .plan import Plan
from .triple_integrator import Prediction

Array = NDArray[np.float64]

# Steps of the stops that are tried, shortest first; the longest fills the horizon.
# A stop that touches its bounds to rounding fits.
ROUNDING = 1e-9
STOP_STEPS = (2, 3, 4, 6, 8, 11, 15, 20, 26, 34, 44, 56, 72, 92)


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Quantities that are bounded, linear in the jerks: values (rows, joints) and their bounds."""

    value: Array
    lower: Array
    upper: Array


class Pid:
    """The PID tracker.

    :param prediction: Grid of the plans.
    :param bounds: Limits.
    :param gains: Gains in units of acceleration.
    """

    def __init__(self, prediction: Prediction, bounds: JointBounds, gains: PidGains) -> None:
        p = self._prediction = prediction
        self._bounds, self._gains = bounds, gains
        h, n = p.step_s, p.steps
        bow = np.minimum(bounds.jerk_rad_s3, 2.0 * bounds.acceleration_rad_s2 / h) * h * h / 8.0
        keep = 1.0 - SOLVER_MARGIN
        self._bow = bow
        self._speed = np.maximum(bounds.velocity_rad_s - bow, 0.1 * bounds.velocity_rad_s) * keep
        self._bend = bounds.acceleration_rad_s2 * keep
        self._jerk = bounds.jerk_rad_s3 * keep
        sag = bounds.acceleration_rad_s2 * h * h / 8.0 + SOLVER_MARGIN
        self._lower, self._upper = bounds.lower_rad + sag, bounds.upper_rad - sag
        self._integral = np.zeros(len(bounds.lower_rad))
        self.servo_error = np.zeros(len(bounds.lower_rad))
        """Measured minus commanded position, which the integral takes out."""
        lengths = sorted({min(m, n - 1) for m in STOP_STEPS})
        # jerks = _plans[i] @ (v0, a0, u0) for the i-th stop.
        self._plans = np.stack([self._stop_after_one_step(m) for m in lengths])

    def _stop_after_one_step(self, steps: int) -> Array:
        """Return (N, 3): jerks of one free step u0 and a stop of least jerk over ``steps``."""
        p, n = self._prediction, self._prediction.steps
        h = p.step_s
        after_one = np.array([[1.0, h, h * h / 2.0], [0.0, 1.0, h]])
        last = steps - 1
        drive = np.stack([p.forced_v[last, :steps], p.forced_a[last, :steps]])
        free = np.stack([p.free_v[last, 1:], p.free_a[last, 1:]])
        jerks = np.zeros((n, 3))
        jerks[0, 2] = 1.0
        jerks[1: steps + 1] = -np.linalg.pinv(drive) @ free @ after_one
        return jerks

    def solve(
        self, state: Array, kept: Plan, position: Array, velocity: Array, acceleration: Array,
    ) -> Array | None:
        """Return the jerks (N, joints) of the plan.

        :param state: Shape (3, joints), the state at the first node.
        :param kept: What is left of the committed plan.
        :param position: Shape (N, joints), the reference at nodes 1..N, of which the first counts;
            likewise ``velocity`` and ``acceleration``.
        """
        h, gains = self._prediction.step_s, self._gains
        q, v, a = state
        ahead_q, ahead_v = q + h * v + h * h / 2.0 * a, v + h * a
        error = position[0] - ahead_q
        wanted = (
            acceleration[0] + gains.proportional * error + gains.derivative * (velocity[0] - ahead_v)
            + self._integral)
        first = np.clip(np.clip(wanted, -self._bend, self._bend) - a, -h * self._jerk, h * self._jerk) / h
        drives = np.stack([v, a, first])
        candidates = self._plans @ drives
        rows = self._rows_of(candidates, state, kept)
        # Normalised by each quantity's range, so that quantities compare.
        span = np.maximum(rows.upper - rows.lower, 1e-12)
        excess = np.maximum(rows.lower - rows.value, rows.value - rows.upper) / span
        worst = excess.max(axis=1)
        fits = worst <= ROUNDING
        choice = np.where(fits.any(axis=0), fits.argmax(axis=0), worst.argmin(axis=0))
        joints = np.arange(len(q))
        jerk: Array = candidates[choice, :, joints].T
        share = self._largest_share(jerk, state, kept)
        held = (share < 1.0) | (np.abs(wanted) > self._bend)
        self._integrate(position[0] - (q + self.servo_error), wanted, held)
        return np.asarray(kept.jerk + share * (jerk - kept.jerk))

    def _integrate(self, error: Array, wanted: Array, held: Array) -> None:
        """Integrate the measured error, except where it would wind up a joint that is held."""
        gains = self._gains
        step = gains.integral * error * self._prediction.step_s
        winding = np.logical_and(held, step * wanted > 0.0)
        limit = gains.integral_limit
        self._integral = np.clip(self._integral + np.where(winding, 0.0, step), -limit, limit)

    def restart(self) -> None:
        """Forget the integral, before a new motion."""
        self._integral = np.zeros_like(self._integral)
        self.servo_error = np.zeros_like(self.servo_error)

    def _rows_of(self, jerk: Array, state: Array, kept: Plan) -> _Rows:
        """Return all bounded rows of jerks (..., N, joints); bounds admit ``kept``."""
        p, b = self._prediction, self._bounds
        q = p.free_q @ state + p.forced_q @ jerk
        v = p.free_v @ state + p.forced_v @ jerk
        a = p.free_a @ state + p.forced_a @ jerk
        values, lower, upper = [q, v, a, jerk], [], []
        for low, high, own in (
            (self._lower, self._upper, kept.position[1:]), (-self._speed, self._speed, kept.velocity[1:]),
            (-self._bend, self._bend, kept.acceleration[1:]), (-self._jerk, self._jerk, kept.jerk),
        ):
            lower.append(np.minimum(low, own))
            upper.append(np.maximum(high, own))
        for chord in b.chords:
            j, sign = chord.joint, 1.0 if chord.upper else -1.0
            loss = self._bow[j] + abs(chord.slope) * b.acceleration_rad_s2[j] * p.step_s**2 / 8.0
            limit = sign * chord.offset - loss - SOLVER_MARGIN * b.velocity_rad_s[j]
            own = sign * (kept.velocity[1:, j] - chord.slope * kept.position[1:, j])
            row = np.zeros_like(q)
            row[..., j] = sign * (v[..., j] - chord.slope * q[..., j])
            values.append(row)
            high = np.full((*own.shape, q.shape[-1]), np.inf)
            high[:, j] = np.maximum(limit, own)
            lower.append(np.full_like(high, -np.inf))
            upper.append(high)
        return _Rows(np.concatenate(values, axis=-2), np.concatenate(lower), np.concatenate(upper))

    def _largest_share(self, jerk: Array, state: Array, kept: Plan) -> Array:
        """Return per joint the largest share of the change from ``kept`` that keeps all rows."""
        new = self._rows_of(jerk, state, kept)
        old = self._rows_of(kept.jerk, state, kept)
        change = new.value - old.value
        with np.errstate(divide='ignore', invalid='ignore'):
            room = np.where(
                change > 0.0, (new.upper - old.value) / change,
                np.where(change < 0.0, (new.lower - old.value) / change, np.inf))
        # Just below the ratio, against rounding; never negative, for kept rows touch their bounds.
        share = room.min(axis=0) * (1.0 - 1e-9)
        return np.asarray(np.where(share >= 1.0, 1.0, np.clip(share, 0.0, 1.0)))
