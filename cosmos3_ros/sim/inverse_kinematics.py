"""Joint positions for a pose of the tool: damped least squares on MuJoCo's kinematics."""

import numpy as np
from numpy.typing import NDArray

from .configuration import ARM_JOINTS
from .mujoco_library import mujoco
from .scene import build_arm, simulated_robot

_DAMPING = 1e-3
# Share of the way home that the elbow goes per call, so that successive answers join smoothly.
_POSTURE_GAIN = 0.02
_LIMIT_MARGIN_RAD = 0.02
_MAX_STEP_RAD = 0.3


class InverseKinematics:
    """Solve for a tool pose close to a given joint position.

    Damped least squares with the posture pulled towards home in the null space (Nakamura and
    Hanafusa, "Inverse kinematic solutions with singularity robustness", 1986).
    """

    def __init__(self) -> None:
        self._model = build_arm()
        self._data = mujoco.MjData(self._model)
        self._site = int(self._model.site('tcp').id)
        dofs = [int(self._model.joint(name).dofadr[0]) for name in ARM_JOINTS]
        self._qpos = np.array([int(self._model.joint(name).qposadr[0]) for name in ARM_JOINTS])
        self._dofs = np.array(dofs)
        self._home = simulated_robot().home_rad
        ranges = np.array([self._model.joint(name).range for name in ARM_JOINTS])
        self._lower = ranges[:, 0] + _LIMIT_MARGIN_RAD
        self._upper = ranges[:, 1] - _LIMIT_MARGIN_RAD
        self._jacobian = np.zeros((6, self._model.nv))

    def solve(self, start: NDArray[np.float64], position: NDArray[np.float64], yaw: float, *,
              iterations: int = 20) -> NDArray[np.float64]:
        """Return joint positions that put the tool at ``position``, pointing down.

        :param start: Shape (7,), radians; the answer lies near it.
        :param position: Shape (3,), metres, base frame.
        :param yaw: Rotation of the tool about the vertical, radians; 0 has the hand's x along the base's.
        :returns: Shape (7,), inside the joint ranges. Where the pose is out of reach, the nearest found.
        """
        target = tool_down_quaternion(yaw)
        q = np.clip(start, self._lower, self._upper)
        for iteration in range(iterations):
            error = self._error(q, position, target)
            if iteration and np.linalg.norm(error[:3]) < 1e-4 and np.linalg.norm(error[3:]) < 1e-3:
                break
            jacobian = self._jacobian[:, self._dofs]
            pseudo_inverse = jacobian.T @ np.linalg.inv(jacobian @ jacobian.T + _DAMPING * np.eye(6))
            step = pseudo_inverse @ error
            if iteration == 0:
                posture = _POSTURE_GAIN * (self._home - q)
                step += posture - pseudo_inverse @ (jacobian @ posture)
            step *= min(1.0, _MAX_STEP_RAD / max(float(np.abs(step).max()), 1e-12))
            q = np.clip(q + step, self._lower, self._upper)
        return q

    def tool_pose(self, q: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        """Return the tool's position (metres, base frame) and its yaw."""
        self._data.qpos[self._qpos] = q
        mujoco.mj_kinematics(self._model, self._data)
        return self._data.site_xpos[self._site].copy(), tool_yaw(self._data.site_xmat[self._site])

    def _error(self, q: NDArray[np.float64], position: NDArray[np.float64],
               target: NDArray[np.float64]) -> NDArray[np.float64]:
        model, data = self._model, self._data
        data.qpos[self._qpos] = q
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_jacSite(model, data, self._jacobian[:3], self._jacobian[3:], self._site)
        current, inverse, difference = np.zeros(4), np.zeros(4), np.zeros(4)
        mujoco.mju_mat2Quat(current, data.site_xmat[self._site])
        mujoco.mju_negQuat(inverse, current)
        mujoco.mju_mulQuat(difference, target, inverse)
        error = np.zeros(6)
        error[:3] = position - data.site_xpos[self._site]
        mujoco.mju_quat2Vel(error[3:], difference, 1.0)
        return error


def tool_down_quaternion(yaw: float) -> NDArray[np.float64]:
    """Return (w, x, y, z) of a tool that points down: half a turn about x, then ``yaw`` about z."""
    return np.array([0.0, np.cos(yaw / 2), np.sin(yaw / 2), 0.0])


def tool_yaw(rotation: NDArray[np.float64]) -> float:
    """Return the yaw of a downward tool from its rotation matrix, shape (9,) or (3, 3)."""
    matrix = np.asarray(rotation).reshape(3, 3)
    return float(np.arctan2(matrix[1, 0], matrix[0, 0]))
