"""The ``droid_joint`` contract: what ``nvidia/Cosmos3-Nano-Policy-DROID`` was trained to answer.

An action row is seven absolute joint positions in radians and the gripper as 1 - closed, raw, not
normalised. Row 0 is the measured state and stays clean; rows 1..32 at 15 Hz are the answer.
Source: cosmos-framework, ``scripts/action_policy_server_robolab.py`` (facts sheet 2b).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import Observation
from cosmos3_ros.model.embodiments import embodiment

from .action_contract import check_finite, joints_of
from .action_layout import ActionLayout
from .policy import PolicyError

CONTRACT = 'droid_joint'
DOMAIN_ID = embodiment('droid_lerobot').domain_id
ARM_JOINTS = 7
WIDTH = ARM_JOINTS + 1  # the released head uses 8 of droid_lerobot's 10 channels
HORIZON = 32
ROWS = HORIZON + 1
RATE_HZ = 15
STEP_NS = round(1e9 / RATE_HZ)
STEPS = 4
GUIDANCE = 3.0
SHIFT = 5.0
CAMERA_SLOTS = ('wrist', 'exterior_1', 'exterior_2')
LAYOUT = ActionLayout(HORIZON, WIDTH, DOMAIN_ID, state_rows=1, rate_hz=RATE_HZ)


def check_robot(joint_names: Sequence[str]) -> tuple[str, ...]:
    """Return the robot's arm joints, in the order of the model's channels.

    :raises PolicyError: Not seven distinct joints.
    """
    names = tuple(joint_names)
    if len(names) != ARM_JOINTS or len(set(names)) != ARM_JOINTS:
        raise PolicyError(
            f'robot: its arm has the {len(names)} joints {", ".join(names) or "(none)"}; a checkpoint with '
            f'the contract {CONTRACT} moves {ARM_JOINTS} joints and a gripper. Change the parameter robot or '
            'checkpoint')
    return names


def state_row(observation: Observation, joint_names: Sequence[str]) -> NDArray[np.float32]:
    """Return the clean first row, shape (8,): joints in the model's order, then 1 - gripper.

    :raises PolicyError: A joint is missing from the observation.
    """
    joints = joints_of(observation, tuple(joint_names))
    return np.asarray([*joints, 1.0 - observation.gripper], dtype=np.float32)


def read_rows(rows: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Split denoised rows into positions (32, 7) in radians and gripper (32,), 0 open .. 1 closed.

    Positions are what the model says: keeping them inside limits is the controller's work. The
    gripper is clipped to 0..1, since it is a fraction by definition and the model regresses it.

    :param rows: Shape (33, >= 8); row 0 is the state.
    :raises PolicyError: A value is not finite.
    """
    actions = check_finite(np.asarray(rows[1:ROWS, :WIDTH], dtype=np.float64))
    return (np.ascontiguousarray(actions[:, :ARM_JOINTS]),
            np.clip(1.0 - actions[:, ARM_JOINTS], 0.0, 1.0))


class DroidJoint:
    """The contract for one robot; fits :class:`action_contract.ActionContract`.

    :param joint_names: Seven arm joints, base to wrist.
    :raises PolicyError: Not seven distinct joints.
    """

    name = CONTRACT
    layout = LAYOUT

    def __init__(self, joint_names: Sequence[str]) -> None:
        self.joint_names = check_robot(joint_names)

    def given_rows(self, observation: Observation) -> NDArray[np.float32]:
        """See :meth:`ActionContract.given_rows`."""
        return state_row(observation, self.joint_names)[None]

    def read(
        self, rows: NDArray[np.float32], observation: Observation,  # noqa: ARG002 (rows are absolute)
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See :meth:`ActionContract.read`."""
        return read_rows(rows)

    def write(
        self, positions: NDArray[np.float64], gripper: NDArray[np.float64],
        observation: Observation,  # noqa: ARG002 (rows are absolute)
    ) -> NDArray[np.float64]:
        """See :meth:`ActionContract.write`."""
        return np.column_stack([positions, 1.0 - gripper])
