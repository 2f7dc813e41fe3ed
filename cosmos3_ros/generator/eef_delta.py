"""The ``eef_delta`` contract: what mid-train checkpoints (``nvidia/Cosmos3-Nano``) were trained to answer.

A row is the normalised change of the effector's pose since the row before, and the gripper. There is no state
row: the first change starts from where the effector is measured. Changes are made raw, integrated to poses in
the base frame, and followed by inverse kinematics to the joints that a chunk carries.
"""

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import Observation
from cosmos3_ros.robots import Robot
from cosmos3_ros.robots.errors import RobotError
from cosmos3_ros.robots.kinematics import rotation_rpy

from .action_contract import Array, check_finite, joints_of
from .action_layout import ActionLayout
from .eef_settings import EefSettings
from .inverse_kinematics import UnreachablePoseError, follow_poses
from .policy import PolicyError
from .pose_delta import WIDTH as POSE_WIDTH
from .pose_delta import deltas_between, integrate_deltas

CONTRACT = 'eef_delta'
# Generic defaults of cosmos-framework's offline policies (facts sheet 5): 30 steps, no guidance, shift 10.
STEPS = 30
GUIDANCE = 1.0
SHIFT = 10.0


class UnreachableChunkError(PolicyError):
    """The model's poses leave the robot's reach. Nothing is clamped: there is no chunk.

    :param row: First row that cannot be reached, 0-based.
    :param left_m: Distance that is left there.
    :param left_rad: Angle that is left there.
    """

    def __init__(self, robot: str, rows: int, error: UnreachablePoseError) -> None:
        self.row, self.left_m, self.left_rad = error.row or 0, error.left_m, error.left_rad
        super().__init__(
            f'robot {robot}: the model asks for a pose out of reach in row {self.row} of {rows}: '
            f'{self.left_m * 1e3:.1f} mm and {self.left_rad:.3f} rad are left; no chunk')


class EefDelta:
    """The contract for one robot; fits :class:`action_contract.ActionContract`.

    :param robot: Its kinematics and the limits that joints are kept in.
    """

    def __init__(self, robot: Robot, settings: EefSettings) -> None:
        self._robot, self._settings = robot, settings
        self.name = f'{CONTRACT}/{settings.channels.domain}'
        self.joint_names = robot.joint_names
        self._rotation = rotation_rpy(settings.effector_rpy_rad)
        self._lower, self._upper = robot.limits.lower_rad, robot.limits.upper_rad
        if self.name not in robot.action_contracts:
            raise PolicyError(
                f'robot {robot.name}: it accepts {", ".join(robot.action_contracts)}, this checkpoint '
                'answers '
                f'{self.name}. Change the parameter robot or checkpoint, the domain in the option action, or '
                "action_contracts in the robot's file")

    @property
    def layout(self) -> ActionLayout:
        """See :class:`ActionContract`."""
        return self._settings.layout

    def given_rows(self, observation: Observation) -> NDArray[np.float32]:  # noqa: ARG002 (there is no state)
        """See :meth:`ActionContract.given_rows`."""
        return np.zeros((0, self.layout.width), dtype=np.float32)

    def effector_pose(self, joints: Array) -> tuple[Array, Array]:
        """Return R (..., 3, 3) and p (..., 3) of the model's effector frame at joints (..., N)."""
        R, p = self._robot.kinematics.forward(joints)
        R, p = R[..., -1, :, :], p[..., -1, :]
        return R @ self._rotation, p + R @ self._settings.effector_xyz_m

    def read(self, rows: NDArray[np.float32], observation: Observation) -> tuple[Array, Array]:
        """See :meth:`ActionContract.read`.

        :raises UnreachableChunkError: Names the row and what is left.
        """
        channels = self._settings.channels
        actions = check_finite(np.asarray(rows[:, :channels.width], dtype=np.float64))
        raw = self._settings.normaliser.to_raw(actions)
        start = joints_of(observation, self.joint_names)
        R, p = integrate_deltas(
            *self.effector_pose(start), raw[:, channels.pose:channels.pose + POSE_WIDTH])
        try:
            joints = follow_poses(
                self._robot.kinematics, start, *self._tool_pose(R, p), self._lower, self._upper)
        except UnreachablePoseError as error:
            raise UnreachableChunkError(self._robot.name, len(raw), error) from error
        except RobotError as error:
            raise PolicyError(f'robot {self._robot.name}: {error}; no chunk') from error
        return joints, np.clip(self._flip(raw[:, channels.gripper]), 0.0, 1.0)

    def write(self, positions: Array, gripper: Array, observation: Observation) -> Array:
        """See :meth:`ActionContract.write`. Other arms of the domain, and its body, stand still."""
        channels, rows = self._settings.channels, len(positions)
        path = np.vstack([joints_of(observation, self.joint_names), positions])
        still = deltas_between(np.tile(np.eye(3), (2, 1, 1)), np.zeros((2, 3)))[0]
        raw = np.tile(self._settings.normaliser.offset, (rows, 1))
        for begin in channels.poses:
            raw[:, begin:begin + POSE_WIDTH] = still
        raw[:, channels.pose:channels.pose + POSE_WIDTH] = deltas_between(*self.effector_pose(path))
        raw[:, channels.gripper] = self._flip(gripper)
        return self._settings.normaliser.to_normalised(raw)

    def _flip(self, gripper: Array) -> Array:
        return 1.0 - gripper if self._settings.gripper_open == 1.0 else gripper

    def _tool_pose(self, R: Array, p: Array) -> tuple[Array, Array]:
        """Return the robot's tool frame at effector poses R (H, 3, 3), p (H, 3)."""
        kinematics = self._robot.kinematics
        home = self._robot.home_rad
        links, origins = kinematics.forward(home)
        tool_R, tool_p = kinematics.tool_pose(home)
        link = links[-1].T  # the tool in the last link, the same everywhere
        tool_R, tool_p = link @ tool_R, link @ (tool_p - origins[-1])
        last_R = R @ self._rotation.T
        last_p = p - last_R @ self._settings.effector_xyz_m
        return last_R @ tool_R, last_p + last_R @ tool_p
