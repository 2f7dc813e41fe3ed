"""A plan: piecewise-constant jerk on an absolute grid that ends at rest, sampled by absolute time."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import ContractError

from .triple_integrator import Prediction

Array = NDArray[np.float64]

# A plan may end with this much motion before the last correction takes it away; more is no rest.
REST_VELOCITY_RAD_S = 1e-4
REST_ACCELERATION_RAD_S2 = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Extrema:
    """Exact extrema of every segment, each of shape (N, joints)."""

    position_min: Array
    position_max: Array
    speed_max: Array
    acceleration_max: Array


@dataclass(frozen=True, slots=True, eq=False)
class Peaks:
    """Upper bounds of every joint's motion over a whole plan, each of shape (joints,).

    Between two nodes a cubic leaves their range by at most h^2 / 8 times its largest second derivative
    (interpolation error), so these are never below the exact extrema, and they cost a fraction of them.
    """

    position_min: Array
    position_max: Array
    speed: Array
    acceleration: Array
    jerk: Array


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """N segments of constant jerk; before the start and after the end the plan stands still.

    :param start_ns: Absolute time of the first node.
    :param step_ns: Length of a segment.
    :param nodes: Shape (4, N + 1, joints): position, rad, velocity, acceleration, and the jerk of the segment
        that begins at the node, rad/s^3 (zero at the last). One array, so that a plan costs few calls.
    """

    start_ns: int
    step_ns: int
    nodes: Array

    @property
    def position(self) -> Array:
        """Shape (N + 1, joints), radians."""
        position: Array = self.nodes[0]
        return position

    @property
    def velocity(self) -> Array:
        """Shape (N + 1, joints), rad/s."""
        velocity: Array = self.nodes[1]
        return velocity

    @property
    def acceleration(self) -> Array:
        """Shape (N + 1, joints), rad/s^2."""
        acceleration: Array = self.nodes[2]
        return acceleration

    @property
    def jerk(self) -> Array:
        """Shape (N, joints), rad/s^3."""
        return self.nodes[3, :-1]

    @property
    def steps(self) -> int:
        """Number of segments N."""
        return int(self.nodes.shape[1]) - 1

    @property
    def end_ns(self) -> int:
        """Absolute time of the last node, from which on the plan rests."""
        return self.start_ns + self.steps * self.step_ns

    @classmethod
    def of(
        cls, start_ns: int, step_ns: int, position: Array, velocity: Array, acceleration: Array, jerk: Array,
    ) -> 'Plan':
        """Return the plan through given nodes (N + 1, joints) each, and jerks (N, joints); unchecked."""
        nodes = np.zeros((4, *position.shape))
        nodes[0], nodes[1], nodes[2], nodes[3, :-1] = position, velocity, acceleration, jerk
        return cls(start_ns, step_ns, nodes)

    @classmethod
    def hold(cls, position: Array, start_ns: int, step_ns: int, steps: int) -> 'Plan':
        """Return the plan that stands still at ``position``."""
        nodes = np.zeros((4, steps + 1, len(position)))
        nodes[0] = position
        return cls(start_ns, step_ns, nodes)

    @classmethod
    def from_jerk(
        cls, start_ns: int, step_ns: int, state: Array, jerk: Array, prediction: Prediction,
    ) -> 'Plan':
        """Integrate ``jerk`` from ``state`` and make the end an exact rest.

        A solver meets the terminal equations to its own tolerance only, so the remaining motion is
        taken away by the smallest change of the jerks (a pseudo-inverse, once per plan).

        :param state: Shape (3, joints): position, velocity, acceleration at ``start_ns``.
        :param jerk: Shape (N, joints).
        :raises ContractError: The jerks do not lead to rest.
        """
        rows = prediction.rollout @ np.concatenate([state, jerk])
        velocity_end, acceleration_end = np.abs(rows[-2:]).max(axis=1).tolist()
        # Written so that NaN fails too.
        if not (velocity_end <= REST_VELOCITY_RAD_S and acceleration_end <= REST_ACCELERATION_RAD_S2):
            raise ContractError(
                f'a plan ended at {velocity_end:.3g} rad/s and {acceleration_end:.3g} rad/s^2, '
                'rest is needed')
        nodes = rows[:-2].reshape(4, len(jerk) + 1, -1)
        nodes[:3, 0] = state
        nodes[1:, -1] = 0.0
        return cls(start_ns, step_ns, nodes)

    def state(self, node: int) -> Array:
        """Return (3, joints): position, velocity, acceleration at ``node``, at rest past the end."""
        return self.nodes[:3, min(node, self.steps)]

    def shifted(self, nodes: int) -> 'Plan':
        """Return what is left after ``nodes`` segments, filled with rest to the same length."""
        nodes = min(max(nodes, 0), self.steps)
        if nodes == 0:
            return self
        left = np.zeros_like(self.nodes)
        left[:, :-nodes] = self.nodes[:, nodes:]
        left[0, -nodes:] = self.nodes[0, -1]
        return Plan(self.start_ns + nodes * self.step_ns, self.step_ns, left)

    def moved(self, shift_ns: int) -> 'Plan':
        """Return the same motion ``shift_ns`` later (the clock jumped, the arm did not)."""
        return Plan(self.start_ns + shift_ns, self.step_ns, self.nodes)

    def sample(self, now_ns: int) -> tuple[Array, Array, Array]:
        """Return position, velocity, acceleration at ``now_ns``, each of shape (joints,)."""
        elapsed_ns = now_ns - self.start_ns
        if elapsed_ns < 0:
            elapsed_ns = 0
        node, rest_ns = divmod(elapsed_ns, self.step_ns)
        if node >= self.steps:
            return self.nodes[0, -1], self.nodes[1, -1], self.nodes[2, -1]
        t = rest_ns * 1e-9
        s = 0.5 * t * t
        position, velocity, acceleration = np.array(
            ((1.0, t, s, t * s / 3.0), (0.0, 1.0, t, s), (0.0, 0.0, 1.0, t))) @ self.nodes[:, node]
        return position, velocity, acceleration

    def sample_many(self, times_ns: NDArray[np.int64]) -> tuple[Array, Array, Array]:
        """Return position, velocity, acceleration at ``times_ns``, each of shape (M, joints)."""
        elapsed = np.maximum(np.asarray(times_ns, dtype=np.int64) - self.start_ns, 0)
        over = elapsed >= self.steps * self.step_ns
        node = np.minimum(elapsed // self.step_ns, self.steps - 1)
        t = np.where(over, self.step_ns, elapsed - node * self.step_ns)[:, None] * 1e-9
        jerk, acceleration, velocity = self.jerk[node], self.acceleration[node], self.velocity[node]
        q = self.position[node] + t * (velocity + t * (0.5 * acceleration + (t / 6.0) * jerk))
        v = velocity + t * (acceleration + (0.5 * t) * jerk)
        a = acceleration + t * jerk
        q[over], v[over], a[over] = self.position[-1], 0.0, 0.0
        return q, v, a

    def is_still_from(self, now_ns: int) -> bool:
        """Tell whether nothing moves from ``now_ns`` on, to the resolution of a rest."""
        node = max(0, (now_ns - self.start_ns) // self.step_ns)
        if node >= self.steps:
            return True
        return bool(
            np.abs(self.nodes[1, node:]).max() <= REST_VELOCITY_RAD_S
            and np.abs(self.nodes[2, node:]).max() <= REST_ACCELERATION_RAD_S2)

    def peaks(self) -> 'Peaks':
        """Return bounds of the whole motion, between the nodes too; never below the exact extrema."""
        h = self.step_ns * 1e-9
        high, low = self.nodes.max(axis=1), self.nodes.min(axis=1)
        size = np.maximum(high, -low)
        bow = h * h / 8.0 * size[2]
        # Within one step the acceleration turns by at most from -a to a.
        jerk = np.minimum(size[3], 2.0 / h * size[2])
        return Peaks(low[0] - bow, high[0] + bow, size[1] + h * h / 8.0 * jerk, size[2], size[3])

    def extrema(self) -> Extrema:
        """Return the exact extrema inside every segment.

        The acceleration is linear, so its extrema are nodes; the velocity turns where a + j t = 0;
        the position turns where v + a t + j t^2 / 2 = 0 (the stable form of the quadratic's roots).
        """
        h = self.step_ns * 1e-9
        q, v, a, j = self.position[:-1], self.velocity[:-1], self.acceleration[:-1], self.jerk
        with np.errstate(divide='ignore', invalid='ignore'):
            turn_v = -a / j
            root = np.sqrt(a * a - 2.0 * j * v)
            pivot = -(a + np.copysign(root, a))
            turns = np.stack([turn_v, pivot / j, 2.0 * v / pivot])
        # A turn outside of the segment, or none at all, is replaced by its start.
        turns = np.where((turns > 0.0) & (turns < h), turns, 0.0)
        speed_turn = np.abs(v + turns[0] * (a + 0.5 * turns[0] * j))
        t = turns[1:]
        position_turn = q + t * (v + t * (0.5 * a + (t / 6.0) * j))
        ends_min = np.minimum(self.position[:-1], self.position[1:])
        ends_max = np.maximum(self.position[:-1], self.position[1:])
        speed = np.abs(self.velocity)
        bend = np.abs(self.acceleration)
        return Extrema(
            np.minimum(ends_min, position_turn.min(axis=0)),
            np.maximum(ends_max, position_turn.max(axis=0)),
            np.maximum(np.maximum(speed[:-1], speed[1:]), speed_turn),
            np.maximum(bend[:-1], bend[1:]))
