"""Chunks on an absolute timeline, spliced without a jump in position, velocity or acceleration.

Time here is the reference clock's, in seconds: it runs with the node's clock, slower when the
governor asks for it (:mod:`.reference_clock`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_banded

Array = NDArray[np.float64]

State = tuple[Array, Array, Array, Array]
"""Position, velocity, acceleration, jerk, each of shape (M, joints)."""


@dataclass(frozen=True, slots=True, eq=False)
class ChunkSpline:
    """C2 cubic spline through the rows of a chunk; it holds before the first and after the last.

    :param start_s: Reference time at which the first row is due.
    :param step_s: Reference time between rows.
    :param position: Shape (H, joints), radians.
    :param velocity: Shape (H, joints), rad/s, at the rows.
    """

    start_s: float
    step_s: float
    position: Array
    velocity: Array

    @property
    def end_s(self) -> float:
        """Reference time at which the last row is due."""
        return self.start_s + (len(self.position) - 1) * self.step_s

    @classmethod
    def through(cls, start_s: float, step_s: float, rows: Array) -> 'ChunkSpline':
        """Return the clamped spline: it starts with the rows' own velocity and ends at rest.

        The velocities solve v[i-1] + 4 v[i] + v[i+1] = 3 (q[i+1] - q[i-1]) / h, continuity of the
        acceleration at each inner row. The first velocity is the one-sided second-order difference
        of the rows; the last is zero, so a chunk that runs out ends as a hold without a kink.

        :param rows: Shape (H, joints).
        """
        rows = np.ascontiguousarray(rows, dtype=np.float64)
        count = len(rows)
        velocity = np.zeros_like(rows)
        if count == 2:
            velocity[0] = (rows[1] - rows[0]) / step_s
        elif count > 2:
            velocity[0] = (-3.0 * rows[0] + 4.0 * rows[1] - rows[2]) / (2.0 * step_s)
            inner = count - 2
            right = 3.0 * (rows[2:] - rows[:-2]) / step_s
            right[0] -= velocity[0]
            banded = np.ones((3, inner))
            banded[1] = 4.0
            velocity[1:-1] = solve_banded((1, 1), banded, right, check_finite=False) if inner > 1 \
                else right / 4.0
        return cls(start_s, step_s, rows, velocity)

    def evaluate(self, times_s: Array) -> State:
        """Return the state at ``times_s`` (M,)."""
        count = len(self.position)
        if count == 1:
            still = np.zeros((len(times_s), self.position.shape[1]))
            return np.repeat(self.position, len(times_s), axis=0), still, still.copy(), still.copy()
        h = self.step_s
        x = (times_s - self.start_s) / h
        index = np.clip(np.floor(x), 0, count - 2).astype(np.intp)
        outside = (x < 0.0) | (x >= count - 1)
        u = np.clip(x - index, 0.0, 1.0)[:, None]
        q0, q1 = self.position[index], self.position[index + 1]
        v0, v1 = self.velocity[index] * h, self.velocity[index + 1] * h
        c2 = 3.0 * (q1 - q0) - 2.0 * v0 - v1
        c3 = 2.0 * (q0 - q1) + v0 + v1
        q = q0 + u * (v0 + u * (c2 + u * c3))
        v = (v0 + u * (2.0 * c2 + 3.0 * u * c3)) / h
        a = (2.0 * c2 + 6.0 * u * c3) / h**2
        j = 6.0 * c3 / h**3
        if outside.any():
            v[outside] = a[outside] = j[outside] = 0.0
        return q, v, a, j


@dataclass(frozen=True, slots=True, eq=False)
class BridgeBound:
    """How fast a bridge may take an offset away.

    A chunk from a slow policy can disagree with the one in force by tens of degrees. Taken away within a
    fixed short time, that offset asks more of one joint than it can give while the others follow, and the
    tool leaves both paths.

    :param velocity_rad_s: Shape (joints,), what bridges may add to the velocity.
    :param acceleration_rad_s2: Shape (joints,), what bridges may add to the acceleration.
    :param longest_s: No bridge takes longer.
    """

    velocity_rad_s: Array
    acceleration_rad_s2: Array
    longest_s: float

    def duration_s(self, offset: Array) -> float:
        """Return the time for ``offset`` (3, joints), seconds.

        A quintic from e to 0 at rest peaks at 15/8 |e| / T and 10/sqrt(3) |e| / T^2; one from velocity d to 0
        with no offset at an acceleration of 3.94 |d| / T (numerically; rounded up to 4).
        """
        e, d = np.abs(offset[0]), np.abs(offset[1])
        a = self.acceleration_rad_s2
        times = (1.875 * e / self.velocity_rad_s, np.sqrt(5.774 * e / a), 4.0 * d / a)
        return float(min(max(np.max(t) for t in times), self.longest_s))


@dataclass(frozen=True, slots=True, eq=False)
class Bridge:
    """A quintic that takes an offset with its velocity and acceleration to zero over ``blend_s``.

    Added to the new reference it makes the splice C2 at both of its ends, and it vanishes where old
    and new agree, so agreeing chunks are followed exactly.

    :param coefficients: Shape (6, joints), of powers of the time since ``start_s``.
    """

    start_s: float
    blend_s: float
    coefficients: Array

    @classmethod
    def away(cls, start_s: float, blend_s: float, offset: Array) -> 'Bridge':
        """Return the bridge for ``offset`` (3, joints): position, velocity, acceleration.

        The six conditions of a quintic Hermite segment with a zero far end, solved by hand.
        """
        e, d, c = offset
        t = blend_s
        coefficients = np.stack([
            e, d, c / 2.0,
            (-20.0 * e - 12.0 * d * t - 3.0 * c * t**2) / (2.0 * t**3),
            (30.0 * e + 16.0 * d * t + 3.0 * c * t**2) / (2.0 * t**4),
            (-12.0 * e - 6.0 * d * t - c * t**2) / (2.0 * t**5)])
        return cls(start_s, blend_s, coefficients)

    def evaluate(self, times_s: Array) -> State:
        """Return the state at ``times_s`` (M,), zero after the bridge."""
        t = (times_s - self.start_s)[:, None]
        inside = (t >= 0.0) & (t < self.blend_s)
        t = np.where(inside, t, 0.0)
        b0, b1, b2, b3, b4, b5 = self.coefficients
        q = b0 + t * (b1 + t * (b2 + t * (b3 + t * (b4 + t * b5))))
        v = b1 + t * (2 * b2 + t * (3 * b3 + t * (4 * b4 + t * 5 * b5)))
        a = 2 * b2 + t * (6 * b3 + t * (12 * b4 + t * 20 * b5))
        j = 6 * b3 + t * (24 * b4 + t * 60 * b5)
        return q * inside, v * inside, a * inside, j * inside


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The spline in use plus its bridge, and what to follow until the splice.

    :param splice_s: From this reference time on ``spline`` counts, before it ``previous`` does.
    """

    splice_s: float
    spline: ChunkSpline
    bridge: Bridge
    previous: 'Reference | None' = None

    @property
    def end_s(self) -> float:
        """Reference time from which on the reference rests."""
        return max(self.spline.end_s, self.bridge.start_s + self.bridge.blend_s)

    @classmethod
    def hold(cls, position: Array, start_s: float, blend_s: float) -> 'Reference':
        """Return a reference that stands still at ``position``."""
        position = np.asarray(position, dtype=np.float64)
        bridge = Bridge(start_s, blend_s, np.zeros((6, len(position))))
        return cls(-np.inf, ChunkSpline(start_s, 1.0, position[None], np.zeros((1, len(position)))), bridge)

    def evaluate(self, times_s: Array) -> State:
        """Return the state at ``times_s`` (M,)."""
        state = self._own(times_s)
        if self.previous is None:
            return state
        before = times_s < self.splice_s
        if not before.any():
            return state
        earlier = self.previous.evaluate(times_s[before])
        for values, old in zip(state, earlier, strict=True):
            values[before] = old
        return state

    def _own(self, times_s: Array) -> State:
        q, v, a, j = self.spline.evaluate(times_s)
        if times_s[0] >= self.bridge.start_s + self.bridge.blend_s:
            return q, v, a, j
        eq, ev, ea, ej = self.bridge.evaluate(times_s)
        return q + eq, v + ev, a + ea, j + ej

    def spliced(
        self, spline: ChunkSpline, now_s: float, blend_s: float, bound: BridgeBound | None = None,
    ) -> tuple['Reference', dict[str, float]]:
        """Return the reference that goes over to ``spline``, and the seam's measures.

        The splice lies at ``now_s`` or, if the chunk's first row is not due yet, at that row. A
        splice that has not come yet is given up for the new one.

        :param blend_s: Shortest time of the bridge.
        :param bound: Makes the bridge longer where chunks disagree.
        :returns: The reference, and over the largest joint ``position``, ``velocity``,
            ``acceleration``, ``jerk`` (jumps of the spliced reference) and ``gap_position``,
            ``gap_velocity`` (how far the two chunks disagreed before the bridge).
        """
        base = self
        while base.previous is not None and now_s < base.splice_s:
            base = base.previous
        base = Reference(base.splice_s, base.spline, base.bridge)
        splice_s = max(now_s, spline.start_s)
        at = np.array([splice_s])
        old, new = base.evaluate(at), spline.evaluate(at)
        offset = np.stack([old[i][0] - new[i][0] for i in range(3)])
        if bound is not None:
            blend_s = max(blend_s, bound.duration_s(offset))
        bridge = Bridge.away(splice_s, blend_s, offset)
        result = Reference(splice_s, spline, bridge, base)
        after = result._own(at)
        jumps = [float(np.abs(after[i][0] - old[i][0]).max()) for i in range(4)]
        seam = dict(zip(('position', 'velocity', 'acceleration', 'jerk'), jumps, strict=True))
        seam['gap_position'] = float(np.abs(offset[0]).max())
        seam['gap_velocity'] = float(np.abs(offset[1]).max())
        return result, seam
