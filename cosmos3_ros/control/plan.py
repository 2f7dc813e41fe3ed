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
class Plan:
    """N segments of constant jerk; before the start and after the end the plan stands still.

    :param start_ns: Absolute time of the first node.
    :param step_ns: Length of a segment.
    :param position: Shape (N + 1, joints), radians; likewise ``velocity`` and ``acceleration``.
    :param jerk: Shape (N, joints), rad/s^3.
    """

    start_ns: int
    step_ns: int
    position: Array
    velocity: Array
    acceleration: Array
    jerk: Array

    @property
    def steps(self) -> int:
        """Number of segments N."""
        return int(self.jerk.shape[0])

    @property
    def end_ns(self) -> int:
        """Absolute time of the last node, from which on the plan rests."""
        return self.start_ns + self.steps * self.step_ns

    @classmethod
    def hold(cls, position: Array, start_ns: int, step_ns: int, steps: int) -> 'Plan':
        """Return the plan that stands still at ``position``."""
        joints = len(position)
        return cls(
            start_ns, step_ns, np.tile(np.asarray(position, dtype=np.float64), (steps + 1, 1)),
            np.zeros((steps + 1, joints)), np.zeros((steps + 1, joints)), np.zeros((steps, joints)))

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
        velocity_end = prediction.free_v[-1] @ state + prediction.forced_v[-1] @ jerk
        acceleration_end = prediction.free_a[-1] @ state + prediction.forced_a[-1] @ jerk
        # Written so that NaN fails too.
        if not (np.abs(velocity_end).max() <= REST_VELOCITY_RAD_S
                and np.abs(acceleration_end).max() <= REST_ACCELERATION_RAD_S2):
            raise ContractError(
                f'a plan ended at {np.abs(velocity_end).max():.3g} rad/s and '
                f'{np.abs(acceleration_end).max():.3g} rad/s^2, rest is needed')
        jerk = jerk + prediction.rest_correction @ np.stack([velocity_end, acceleration_end])
        nodes = np.empty((3, len(jerk) + 1, state.shape[1]))
        nodes[:, 0] = state
        nodes[0, 1:] = prediction.free_q @ state + prediction.forced_q @ jerk
        nodes[1, 1:] = prediction.free_v @ state + prediction.forced_v @ jerk
        nodes[2, 1:] = prediction.free_a @ state + prediction.forced_a @ jerk
        nodes[1:, -1] = 0.0
        return cls(start_ns, step_ns, nodes[0], nodes[1], nodes[2], jerk)

    def state(self, node: int) -> Array:
        """Return (3, joints): position, velocity, acceleration at ``node``, at rest past the end."""
        node = min(node, self.steps)
        return np.stack([self.position[node], self.velocity[node], self.acceleration[node]])

    def shifted(self, nodes: int) -> 'Plan':
        """Return what is left after ``nodes`` segments, filled with rest to the same length."""
        nodes = min(max(nodes, 0), self.steps)
        if nodes == 0:
            return self

        def rest(values: Array, filler: Array) -> Array:
            return np.concatenate([values[nodes:], np.repeat(filler[None], nodes, axis=0)])

        still = np.zeros(self.position.shape[1])
        return Plan(
            self.start_ns + nodes * self.step_ns, self.step_ns,
            rest(self.position, self.position[-1]), rest(self.velocity, still),
            rest(self.acceleration, still), rest(self.jerk, still))

    def moved(self, shift_ns: int) -> 'Plan':
        """Return the same motion ``shift_ns`` later (the clock jumped, the arm did not)."""
        return Plan(
            self.start_ns + shift_ns, self.step_ns, self.position, self.velocity,
            self.acceleration, self.jerk)

    def sample(self, now_ns: int) -> tuple[Array, Array, Array]:
        """Return position, velocity, acceleration at ``now_ns``, each of shape (joints,)."""
        elapsed_ns = now_ns - self.start_ns
        if elapsed_ns < 0:
            elapsed_ns = 0
        node, rest_ns = divmod(elapsed_ns, self.step_ns)
        if node >= self.steps:
            return self.position[-1], self.velocity[-1], self.acceleration[-1]
        t = rest_ns * 1e-9
        jerk = self.jerk[node]
        velocity = self.velocity[node]
        acceleration = self.acceleration[node]
        return (
            self.position[node] + t * (velocity + t * (0.5 * acceleration + (t / 6.0) * jerk)),
            velocity + t * (acceleration + (0.5 * t) * jerk),
            acceleration + t * jerk)

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
            np.abs(self.velocity[node:]).max() <= REST_VELOCITY_RAD_S
            and np.abs(self.acceleration[node:]).max() <= REST_ACCELERATION_RAD_S2)

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
