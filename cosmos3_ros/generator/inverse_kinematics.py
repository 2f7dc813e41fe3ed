"""Joint positions that bring the tool to a pose, or along poses.

Damped least squares (Wampler 1986; Nakamura and Hanafusa 1986) from where the arm is: the solution near the
start is taken, joints stay inside their limits, and a pose that cannot be reached is refused, not
approximated in silence.
"""

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.robots.errors import RobotError
from cosmos3_ros.robots.kinematics import Kinematics

FloatArray = NDArray[np.float64]

ITERATIONS = 200
DAMPING = 0.02
"""Of the normal equations, relative to metres and radians; large enough at a singularity, small beside it."""
LARGEST_STEP_RAD = 0.2


def tool_jacobian(kinematics: Kinematics, q: FloatArray) -> FloatArray:
    """Return the tool's geometric Jacobian in the base frame, (6, N): linear over angular velocity.

    :param q: Shape (N,), radians.
    """
    rotations, positions = kinematics.forward(q)
    _, tool = kinematics.tool_pose(q)
    axes = rotations[1:, :, 2]  # joint i turns about z of the link that it carries
    return np.concatenate([np.cross(axes, tool - positions[1:]), axes], axis=1).T


def pose_error(
    kinematics: Kinematics, q: FloatArray, rotation: FloatArray, position_m: FloatArray,
) -> FloatArray:
    """Return what is left to the pose, (6,): metres and the rotation vector in radians, base frame."""
    R, p = kinematics.tool_pose(q)
    turn = rotation @ R.T
    axis = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]) / 2.0
    sine, cosine = float(np.linalg.norm(axis)), (float(np.trace(turn)) - 1.0) / 2.0
    angle = float(np.arctan2(sine, cosine))
    if sine > 1e-9:
        axis = axis * (angle / sine)
    elif cosine < 0.0:  # half a turn: any eigenvector of one will do as an axis
        axis = np.linalg.eigh((turn + turn.T) / 2.0)[1][:, -1] * np.pi
    return np.concatenate([position_m - p, axis])


def solve_pose(
    kinematics: Kinematics, start: FloatArray, rotation: FloatArray, position_m: FloatArray,
    lower: FloatArray, upper: FloatArray, *, tolerance_m: float = 1e-4, tolerance_rad: float = 1e-3,
) -> FloatArray:
    """Return joint positions (N,) inside the limits that bring the tool to a pose.

    :param start: Shape (N,), where to begin; the solution found is one nearby.
    :param lower: Shape (N,), radians.
    :param upper: Shape (N,), radians.
    :raises RobotError: None was found; the text says what is left.
    """
    q = np.clip(start, lower, upper)
    for _ in range(ITERATIONS):
        error = pose_error(kinematics, q, rotation, position_m)
        if np.linalg.norm(error[:3]) <= tolerance_m and np.linalg.norm(error[3:]) <= tolerance_rad:
            return q
        jacobian = tool_jacobian(kinematics, q)
        # Less damping as it gets near, so that it ends quadratically.
        damping = DAMPING * min(1.0, float(np.linalg.norm(error))) ** 2 + 1e-9
        step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + damping * np.eye(6), error)
        step *= min(1.0, LARGEST_STEP_RAD / max(float(np.abs(step).max()), 1e-12))
        q = np.clip(q + step, lower, upper)
    raise RobotError(
        f'inverse kinematics: {np.linalg.norm(error[:3]) * 1e3:.1f} mm and {np.linalg.norm(error[3:]):.3f} '
        f'rad are left after {ITERATIONS} iterations; the pose is out of reach from here')


def follow_poses(
    kinematics: Kinematics, start: FloatArray, rotations: FloatArray, positions_m: FloatArray,
    lower: FloatArray, upper: FloatArray,
) -> FloatArray:
    """Return joint positions (H, N) along poses R (H, 3, 3), p (H, 3), each found from the one before.

    :raises RobotError: A pose is out of reach; the text says which row.
    """
    rows = []
    q = start
    for i, (rotation, position) in enumerate(zip(rotations, positions_m, strict=True)):
        try:
            q = solve_pose(kinematics, q, rotation, position, lower, upper)
        except RobotError as error:
            raise RobotError(f'row {i}: {error}') from error
        rows.append(q)
    return np.array(rows)
