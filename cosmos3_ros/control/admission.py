"""Which chunks may become part of the reference, and what is changed about them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import ActionChunk
from cosmos3_ros.robots import Robot, RobotError, check_reachable

from .config import ControllerConfig

Array = NDArray[np.float64]

# Rows closer together than this are not from a policy, rows further apart no motion.
STEP_MIN_NS, STEP_MAX_NS = 1_000_000, 2_000_000_000


class ChunkRefused(ValueError):  # noqa: N818 - a refusal is an answer, not a fault
    """Why a chunk does not become part of the reference."""


@dataclass(frozen=True, slots=True, eq=False)
class AdmittedChunk:
    """Rows in the robot's joint order, inside the position limits.

    :param rows: Shape (H, joints), radians.
    :param note: What was changed, or empty.
    """

    chunk: ActionChunk
    rows: Array
    note: str


class Admission:
    """Check chunks against the robot, the clock and the chunks before them."""

    def __init__(self, robot: Robot, config: ControllerConfig) -> None:
        self._robot = robot
        self._config = config

    def admit(self, chunk: ActionChunk, newest_stamp_ns: int | None, now_ns: int) -> AdmittedChunk:
        """Return the rows to follow.

        :param newest_stamp_ns: Stamp of the newest chunk accepted so far.
        :raises ChunkRefused: The text names what arrived, what is allowed and the parameter.
        """
        self._check_time(chunk, newest_stamp_ns, now_ns)
        rows = self._order(chunk)
        limits = self._robot.limits
        try:
            outside = check_reachable(self._robot, rows)
        except RobotError as error:
            raise ChunkRefused(str(error)) from error
        tolerance = self._config.reach_tolerance_rad
        excess = np.maximum(limits.lower_rad - rows, rows - limits.upper_rad).max()
        if outside and excess > tolerance:
            raise ChunkRefused(
                'the robot cannot reach the chunk: ' + '; '.join(str(v) for v in outside[:3])
                + f' ({tolerance:g} rad beyond are tolerated, reach_tolerance_rad)')
        note = ''
        if outside:
            note = 'moved to the limit: ' + '; '.join(str(v) for v in outside[:3])
            rows = np.clip(rows, limits.lower_rad, limits.upper_rad)
        return AdmittedChunk(chunk, rows, note)

    def _check_time(self, chunk: ActionChunk, newest_ns: int | None, now_ns: int) -> None:
        if not STEP_MIN_NS <= chunk.step_ns <= STEP_MAX_NS:
            raise ChunkRefused(
                f'step_ns: {chunk.step_ns} arrived, {STEP_MIN_NS} to {STEP_MAX_NS} is allowed')
        if chunk.horizon > self._config.max_chunk_rows:
            raise ChunkRefused(
                f'horizon: {chunk.horizon} rows arrived, {self._config.max_chunk_rows} are allowed '
                '(max_chunk_rows)')
        ahead_s = (chunk.stamp_ns - now_ns) * 1e-9
        if ahead_s > self._config.future_tolerance_s:
            raise ChunkRefused(
                f'stamp: {ahead_s:.3f} s in the future, {self._config.future_tolerance_s:g} s is allowed '
                '(future_tolerance_s; are the clocks synchronised?)')
        if chunk.end_ns <= now_ns:
            raise ChunkRefused(
                f'stale: the last row was due {(now_ns - chunk.end_ns) * 1e-9:.3f} s ago; the latency of '
                f'{-ahead_s:.3f} s exceeds the horizon of {chunk.horizon} x {chunk.step_ns * 1e-6:.1f} ms')
        if newest_ns is not None and chunk.stamp_ns <= newest_ns:
            what = 'duplicated' if chunk.stamp_ns == newest_ns else 'regressing'
            raise ChunkRefused(
                f'{what} stamp: {(newest_ns - chunk.stamp_ns) * 1e-9:.3f} s before that of the newest chunk; '
                'stamps must increase')

    def _order(self, chunk: ActionChunk) -> Array:
        """Return the columns in the robot's order."""
        names = self._robot.joint_names
        if chunk.joint_names == names:
            return chunk.positions
        if set(chunk.joint_names) != set(names):
            missing = sorted(set(names) - set(chunk.joint_names))
            unknown = sorted(set(chunk.joint_names) - set(names))
            raise ChunkRefused(
                f'joint_names: missing {missing}, unknown {unknown}; the joints of {self._robot.name} are '
                f'{", ".join(names)}')
        return np.ascontiguousarray(chunk.positions[:, [chunk.joint_names.index(n) for n in names]])
