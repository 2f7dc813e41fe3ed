"""Ten families of chunks that no sane policy sends, and one that it does."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import ActionChunk, ModelIdentity
from cosmos3_ros.robots import Robot

Array = NDArray[np.float64]

ROWS = 32
STEP_NS = 66_666_667
"""15 Hz, the DROID rate."""
# Latency that chunks claim: the observation was this long ago.
LATENCY_NS = 150_000_000
IDENTITY = ModelIdentity('hostile@0', 'numpy', False)
ROW_FAMILIES = (
    'uniform', 'in_limit', 'square', 'step', 'nonfinite', 'huge', 'floor', 'self_collision', 'nominal')
FAMILIES = (*ROW_FAMILIES[:8], 'stamps', 'malformed')


def make_chunk(
    names: tuple[str, ...], stamp_ns: int, rows: Array, gripper: Array | None = None,
    step_ns: int = STEP_NS, trace_id: str = '',
) -> ActionChunk:
    """Return a chunk of ``rows``.

    :raises ContractError: What the contract refuses, e.g. rows that are not finite.
    """
    return ActionChunk(
        stamp_ns=stamp_ns, step_ns=step_ns, joint_names=names, positions=rows,
        gripper=np.zeros(len(rows)) if gripper is None else gripper, contract='droid_joint',
        instruction='', seed=0, steps=0, guidance=1.0, policy='hostile', identity=IDENTITY,
        trace_id=trace_id, latency_s=LATENCY_NS * 1e-9)


class HostileChunks:
    """Draw chunks of one family.

    :param robot: Whose limits and capsules are attacked.
    :param family: One of ``FAMILIES`` or ``nominal``.
    :param rng: Source of all randomness.
    """

    def __init__(self, robot: Robot, family: str, rng: np.random.Generator) -> None:
        if family not in FAMILIES and family not in ROW_FAMILIES:
            raise ValueError(f"family: '{family}' arrived, {', '.join((*FAMILIES, 'nominal'))} are allowed")
        self._robot = robot
        self._family = family
        self._rng = rng
        self._newest_ns: int | None = None
        limits = robot.limits
        self._low, self._high = limits.lower_rad, limits.upper_rad
        self._phase = rng.uniform(0.0, 2.0 * np.pi, len(robot.joint_names))

    def draw(self, position: Array, now_ns: int) -> ActionChunk:
        """Return the next chunk for an arm at ``position``.

        :raises ContractError: The families ``nonfinite`` and ``malformed`` mostly fail there.
        """
        makers: dict[str, Callable[[Array, int], ActionChunk]] = {
            'stamps': self._draw_stamps, 'malformed': self._draw_malformed}
        maker = makers.get(self._family)
        if maker is not None:
            return maker(position, now_ns)
        rows = self.rows(self._family, position, now_ns)
        gripper = self._rng.uniform(0.0, 1.0, len(rows))
        stamp = now_ns - LATENCY_NS + int(self._rng.integers(-40_000_000, 40_000_000))
        if self._newest_ns is not None:
            stamp = max(stamp, self._newest_ns + 1)
        self._newest_ns = stamp
        return make_chunk(self._robot.joint_names, stamp, rows, gripper)

    def rows(self, family: str, position: Array, now_ns: int) -> Array:
        """Return rows (ROWS, joints) of ``family``."""
        rng, low, high = self._rng, self._low, self._high
        joints = len(low)
        if family == 'uniform':
            return rng.uniform(-10.0, 10.0, (ROWS, joints))
        if family == 'in_limit':
            if rng.random() < 0.3:
                return np.repeat(rng.uniform(low, high)[None], ROWS, axis=0)
            return rng.uniform(low, high, (ROWS, joints))
        if family == 'square':
            wave = (np.arange(ROWS) // rng.integers(1, 9)) % 2
            return np.where(wave[:, None] == 1, high, low)
        if family == 'step':
            return np.repeat(np.where(rng.random(joints) < 0.5, low, high)[None], ROWS, axis=0)
        if family == 'nonfinite':
            rows = position + rng.normal(0.0, 0.3, (ROWS, joints))
            if rng.random() < 0.7:
                rows[rng.integers(ROWS), rng.integers(joints)] = rng.choice([np.nan, np.inf, -np.inf])
            return rows
        if family == 'huge':
            return rng.normal(0.0, 1e12, (ROWS, joints))
        if family in ('floor', 'self_collision'):
            goal = self._find_pose(family)
            ramp = np.minimum(np.arange(1, ROWS + 1) / rng.integers(1, ROWS), 1.0)[:, None]
            return np.asarray(np.clip(position + ramp * (goal - position), low, high))
        times = now_ns * 1e-9 + np.arange(1, ROWS + 1) * STEP_NS * 1e-9
        swing = 0.15 * np.sin(1.2 * times[:, None] + self._phase) - 0.15 * np.sin(self._phase)
        return np.asarray(np.clip(self._robot.home_rad + swing, low, high))

    def _find_pose(self, family: str) -> Array:
        """Return the worst of some random poses: through the table, or through the arm itself."""
        poses = self._rng.uniform(self._low, self._high, (64, len(self._low)))
        distance, a, b, _ = self._robot.collision.distances_and_capsules(poses)
        if family == 'floor':
            height = np.minimum(a[..., 2], b[..., 2])[:, self._robot.collision.moving]
            return np.asarray(poses[height.min(axis=1).argmin()])
        return np.asarray(poses[distance.min(axis=1).argmin()])

    def _draw_stamps(self, position: Array, now_ns: int) -> ActionChunk:
        """Return smooth rows under a stamp that is stale, regressing, duplicated, early or right."""
        rng = self._rng
        walk = np.cumsum(rng.normal(0.0, 0.12, (ROWS, len(position))), axis=0)
        rows = np.clip(position + walk, self._low, self._high)
        newest = now_ns if self._newest_ns is None else self._newest_ns
        stamp = (
            now_ns - LATENCY_NS, now_ns - 10_000_000_000, newest, newest - 50_000_000,
            now_ns + 5_000_000_000, now_ns + 90_000_000, now_ns - 1_900_000_000)[rng.integers(7)]
        if stamp <= now_ns + 100_000_000:
            self._newest_ns = max(newest, stamp) if self._newest_ns is not None else stamp
        return make_chunk(self._robot.joint_names, int(stamp), rows)

    def _draw_malformed(self, position: Array, now_ns: int) -> ActionChunk:
        """Return (or fail to) a chunk of wrong shape, names, rows, step or gripper."""
        rng, names = self._rng, self._robot.joint_names
        rows = np.clip(position + rng.normal(0.0, 0.2, (ROWS, len(names))), self._low, self._high)
        stamp = now_ns - LATENCY_NS
        kind = rng.integers(9)
        if kind == 0:
            return make_chunk(names, stamp, rows[:, :3])
        if kind == 1:
            return make_chunk(names, stamp, rows[0])
        if kind == 2:
            return make_chunk(names, stamp, rows[:0])
        if kind == 3:
            return make_chunk(tuple(f'other_{n}' for n in names), stamp, rows)
        if kind == 4:
            return make_chunk((names[0],) * len(names), stamp, rows)
        if kind == 5:
            return make_chunk(names, stamp, rows, step_ns=int(rng.choice([-1, 0, 1, 10**12])))
        if kind == 6:
            return make_chunk(names, stamp, rows, gripper=np.full(ROWS, rng.choice([-1.0, 2.0, np.nan])))
        if kind == 7:
            return make_chunk(names[:3], stamp, rows[:, :3])
        # Shuffled columns are not wrong: they are put in order.
        order = rng.permutation(len(names))
        return make_chunk(tuple(names[i] for i in order), stamp, rows[:, order])
