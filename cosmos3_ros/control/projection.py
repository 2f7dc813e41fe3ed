"""Pull rows of a chunk out of the table, the workspace's walls and the arm itself.

Quality only: a row that stays inside is caught by the verification. But an arm that is told to press into
the table by a millimetre should rest a millimetre above it, not refuse plan after plan.
"""

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.robots import Robot

Array = NDArray[np.float64]

ITERATIONS = 6
# Constraints of one row that are moved together.
ACTIVE = 4
# Rows keep this much more than the required distance: room for the verification's bound between samples.
CLEARANCE_M = 0.004
STEP_RAD = 0.15
DIFFERENCE_RAD = 1e-5
DAMPING = 1e-4


class Projection:
    """Damped least-squares steps on the distances that a row lacks."""

    def __init__(self, robot: Robot) -> None:
        self._robot = robot
        profile = robot.profile
        planes = [
            profile.table_distance_m if name == 'table' else profile.workspace_distance_m
            for name in robot.workspace.names]
        self._required = np.concatenate([
            np.full(len(robot.collision.pairs), profile.self_collision_distance_m), planes]) + CLEARANCE_M

    def pull(self, rows: Array) -> tuple[Array, str]:
        """Return rows (H, joints) with the distances they need, as far as steps reach, and a note.

        :param rows: Shape (H, joints), inside the position limits.
        """
        limits = self._robot.limits
        result = np.array(rows)
        bad = np.flatnonzero((self._spare(result) < 0.0).any(axis=1))
        touched = bad
        for _ in range(ITERATIONS):
            if len(bad) == 0:
                break
            step = self._step(result[bad])
            result[bad] = np.clip(result[bad] + step, limits.lower_rad, limits.upper_rad)
            bad = bad[(self._spare(result[bad]) < 0.0).any(axis=1)]
        if len(touched) == 0:
            return rows, ''
        moved = float(np.abs(result - rows).max())
        note = (
            f'{len(touched)} of {len(rows)} rows moved by up to {moved:.3f} rad out of the table, a wall or '
            'the arm itself')
        if len(bad):
            note += f'; {len(bad)} of them still lack distance'
        return result, note

    def _spare(self, rows: Array) -> Array:
        """Return the distance beyond what is required, (K, constraints)."""
        robot = self._robot
        distances, ends = robot.collision.chain_distances(robot.kinematics.chain(rows))
        walls = robot.workspace.chain_distances(ends, robot.collision.moving_radius)
        return np.concatenate([distances, walls], axis=1) - self._required

    def _step(self, rows: Array) -> Array:
        """Return the change (K, joints) that would make up for the worst shortfalls."""
        count, joints = rows.shape
        nudged = rows[:, None, :] + DIFFERENCE_RAD * np.eye(joints)
        spare = self._spare(np.concatenate([rows, nudged.reshape(-1, joints)]))
        here = spare[:count]
        slope = (spare[count:].reshape(count, joints, -1) - here[:, None, :]) / DIFFERENCE_RAD
        worst = np.argsort(here, axis=1)[:, :ACTIVE]
        lack = np.maximum(0.001 - np.take_along_axis(here, worst, axis=1), 0.0)
        jacobian = np.take_along_axis(slope, worst[:, None, :], axis=2).transpose(0, 2, 1)
        # Constraints that are met do not pull.
        jacobian = jacobian * (lack > 0.0)[:, :, None]
        gram = jacobian @ jacobian.transpose(0, 2, 1) + DAMPING * np.eye(ACTIVE)
        step = jacobian.transpose(0, 2, 1) @ np.linalg.solve(gram, lack[:, :, None])
        return np.clip(step[:, :, 0], -STEP_RAD, STEP_RAD)
