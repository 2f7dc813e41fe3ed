"""Jerk MPC: one small QP per joint on the plan's own grid, ending at rest, solved by DAQP.

Re-solving between grid points makes hard constraints infeasible, so a plan always starts on a node
of the one before it: what is left of that plan, followed by rest, is then feasible, and the bounds
are opened to hold it exactly. Limits hold between nodes as well: a joint's velocity leaves the line
between two nodes by at most j h^2 / 8, its position by at most a h^2 / 8 (interpolation error of a
quadratic), and the bounds at the nodes are tightened by that much.
"""

from dataclasses import dataclass

import daqp
import numpy as np
from numpy.typing import NDArray

from .config import MpcWeights
from .envelope import Chord
from .plan import Plan
from .triple_integrator import Prediction

Array = NDArray[np.float64]

# Relative distance that the solver keeps from a limit, so that its tolerance (1e-6 of a limit on a
# row scaled by that limit) can never reach it.
SOLVER_MARGIN = 1e-4
EQUALITY = 5
"""DAQP's constraint sense: active and immutable."""
UNBOUNDED = 1e30
OPTIMAL = 1


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
        self._hessian = [
            np.ascontiguousarray(hessian * jerk[j] ** 2 * self._cost_scale[j]) for j in range(joints)]

        chords_of = [[c for c in bounds.chords if c.joint == j] for j in range(joints)]
        self._rows: list[Array] = []
        self._sense: list[NDArray[np.int32]] = []
        # The chords' constraints, sign (v - slope q) / speed, as products with v and q; their limits; and the
        # joint and first row of each.
        count = len(bounds.chords)
        self._chord_q, self._chord_v = np.zeros((joints, count)), np.zeros((joints, count))
        self._chord_limit = np.zeros(count)
        places: list[tuple[int, int]] = []
        for j in range(joints):
            blocks = [p.forced_q, p.forced_v[:-1] / speed[j], p.forced_a[:-1] / bend[j]]
            for i, chord in enumerate(chords_of[j]):
                sign = 1.0 if chord.upper else -1.0
                blocks.append(sign * (p.forced_v - chord.slope * p.forced_q) / speed[j])
                loss = bow[j] + abs(chord.slope) * bend[j] * h * h / 8.0
                column = len(places)
                self._chord_limit[column] = (sign * chord.offset - loss) / speed[j] - SOLVER_MARGIN
                self._chord_v[j, column] = sign / speed[j]
                self._chord_q[j, column] = -sign * chord.slope / speed[j]
                places.append((j, 4 * n - 2 + i * n))
            blocks.append(np.stack([p.forced_v[-1] / speed[j], p.forced_a[-1] / bend[j]]))
            rows = np.ascontiguousarray(jerk[j] * np.vstack(blocks))
            self._rows.append(rows)
            sense = np.zeros(n + len(rows), dtype=np.int32)
            sense[-2:] = EQUALITY
            self._sense.append(sense)
        # Bounds as one row per joint, jerk first, of which a joint without chords uses less; and what
        # all joints have, one column per joint: limits, the free response, and the scale of each row.
        lengths = np.array([len(sense) for sense in self._sense])
        self._upper_table = np.empty((joints, int(lengths.max())))
        self._lower_table = np.empty_like(self._upper_table)
        self._upper_bound = [self._upper_table[j, :lengths[j]] for j in range(joints)]
        self._lower_bound = [self._lower_table[j, :lengths[j]] for j in range(joints)]
        self._rest_at = np.arange(joints)[:, None], lengths[:, None] + np.array([-2, -1])
        place = np.array(places, dtype=np.intp).reshape(-1, 2)
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
        self._models: list[daqp.Model] | None = None

    def solve(self, state: Array, kept: Plan, position: Array, velocity: Array) -> Array | None:
        """Return the jerks (N, joints) that follow the reference best, or None if a QP failed.

        :param state: Shape (3, joints), the state at the first node.
        :param kept: What is left of the committed plan from that node on; always feasible.
        :param position: Shape (N, joints), the reference at nodes 1..N; likewise ``velocity``.
        """
        gradient = self._assemble(state, kept, position, velocity)
        for _ in range(2):
            jerk = self._solve_all(gradient)
            if jerk is not None:
                return jerk
            # A warm start can end in a bad working set: once more from scratch.
            self._models = None
        return None

    def _assemble(self, state: Array, kept: Plan, position: Array, velocity: Array) -> Array:
        """Fill the bounds in place; return the gradients (joints, N)."""
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
        self._lower_table[self._rest_at] = end
        self._upper_table[self._rest_at] = end
        if len(self._chord_limit):
            self._assemble_chords(kept, free)
        return gradient

    def _assemble_chords(self, kept: Plan, free: Array) -> None:
        """Fill the rows of the velocity envelopes; ``free`` as ``_free`` has its rows."""
        n = self._n
        free_v = np.concatenate([free[2 * n: 3 * n - 1], free[-2:-1]])
        left = kept.velocity[1:] @ self._chord_v + kept.position[1:] @ self._chord_q
        np.maximum(left, self._chord_limit, out=left)
        left -= free_v @ self._chord_v
        left -= free[n: 2 * n] @ self._chord_q
        self._upper_table[self._chord_at] = left.T

    def _solve_all(self, gradient: Array) -> Array | None:
        """Solve the QP of every joint; None if one of them has no optimum."""
        first = self._models is None
        if self._models is None:
            self._models = [daqp.Model() for _ in range(self._joints)]
        jerk: Array = np.empty((self._n, self._joints))
        for j, model in enumerate(self._models):
            high, low = self._upper_bound[j], self._lower_bound[j]
            if first:
                flag, _ = model.setup(
                    self._hessian[j], gradient[j], self._rows[j], high.copy(), low.copy(),
                    self._sense[j].copy())
                if flag < 0:
                    return None
            elif model.update(f=gradient[j], bupper=high, blower=low) < 0:
                return None
            x, _, flag, _ = model.solve()
            if flag != OPTIMAL:
                return None
            jerk[:, j] = x
        jerk *= self._bounds.jerk_rad_s3
        # NaN compares false, so it is refused too.
        return jerk if bool(np.abs(jerk).max() < np.inf) else None
