"""PID with feed-forward whose every output is a whole plan: one step of PID, then a stop.

The law works on the acceleration that the next node shall have,

    a = a_ref + Kd (v_ref + e_v - v) + integral,    e_v = (Kp / Kd) (q_ref - q),

where q and v are the plan's own, extrapolated to that node, and a_ref, v_ref are feed-forward: the
derivative term acts on the measurement (-Kd v), so a step of the reference gives no derivative kick.
e_v is held below sqrt(2 c A |q_ref - q|), the speed from which a share c of the acceleration limit A
still stops within the error, or a far reference would be overrun for ever.

The jerk that reaches this acceleration is followed by the shortest stop of least jerk that keeps the
limits. If none does, the plan is mixed with what is left of the committed one, exactly as far as the
limits allow (a ratio test: joint limits are linear in the jerks). So a PID can no more leave the
limits than the MPC can, and passes the same verification.
"""

import numpy as np
from numpy.typing import NDArray

from .config import PidGains
from .mpc import SOLVER_MARGIN, JointBounds
from .plan import Plan
from .triple_integrator import Prediction

Array = NDArray[np.float64]

# Steps of the stops that are tried, shortest first; the longest fills the horizon.
STOP_STEPS = (2, 3, 5, 8, 12, 18, 26, 36, 50, 70, 99)
# A stop that touches its bounds to rounding fits.
ROUNDING = 1e-9
# Share of the acceleration limit that a far reference is approached with.
APPROACH_SHARE = 0.5


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
        speed = np.maximum(bounds.velocity_rad_s - bow, 0.1 * bounds.velocity_rad_s) * keep
        self._bend = bounds.acceleration_rad_s2 * keep
        self._jerk = bounds.jerk_rad_s3 * keep
        sag = bounds.acceleration_rad_s2 * h * h / 8.0 + SOLVER_MARGIN
        # Limits of position, velocity, acceleration and jerk, each (4, 1, joints).
        self._low = np.stack([bounds.lower_rad + sag, -speed, -self._bend, -self._jerk])[:, None]
        self._high = np.stack([bounds.upper_rad - sag, speed, self._bend, self._jerk])[:, None]
        # Excess is compared across quantities in units of these.
        self._per_span = 1.0 / (self._high - self._low)
        self._inscribe(bow)
        self._ratio = gains.proportional / gains.derivative if gains.derivative > 0.0 else 0.0
        self._integral = np.zeros(len(bounds.lower_rad))
        self.servo_error = np.zeros(len(bounds.lower_rad))
        """Measured minus commanded position, which the integral takes out."""
        # All plans that are tried as one product with (v0, a0, u0): rows are stop, quantity and step.
        lengths = sorted({min(m, n - 1) for m in STOP_STEPS})
        self._plans = np.concatenate([self._stop_after_one_step(m) for m in lengths])

    def _inscribe(self, bow: Array) -> None:
        """Set up sign (v - slope q) of all chords as products with v and q, and their limits."""
        bounds, h = self._bounds, self._prediction.step_s
        count, joints = len(bounds.chords), len(bounds.lower_rad)
        self._chord_q, self._chord_v = np.zeros((joints, count)), np.zeros((joints, count))
        self._chord_limit = np.zeros(count)
        for k, chord in enumerate(bounds.chords):
            j, sign = chord.joint, 1.0 if chord.upper else -1.0
            self._chord_q[j, k], self._chord_v[j, k] = -sign * chord.slope, sign
            self._chord_limit[k] = sign * chord.offset - (
                bow[j] + abs(chord.slope) * bounds.acceleration_rad_s2[j] * h * h / 8.0
                + SOLVER_MARGIN * bounds.velocity_rad_s[j])
        self._chord_joint = np.array([c.joint for c in bounds.chords], dtype=np.intp)

    def _stop_after_one_step(self, steps: int) -> Array:
        """Return (4 N, 3): q, v, a at nodes 1..N and the jerks of one free step u0 and a stop of least jerk.

        As functions of v0, a0 and u0; positions are relative to the first.

        :param steps: Of the stop.
        """
        p, n = self._prediction, self._prediction.steps
        h = p.step_s
        after_one = np.array([[1.0, h, h * h / 2.0], [0.0, 1.0, h]])
        last = steps - 1
        drive = np.stack([p.forced_v[last, :steps], p.forced_a[last, :steps]])
        free = np.stack([p.free_v[last, 1:], p.free_a[last, 1:]])
        jerks = np.zeros((n, 3))
        jerks[0, 2] = 1.0
        jerks[1: steps + 1] = -np.linalg.pinv(drive) @ free @ after_one
        rows = [jerks]
        for respond, drift in ((p.forced_a, p.free_a), (p.forced_v, p.free_v), (p.forced_q, p.free_q)):
            moved = respond @ jerks
            moved[:, :2] += drift[:, 1:]
            rows.insert(0, moved)
        return np.concatenate(rows)

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
        ahead_v = v + h * a
        error = position[0] - (q + h * v + h * h / 2.0 * a)
        approach = np.sqrt(2.0 * APPROACH_SHARE * self._bend * np.abs(error))
        closing = np.clip(self._ratio * error, -approach, approach)
        wanted = (
            acceleration[0] + gains.derivative * (velocity[0] + closing - ahead_v) + self._integral)
        change = np.clip(wanted, -self._bend, self._bend) - a
        first = np.clip(change, -h * self._jerk, h * self._jerk) / h
        n, joints = self._prediction.steps, np.arange(len(q))
        values = (self._plans @ np.stack([v, a, first])).reshape(-1, 4, n, len(q))
        values[:, 0] += q
        own = np.stack([kept.position[1:], kept.velocity[1:], kept.acceleration[1:], kept.jerk])
        low, high = np.minimum(self._low, own), np.maximum(self._high, own)
        worst = self._worst_excess(values, own, low, high)
        fits = worst <= ROUNDING
        choice = np.where(fits.any(axis=0), fits.argmax(axis=0), worst.argmin(axis=0))
        chosen = values[choice, :, :, joints].transpose(1, 2, 0)
        jerk = chosen[3]
        share = np.ones(len(q)) if bool(fits.any(axis=0).all()) else self._largest_share(
            chosen, own, low, high)
        held = (share < 1.0) | (np.abs(wanted) > self._bend)
        self._integrate(position[0] - (q + self.servo_error), held)
        return np.asarray(kept.jerk + share * (jerk - kept.jerk))

    def _integrate(self, error: Array, held: Array) -> None:
        """Integrate the measured error, except where it would wind up a joint that is held."""
        step = self._gains.integral * error * self._prediction.step_s
        winding = np.logical_and(held, step * self._integral >= 0.0)
        limit = self._gains.integral_limit
        self._integral = np.clip(self._integral + np.where(winding, 0.0, step), -limit, limit)

    def restart(self) -> None:
        """Forget the integral, before a new motion."""
        self._integral = np.zeros_like(self._integral)
        self.servo_error = np.zeros_like(self.servo_error)

    def _above_chords(self, values: Array) -> Array:
        """Return sign (v - slope q) of every chord, (..., N, chords), for ``values`` (..., 4, N, joints)."""
        above: Array = values[..., 1, :, :] @ self._chord_v
        above += values[..., 0, :, :] @ self._chord_q
        return above

    def _worst_excess(self, values: Array, own: Array, low: Array, high: Array) -> Array:
        """Return by how much each candidate (M, 4, N, joints) is outside of its bounds, (M, joints)."""
        excess = np.maximum(low - values, values - high)
        excess *= self._per_span
        worst: Array = excess.max(axis=2).max(axis=1)
        if len(self._chord_joint):
            limit = np.maximum(self._chord_limit, self._above_chords(own))
            over = (self._above_chords(values) - limit).max(axis=1)
            np.maximum.at(worst.T, self._chord_joint, over.T)
        return worst

    def _largest_share(self, values: Array, own: Array, low: Array, high: Array) -> Array:
        """Return per joint the largest share of the change from ``own`` that keeps all bounds.

        :param values: Shape (4, N, joints), as ``own``, ``low`` and ``high``.
        """
        joints = values.shape[2]
        room = np.minimum(1.0, _room(
            (values - own).reshape(-1, joints), (high - own).reshape(-1, joints),
            (low - own).reshape(-1, joints)))
        if len(self._chord_joint):
            mine = self._above_chords(own)
            change = self._above_chords(values) - mine
            spare = np.maximum(self._chord_limit, mine) - mine
            along = _room(change, spare, np.full_like(spare, -np.inf))
            np.minimum.at(room, self._chord_joint, along)
        # Just below the ratio, against rounding; never negative, for kept rows touch their bounds.
        return np.asarray(np.where(room >= 1.0, 1.0, np.clip(room * (1.0 - 1e-9), 0.0, 1.0)))


def _room(change: Array, above: Array, below: Array) -> Array:
    """Return per column the largest factor of ``change`` (N, columns) between ``below`` and ``above``."""
    with np.errstate(divide='ignore', invalid='ignore'):
        down = np.where(change < -ROUNDING, below / change, np.inf)
        factor = np.where(change > ROUNDING, above / change, down)
    result: Array = factor.min(axis=0)
    return result
