"""Which poses of a chunk lie outside a robot's joint range."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import RobotError
from .robot import Robot


@dataclass(frozen=True, slots=True)
class ReachViolation:
    """One joint that a chunk asks to leave its range.

    :param joint: Name.
    :param rows: Rows of the chunk, 0-based, ascending.
    :param worst_rad: The position furthest outside.
    :param lower_rad: Lowest position allowed.
    :param upper_rad: Highest position allowed.
    """

    joint: str
    rows: tuple[int, ...]
    worst_rad: float
    lower_rad: float
    upper_rad: float

    def __str__(self) -> str:
        """Say it in one sentence."""
        return (
            f'{self.joint} is asked for {self.worst_rad:.4f} rad in row {self._worst_rows()}, '
            f'{self.lower_rad:.4f} to {self.upper_rad:.4f} rad is its range')

    def _worst_rows(self) -> str:
        if len(self.rows) == 1:
            return str(self.rows[0])
        return f'{self.rows[0]}..{self.rows[-1]} ({len(self.rows)} rows)'


def check_reachable(robot: Robot, positions: NDArray[np.float64]) -> list[ReachViolation]:
    """Return the joints that ``positions`` ask to leave their range, worst first.

    Nothing is clamped: a chunk of another arm (a DROID-trained policy speaks Panda; an FR3's joint 6
    starts 0.56 rad higher) shall be refused by name, not bent into another motion.

    :param positions: Shape (H, N), radians.
    :raises RobotError: Wrong shape, or a value that is not finite.
    """
    positions = np.asarray(positions, dtype=np.float64)
    if positions.ndim != 2 or positions.shape[1] != len(robot.joint_names):
        raise RobotError(
            f'positions: shape {positions.shape} arrived, (H, {len(robot.joint_names)}) is needed')
    if not np.isfinite(positions).all():
        raise RobotError('positions: a value that is not finite arrived')
    lower, upper = robot.limits.lower_rad, robot.limits.upper_rad
    excess = np.maximum(lower - positions, positions - upper)
    if excess.max(initial=0.0) <= 0.0:
        return []
    found = []
    for i in np.argsort(-excess.max(axis=0, initial=0.0), kind='stable'):
        rows = np.flatnonzero(excess[:, i] > 0.0)
        if rows.size:
            worst = positions[int(np.argmax(excess[:, i])), i]
            found.append(ReachViolation(
                robot.joint_names[i], tuple(int(r) for r in rows), float(worst),
                float(lower[i]), float(upper[i])))
    return found
