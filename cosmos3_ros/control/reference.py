"""Chunks on an absolute timeline, spliced without a jump in position, velocity or acceleration.

Time here is the reference clock's, in seconds: it runs with the node's clock, slower when the
governor asks for it (:mod:`.reference_clock`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dgtsv

Array = NDArray[np.float64]

# A difference in velocity lasts if it moves two references apart over this time.
DRIFT_WINDOW_S = 0.4

# Coefficients of the derivative of a quintic, from its coefficients.
DIFFERENTIATE: Array = np.diag(np.arange(1.0, 6.0), k=1)

State = tuple[Array, Array, Array, Array]
"""Position, velocity, acceleration, jerk, each of shape (M, joints)."""


@dataclass(frozen=True, slots=True, eq=False)
class ChunkSpline:
    """C2 cubic spline through the rows of a chunk; it holds before the first and after the last.

    :param start_s: Reference time at which the first row is due.
    :param step_s: Reference time between rows.
    :param position: Shape (H, joints), radians.
    :param velocity: Shape (H, joints), rad/s, at the rows.
    :param pieces: Shape (max(H - 1, 1), 4, joints): position, velocity, acceleration and jerk at the start of
        each piece, whose jerk is constant.
    """

    start_s: float
    step_s: float
    position: Array
    velocity: Array
    pieces: Array

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
            # Diagonally dominant, so elimination always succeeds.
            beside = np.ones(inner - 1)
            velocity[1:-1] = right / 4.0 if inner == 1 else dgtsv(
                beside, np.full(inner, 4.0), beside, right)[3]
        pieces = np.zeros((max(count - 1, 1), 4, rows.shape[1]))
        pieces[:, 0], pieces[:, 1] = rows[: len(pieces)], velocity[: len(pieces)]
        if count > 1:
            change, speeds = np.diff(rows, axis=0), velocity[:-1] + velocity[1:]
            pieces[:, 2] = (6.0 * change / step_s - 2.0 * (velocity[:-1] + speeds)) / step_s
            pieces[:, 3] = (6.0 * speeds - 12.0 * change / step_s) / step_s**2
        return cls(start_s, step_s, rows, velocity, pieces)

    def evaluate(self, times_s: Array) -> State:
        """Return the state at ``times_s`` (M,)."""
        last = len(self.position) - 1
        since = times_s - self.start_s
        end = last * self.step_s
        inside = np.minimum(np.maximum(since, 0.0), end)
        index = np.minimum((inside / self.step_s).astype(np.intp), len(self.pieces) - 1)
        t = (inside - index * self.step_s)[:, None]
        piece = self.pieces.take(index, axis=0)
        q, v, a, j = piece[:, 0], piece[:, 1], piece[:, 2], piece[:, 3]
        half = 0.5 * t
        q = q + t * (v + half * (a + (t / 3.0) * j))
        v = v + t * (a + half * j)
        a = a + t * j
        outside = (since < 0.0) | (since >= end)
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
    :param derivatives: Shape (6, 4 joints), the same of position, velocity, acceleration and jerk.
    """

    start_s: float
    blend_s: float
    coefficients: Array
    derivatives: Array

    @property
    def end_s(self) -> float:
        """Reference time from which on the bridge is zero."""
        return self.start_s + self.blend_s

    @classmethod
    def of(cls, start_s: float, blend_s: float, coefficients: Array) -> 'Bridge':
        """Return the bridge with these coefficients, (6, joints)."""
        rows = [coefficients]
        for _ in range(3):
            rows.append(DIFFERENTIATE @ rows[-1])
        return cls(start_s, blend_s, coefficients, np.concatenate(rows, axis=1))

    @classmethod
    def away(cls, start_s: float, blend_s: float, offset: Array) -> 'Bridge':
        """Return the bridge for ``offset`` (3, joints): position, velocity, acceleration.

        The six conditions of a quintic Hermite segment with a zero far end, solved by hand.
        """
        e, d, c = offset
        t = blend_s
        return cls.of(start_s, blend_s, np.stack([
            e, d, c / 2.0,
            (-20.0 * e - 12.0 * d * t - 3.0 * c * t**2) / (2.0 * t**3),
            (30.0 * e + 16.0 * d * t + 3.0 * c * t**2) / (2.0 * t**4),
            (-12.0 * e - 6.0 * d * t - c * t**2) / (2.0 * t**5)]))

    def evaluate(self, times_s: Array) -> State:
        """Return the state at ``times_s`` (M,), zero after the bridge."""
        t = times_s - self.start_s
        inside = (t >= 0.0) & (t < self.blend_s)
        powers = np.empty((6, len(t)))
        powers[0] = inside
        powers[1:] = np.where(inside, t, 0.0)
        powers = np.multiply.accumulate(powers, axis=0)
        joints = self.coefficients.shape[1]
        state = (powers.T @ self.derivatives).reshape(-1, 4, joints)
        return state[:, 0], state[:, 1], state[:, 2], state[:, 3]


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The spline in use plus its bridges, and what to follow until the splice.

    :param splice_s: From this reference time on ``spline`` counts, before it ``previous`` does.
    """

    splice_s: float
    spline: ChunkSpline
    bridges: tuple[Bridge, ...]
    previous: 'Reference | None' = None

    @property
    def end_s(self) -> float:
        """Reference time from which on the reference rests."""
        return max(self.spline.end_s, *(bridge.end_s for bridge in self.bridges))

    @classmethod
    def hold(cls, position: Array, start_s: float, blend_s: float) -> 'Reference':
        """Return a reference that stands still at ``position``."""
        position = np.asarray(position, dtype=np.float64)
        bridge = Bridge.of(start_s, blend_s, np.zeros((6, len(position))))
        return cls(-np.inf, ChunkSpline.through(start_s, 1.0, position[None]), (bridge,))

    def evaluate(self, times_s: Array) -> State:
        """Return the state at ``times_s`` (M,), which do not fall."""
        state = self._own(times_s)
        if self.previous is None or times_s[0] >= self.splice_s:
            return state
        before = times_s < self.splice_s
        if not before.any():
            return state
        earlier = self.previous.evaluate(times_s[before])
        for values, old in zip(state, earlier, strict=True):
            values[before] = old
        return state

    def _own(self, times_s: Array) -> State:
        state = self.spline.evaluate(times_s)
        for bridge in self.bridges:
            if times_s[0] < bridge.end_s:
                for values, correction in zip(state, bridge.evaluate(times_s), strict=True):
                    values += correction
        return state

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
        base = Reference(base.splice_s, base.spline, base.bridges)
        splice_s = max(now_s, spline.start_s)
        at = np.array([splice_s])
        soon = np.array([splice_s, splice_s + DRIFT_WINDOW_S])
        old, new = base.evaluate(soon), spline.evaluate(soon)
        offset = np.stack([old[i][0] - new[i][0] for i in range(3)])
        # What of the difference in velocity is there now and lasts.
        apart = (old[0][1] - new[0][1] - offset[0]) / DRIFT_WINDOW_S
        drift = np.clip(apart, np.minimum(offset[1], 0.0), np.maximum(offset[1], 0.0))
        bridges = _bridge_over(splice_s, blend_s, offset, drift, bound)
        result = Reference(splice_s, spline, bridges, base)
        after = result._own(at)
        jumps = [float(np.abs(row[0] - before[0]).max()) for row, before in zip(after, old, strict=True)]
        seam = dict(zip(('position', 'velocity', 'acceleration', 'jerk'), jumps, strict=True))
        seam['gap_position'] = float(np.abs(offset[0]).max())
        seam['gap_velocity'] = float(np.abs(offset[1]).max())
        return result, seam


def _bridge_over(
    start_s: float, blend_s: float, offset: Array, drift: Array, bound: BridgeBound | None,
) -> tuple[Bridge, ...]:
    """Return the bridges that together take ``offset`` (3, joints) away.

    An offset in position and a lasting one in velocity take the time that they need. What a chunk's jitter
    adds to velocity and acceleration must not: taken away over T, a velocity moves the reference by up to
    T / 5 and an acceleration by T^2 / 58 times itself, so that a milliradian of noise would become a detour,
    and the next splice a longer one. The tracker smooths jitter anyway.

    :param drift: Shape (joints,), the share of the velocity that lasts.
    """
    if bound is None:
        return (Bridge.away(start_s, blend_s, offset),)
    lasting = np.stack([offset[0], drift, np.zeros_like(drift)])
    time_s = max(blend_s, bound.duration_s(lasting))
    if time_s == blend_s:
        return (Bridge.away(start_s, blend_s, offset),)
    return Bridge.away(start_s, time_s, lasting), Bridge.away(start_s, blend_s, offset - lasting)
