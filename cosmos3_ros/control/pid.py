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
        self._limits = (
            (bounds.lower_rad + sag, bounds.upper_rad - sag), (-speed, speed),
            (-self._bend, self._bend), (-self._jerk, self._jerk))
        # Excess is compared across quantities in units of these.
        self._spans = tuple(high - low for low, high in self._limits)
        chords = bounds.chords
        self._chord_joint = np.array([c.joint for c in chords], dtype=np.intp)
        self._chord_slope = np.array([c.slope for c in chords])
        self._chord_sign = np.array([1.0 if c.upper else -1.0 for c in chords])
        loss = [
            bow[c.joint] + abs(c.slope) * bounds.acceleration_rad_s2[c.joint] * h * h / 8.0
            + SOLVER_MARGIN * bounds.velocity_rad_s[c.joint] for c in chords]
        self._chord_limit = self._chord_sign * np.array([c.offset for c in chords]) - np.array(loss)
        self._ratio = gains.proportional / gains.derivative if gains.derivative > 0.0 else 0.0
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
        ahead_v = v + h * a
        error = position[0] - (q + h * v + h * h / 2.0 * a)
        approach = np.sqrt(2.0 * APPROACH_SHARE * self._bend * np.abs(error))
        closing = np.clip(self._ratio * error, -approach, approach)
        wanted = (
            acceleration[0] + gains.derivative * (velocity[0] + closing - ahead_v) + self._integral)
        change = np.clip(wanted, -self._bend, self._bend) - a
        first = np.clip(change, -h * self._jerk, h * self._jerk) / h
        candidates = self._plans @ np.stack([v, a, first])
        choice = self._choose(candidates, state, kept)
        jerk: Array = candidates[choice, :, np.arange(len(q))].T
        share = self._largest_share(jerk, state, kept)
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

    def _trajectory(self, jerk: Array, state: Array) -> tuple[Array, Array, Array, Array]:
        """Return position, velocity, acceleration at nodes 1..N and the jerk, each (..., N, joints)."""
        p = self._prediction
        return (
            p.free_q @ state + p.forced_q @ jerk, p.free_v @ state + p.forced_v @ jerk,
            p.free_a @ state + p.forced_a @ jerk, jerk)

    def _bounded(self, kept: Plan) -> tuple[tuple[Array, Array], ...]:
        """Return the lower and upper bounds of the four quantities; they admit ``kept``."""
        own = (kept.position[1:], kept.velocity[1:], kept.acceleration[1:], kept.jerk)
        return tuple(
            (np.minimum(low, mine), np.maximum(high, mine))
            for (low, high), mine in zip(self._limits, own, strict=True))

    def _above_chords(self, position: Array, velocity: Array) -> Array:
        """Return sign * (v - slope q) for every chord, (..., N, chords)."""
        j = self._chord_joint
        return self._chord_sign * (velocity[..., j] - self._chord_slope * position[..., j])

    def _choose(self, candidates: Array, state: Array, kept: Plan) -> NDArray[np.intp]:
        """Return per joint the first candidate (M, N, joints) inside of all bounds, or the least bad."""
        values = self._trajectory(candidates, state)
        worst = np.full(candidates.shape[::2], -np.inf)
        for value, (low, high), span in zip(values, self._bounded(kept), self._spans, strict=True):
            excess = np.maximum(low - value, value - high).max(axis=1) / span
            np.maximum(worst, excess, out=worst)
        if len(self._chord_joint):
            above = self._above_chords(values[0], values[1])
            limit = np.maximum(self._chord_limit, self._above_chords(kept.position[1:], kept.velocity[1:]))
            over = (above - limit).max(axis=1)
            for chord, joint in enumerate(self._chord_joint):
                np.maximum(worst[:, joint], over[:, chord], out=worst[:, joint])
        fits = worst <= ROUNDING
        choice: NDArray[np.intp] = np.where(fits.any(axis=0), fits.argmax(axis=0), worst.argmin(axis=0))
        return choice

    def _largest_share(self, jerk: Array, state: Array, kept: Plan) -> Array:
        """Return per joint the largest share of the change from ``kept`` that keeps all bounds."""
        own = (kept.position[1:], kept.velocity[1:], kept.acceleration[1:], kept.jerk)
        values = self._trajectory(jerk, state)
        room = np.ones(jerk.shape[1])
        for value, mine, (low, high) in zip(values, own, self._bounded(kept), strict=True):
            np.minimum(room, _room(value - mine, high - mine, low - mine), out=room)
        if len(self._chord_joint):
            mine = self._above_chords(kept.position[1:], kept.velocity[1:])
            change = self._above_chords(values[0], values[1]) - mine
            spare = np.maximum(self._chord_limit, mine) - mine
            along = _room(change, spare, np.full_like(spare, -np.inf))
            for chord, joint in enumerate(self._chord_joint):
                room[joint] = min(room[joint], along[chord])
        # Just below the ratio, against rounding; never negative, for kept rows touch their bounds.
        return np.asarray(np.where(room >= 1.0, 1.0, np.clip(room * (1.0 - 1e-9), 0.0, 1.0)))


def _room(change: Array, above: Array, below: Array) -> Array:
    """Return per column the largest factor of ``change`` (N, columns) between ``below`` and ``above``."""
    with np.errstate(divide='ignore', invalid='ignore'):
        down = np.where(change < -ROUNDING, below / change, np.inf)
        factor = np.where(change > ROUNDING, above / change, down)
    result: Array = factor.min(axis=0)
    return result
