"""How far predicted chunks are from what was demonstrated."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

ARM_JOINTS = 7
GRIPPER_DECISION = 0.5
"""Clients of the DROID policy close above it (facts sheet 2b.3)."""


def action_errors(
    predicted: NDArray[np.float64], shown: NDArray[np.float64], valid: NDArray[np.bool_],
) -> dict[str, Any]:
    """Return errors of chunks, radians, by how far ahead, and of the gripper's decision.

    Beside them stands what "stay where you are" would get: the error of repeating the first row's state.

    :param predicted: Shape (N, 33, 8), row 0 the state; joints in radians, 1 - gripper.
    :param shown: Likewise, the demonstration.
    :param valid: Shape (N, 33), rows that belong to the demonstration.
    """
    wrong = np.abs(predicted[:, 1:, :ARM_JOINTS] - shown[:, 1:, :ARM_JOINTS])
    still = np.abs(shown[:, :1, :ARM_JOINTS] - shown[:, 1:, :ARM_JOINTS])
    kept = valid[:, 1:]
    closes, should = (rows[:, 1:, ARM_JOINTS] < GRIPPER_DECISION for rows in (predicted, shown))
    decided = closes == should

    def mean(values: NDArray[np.float64], rows: slice) -> float:
        chosen = kept[:, rows]
        return float(values[:, rows][chosen].mean()) if chosen.any() else float('nan')

    return {
        'chunks': len(predicted), 'rows': int(kept.sum()),
        'joint_error_rad': mean(wrong, slice(None)), 'first_8_rows_rad': mean(wrong, slice(0, 8)),
        'last_8_rows_rad': mean(wrong, slice(24, 32)),
        'worst_joint_rad': float(wrong[kept].mean(axis=0).max()) if kept.any() else float('nan'),
        'stay_error_rad': mean(still, slice(None)),
        'gripper_agreement': float(decided[kept].mean()) if kept.any() else float('nan')}
