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
    place = {name: i for i, name in enumerate(observation.joint_names)}
    missing = [name for name in joint_names if name not in place]
    if missing:
        raise PolicyError(
            f'observation: no joint {", ".join(missing)}; it carries {", ".join(observation.joint_names)}. '
            'Check the parameter robot and the topic joint_states')
    joints = [observation.joint_position[place[name]] for name in joint_names]
    return np.asarray([*joints, 1.0 - observation.gripper], dtype=np.float32)


def read_rows(rows: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Split denoised rows into positions (32, 7) in radians and gripper (32,), 0 open .. 1 closed.

    Positions are what the model says: keeping them inside limits is the controller's work. The
    gripper is clipped to 0..1, since it is a fraction by definition and the model regresses it.

    :param rows: Shape (33, >= 8); row 0 is the state.
    :raises PolicyError: A value is not finite.
    """
    actions = np.asarray(rows[1:ROWS, :WIDTH], dtype=np.float64)
    if not np.isfinite(actions).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(actions))[0])
        raise PolicyError(
            f'the model answered {actions[row, column]} in row {row}, channel {column}: no chunk. '
            'The weights are damaged or the precision is too low; check the parameters checkpoint and dtype')
    return (np.ascontiguousarray(actions[:, :ARM_JOINTS]),
            np.clip(1.0 - actions[:, ARM_JOINTS], 0.0, 1.0))
