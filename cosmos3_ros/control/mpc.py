"""Jerk MPC: one small QP per joint on the plan's own grid, ending at rest, solved by DAQP.

Re-solving between grid points makes hard constraints infeasible, so a plan always starts on a node
of the one before it: what is left of that plan, followed by rest, is then feasible, and the bounds
are opened to hold it exactly. Limits hold between nodes as well: a joint's velocity leaves the line
between two nodes by at most j h^2 / 8, its position by at most a h^2 / 8 (interpolation error of a
quadratic), and the bounds at the nodes are tightened by that much.

The rows of the velocity envelopes are most of a QP that has them, and rarely bind. So each joint is solved
without them first: an optimum that keeps them is the optimum with them. Only the others are solved again.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .config import MpcWeights
from .envelope import Chord
from .joint_qps import JointQps
from .plan import Plan
from .triple_integrator import Prediction

Array = NDArray[np.float64]

# Relative distance that the solver keeps from a limit, so that its tolerance (1e-6 of a limit on a
# row scaled by that limit) can never reach it.
SOLVER_MARGIN = 1e-4
UNBOUNDED = 1e30


@dataclass(frozen=True, slots=True, eq=False)
class JointBounds:
    """Limits that the solver holds, each of shape (joints,)."""

    lower_rad: Array
    upper_rad: Array
    velocity_rad_s: Array
    acceleration_rad_s2: Array
    jerk_rad_s3: Array
    chords: tuple[Chord, ...] = ()


class Mpc:
    """Plan jerks that follow a reference inside the limits and end at rest.

    :param prediction: The grid.
    :param bounds: The limits.
    :param weights: The cost.
    """

    def __init__(self, prediction: Prediction, bounds: JointBounds, weights: MpcWeights) -> None:
        self._prediction = p = prediction
        self._bounds = bounds
        n, h = p.steps, p.step_s
        self._n = n
        self._joints = joints = len(bounds.lower_rad)
        ratio = (n - np.arange(1, n + 1)) / (n * max(1.0 - weights.full_weight_fraction, 1e-6))
        fade = np.clip(ratio, 0.0, 1.0) ** 2 + 1e-3
        jerk, speed, bend = bounds.jerk_rad_s3, bounds.velocity_rad_s, bounds.acceleration_rad_s2
        # Within one step the acceleration cannot turn by more than from -a to a.
        bow = np.minimum(jerk, 2.0 * bend / h) * h * h / 8.0
        keep = 1.0 - SOLVER_MARGIN
        self._speed = np.maximum(speed - bow, 0.1 * speed) * keep
        self._bend = bend * keep
        sag = bend * h * h / 8.0 + SOLVER_MARGIN
        self._lower, self._upper = bounds.lower_rad + sag, bounds.upper_rad - sag

        weighted_q, weighted_v = fade[:, None] * p.forced_q, fade[:, None] * p.forced_v
        hessian = (
            weights.position * p.forced_q.T @ weighted_q + weights.velocity * p.forced_v.T @ weighted_v
            + weights.jerk * np.eye(n))
        # In units of the jerk limit and with a unit mean diagonal, DAQP's tolerances mean the same
        # for every robot.
        self._cost_scale = n / (jerk**2 * np.trace(hessian))
        # Gradients, in rows as the solver takes them, from velocity and acceleration of the first state, the
        # reference's distance from its position, and the reference's velocity, below each other.
        self._gradient = np.ascontiguousarray(np.vstack([
            (weights.position * weighted_q.T @ p.free_q[:, 1:]
             + weights.velocity * weighted_v.T @ p.free_v[:, 1:]).T,
            -weights.position * weighted_q, -weights.velocity * weighted_v]))
        self._gradient_scale = (jerk * self._cost_scale)[:, None]
        hessians = [
            np.ascontiguousarray(hessian * jerk[j] ** 2 * self._cost_scale[j]) for j in range(joints)]

        chords_of = [[c for c in bounds.chords if c.joint == j] for j in range(joints)]
        every_row: list[Array] = []
        # The chords' constraints, sign (v - slope q) / speed, as products with v and q; their limits; and the
        # joint and first row of each.
        count = len(bounds.chords)
        self._chord_q, self._chord_v = np.zeros((joints, count)), np.zeros((joints, count))
        self._chord_limit = np.zeros(count)
        places: list[tuple[int, int]] = []
        for j in range(joints):
            blocks = [
                p.forced_q, p.forced_v[:-1] / speed[j], p.forced_a[:-1] / bend[j],
                np.stack([p.forced_v[-1] / speed[j], p.forced_a[-1] / bend[j]])]
            for i, chord in enumerate(chords_of[j]):
                sign = 1.0 if chord.upper else -1.0
                blocks.append(sign * (p.forced_v - chord.slope * p.forced_q) / speed[j])
                loss = bow[j] + abs(chord.slope) * bend[j] * h * h / 8.0
                column = len(places)
                self._chord_limit[column] = (sign * chord.offset - loss) / speed[j] - SOLVER_MARGIN
                self._chord_v[j, column] = sign / speed[j]
                self._chord_q[j, column] = -sign * chord.slope / speed[j]
                places.append((j, (4 + i) * n))
            every_row.append(np.ascontiguousarray(jerk[j] * np.vstack(blocks)))
        rest = [slice(4 * n - 2, 4 * n)] * joints
        self._plain = JointQps(hessians, [rows[: 3 * n] for rows in every_row], rest)
        self._enveloped = JointQps(hessians, every_row, rest)
        # Bounds as one row per joint: jerk, what all joints have, rest, chords, which a joint may lack;
        # and of what all joints have, one column per joint: limits, the free response, the scale of each row.
        lengths = [n + len(rows) for rows in every_row]
        self._upper_table = np.empty((joints, max(lengths)))
        self._lower_table = np.empty_like(self._upper_table)
        self._bounds_of = [
            (self._upper_table[j, :m], self._lower_table[j, :m]) for j, m in enumerate(lengths)]
        self._plain_bounds_of = [(high[: 4 * n], low[: 4 * n]) for high, low in self._bounds_of]
        place = np.array(places, dtype=np.intp).reshape(-1, 2)
        self._chord_joint = place[:, 0]
        self._chord_at = place[:, :1], place[:, 1:] + np.arange(n)
        self._lower_table[self._chord_at] = -UNBOUNDED
        sizes = (n, n, n - 1, n - 1)
        self._high = np.repeat(np.stack([jerk * keep, self._upper, self._speed, self._bend]), sizes, axis=0)
        self._low = np.repeat(np.stack([-jerk * keep, self._lower, -self._speed, -self._bend]), sizes, axis=0)
        self._row_scale = np.repeat(1.0 / np.stack([jerk, np.ones(joints), speed, bend]), sizes, axis=0)
        # The free responses of these rows and of the terminal v and a.
        self._free = np.concatenate([
            np.zeros((n, 3)), p.free_q, p.free_v[:-1], p.free_a[:-1], p.free_v[-1:], p.free_a[-1:]])
        self._rest_scale = -1.0 / np.stack([speed, bend])
        # The same rows of a plan's nodes: jerks, positions, velocities, accelerations.
        grid = np.arange(4 * (n + 1)).reshape(4, n + 1)
        self._of_plan = np.concatenate([grid[3, :-1], grid[0, 1:], grid[1, 1:-1], grid[2, 1:-1]])
        self._is_new = True

    def solve(self, state: Array, kept: Plan, position: Array, velocity: Array) -> Array | None:
        """Return the jerks (N, joints) that follow the reference best, or None if a QP failed.

        :param state: Shape (3, joints), the state at the first node.
        :param kept: What is left of the committed plan from that node on; always feasible.
        :param position: Shape (N, joints), the reference at nodes 1..N; likewise ``velocity``.
        """
        gradient, free = self._assemble(state, kept, position, velocity)
        for _ in range(2):
            jerk = self._solve_all(gradient, kept, free)
            if jerk is not None:
                return jerk
            # A warm start can end in a bad working set: once more from scratch.
            self._plain.restart()
            self._enveloped.restart()
        return None

    def _assemble(
        self, state: Array, kept: Plan, position: Array, velocity: Array,
    ) -> tuple[Array, Array]:
        """Fill all bounds but the chords' in place; return gradients (joints, N) and the free response."""
        # Relative to the present position, so that standing still at the reference costs exactly nothing.
        causes = np.concatenate([state[1:], position - state[0], velocity])
        gradient: Array = causes.T @ self._gradient
        gradient *= self._gradient_scale
        # The bounds always admit what is left of the committed plan: an arm that starts outside of a
        # tightened bound may come back, and rounding can never make a QP infeasible.
        left = kept.nodes.reshape(-1, self._joints).take(self._of_plan, axis=0)
        free = self._free @ state
        rows = len(left)
        for table, bound, widest in (
                (self._lower_table, self._low, np.minimum), (self._upper_table, self._high, np.maximum)):
            wide = widest(bound, left)
            wide -= free[:rows]
            wide *= self._row_scale
            table[:, :rows] = wide.T
        end = (free[rows:] * self._rest_scale).T
        self._lower_table[:, rows: rows + 2] = end
        self._upper_table[:, rows: rows + 2] = end
        return gradient, free

    def _assemble_chords(self, kept: Plan, free_q: Array, free_v: Array) -> None:
        """Fill the rows of the velocity envelopes, given the free response, (N, joints) each."""
        left = kept.velocity[1:] @ self._chord_v + kept.position[1:] @ self._chord_q
        np.maximum(left, self._chord_limit, out=left)
        left -= free_v @ self._chord_v
        left -= free_q @ self._chord_q
        self._upper_table[self._chord_at] = left.T

    def _solve_all(self, gradient: Array, kept: Plan, free: Array) -> Array | None:
        """Solve the QP of every joint; None if one of them has no optimum.

        :param free: Free response, in rows as ``_free`` has them.
        """
        n = self._n
        jerk: Array = np.empty((n, self._joints))
        for j, bounds in enumerate(self._plain_bounds_of):
            x = self._plain.solve(j, gradient[j], *bounds)
            if x is None:
                return None
            jerk[:, j] = x
        jerk *= self._bounds.jerk_rad_s3
        if len(self._chord_limit) and not self._keep_envelopes(jerk, gradient, kept, free):
            return None
        # NaN compares false, so it is refused too.
        return jerk if bool(np.abs(jerk).max() < np.inf) else None

    def _keep_envelopes(self, jerk: Array, gradient: Array, kept: Plan, free: Array) -> bool:
        """Solve the joints of ``jerk`` (N, joints) past a chord again; False if one has no optimum."""
        n, p = self._n, self._prediction
        free_q, free_v = free[n: 2 * n], np.concatenate([free[2 * n: 3 * n - 1], free[-2:-1]])
        found = (free_v + p.forced_v @ jerk) @ self._chord_v + (free_q + p.forced_q @ jerk) @ self._chord_q
        # NaN is past everything.
        past = set(self._chord_joint[~(found <= self._chord_limit).all(axis=0)].tolist())
        if self._is_new:
            # The first time is slow, so it belongs into the warm-up.
            past, self._is_new = set(self._chord_joint.tolist()), False
        if not past:
            return True
        self._assemble_chords(kept, free_q, free_v)
        for j in sorted(past):
            x = self._enveloped.solve(j, gradient[j], *self._bounds_of[j])
            if x is None:
                return False
            jerk[:, j] = x * self._bounds.jerk_rad_s3[j]
        return True
