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
POLISHED = 1e-10
"""What is left, metres and radians together, at which a solution is as good as float64 makes it."""
POLISHING_STEPS = 8
LARGEST_TURN_RAD = 1.0
"""Between two rows of a chunk; the fastest joint of these arms turns 0.35 rad in a period of 15 Hz."""


class UnreachablePoseError(RobotError):
    """A pose that the tool cannot be brought to.

    :param left_m: Distance that is left.
    :param left_rad: Angle that is left.
    :param row: Row of a path, None for a single pose.
    """

    def __init__(self, left_m: float, left_rad: float, row: int | None = None) -> None:
        self.left_m, self.left_rad, self.row = left_m, left_rad, row
        where = '' if row is None else f'row {row}: '
        super().__init__(
            f'{where}inverse kinematics: {left_m * 1e3:.1f} mm and {left_rad:.3f} rad are left after '
            f'{ITERATIONS} iterations; the pose is out of reach from here')


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

    A joint at its end that would have to go on is held there, and the others do the work. Once the
    tolerance is met a few more steps are made, which end quadratically: two starts that differ by a
    rounding then give solutions that differ by one.

    :param start: Shape (N,), where to begin; the solution found is one nearby.
    :param lower: Shape (N,), radians.
    :param upper: Shape (N,), radians.
    :raises UnreachablePoseError: None was found; it says what is left.
    """
    q = np.clip(start, lower, upper)
    reached: FloatArray | None = None
    polished = 0
    for _ in range(ITERATIONS):
        error = pose_error(kinematics, q, rotation, position_m)
        if np.linalg.norm(error[:3]) <= tolerance_m and np.linalg.norm(error[3:]) <= tolerance_rad:
            reached, polished = q, polished + 1
            if np.linalg.norm(error) <= POLISHED or polished > POLISHING_STEPS:
                return q
        elif reached is not None:
            return reached
        q = _step(kinematics, q, error, lower, upper)
    if reached is not None:
        return reached
    raise UnreachablePoseError(float(np.linalg.norm(error[:3])), float(np.linalg.norm(error[3:])))


def _step(
    kinematics: Kinematics, q: FloatArray, error: FloatArray, lower: FloatArray, upper: FloatArray,
) -> FloatArray:
    jacobian = tool_jacobian(kinematics, q)
    # Less damping as it gets near, so that it ends quadratically.
    damping = DAMPING * min(1.0, float(np.linalg.norm(error))) ** 2 + 1e-9
    free = np.ones(len(q), dtype=bool)
    for _ in range(len(q)):
        part = jacobian[:, free]
        step = np.zeros(len(q))
        step[free] = part.T @ np.linalg.solve(part @ part.T + damping * np.eye(6), error)
        stuck = free & (((q <= lower) & (step < 0.0)) | ((q >= upper) & (step > 0.0)))
        if not stuck.any():
            break
        free &= ~stuck
    step *= min(1.0, LARGEST_STEP_RAD / max(float(np.abs(step).max()), 1e-12))
    clipped: FloatArray = np.clip(q + step, lower, upper)
    return clipped


def follow_poses(
    kinematics: Kinematics, start: FloatArray, rotations: FloatArray, positions_m: FloatArray,
    lower: FloatArray, upper: FloatArray,
) -> FloatArray:
    """Return joint positions (H, N) along poses R (H, 3, 3), p (H, 3), each found from the one before.

    :raises UnreachablePoseError: A pose is out of reach; it says which row and by how much.
    :raises RobotError: Two rows need joints so far apart that the arm would have to swing over.
    """
    rows: list[FloatArray] = []
    q = start
    for i, (rotation, position) in enumerate(zip(rotations, positions_m, strict=True)):
        try:
            found = solve_pose(kinematics, q, rotation, position, lower, upper)
        except UnreachablePoseError as error:
            raise UnreachablePoseError(error.left_m, error.left_rad, row=i) from error
        turn = np.abs(found - q)
        # The first row starts from where the arm is, which may lie a little outside of the limits.
        if rows and turn.max() > LARGEST_TURN_RAD:
            raise RobotError(
                f'row {i}: inverse kinematics: joint {int(turn.argmax()) + 1} would turn by '
                f'{turn.max():.2f} rad '
                f'from one row to the next, at most {LARGEST_TURN_RAD:g} is allowed: the arm would swing '
                'over')
        rows.append(found)
        q = found
    return np.array(rows)
