"""What an action contract has to know: how a robot's joints become the model's rows, and back."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import Observation

from .action_layout import ActionLayout
from .policy import PolicyError

Array = NDArray[np.float64]


class ActionContract(Protocol):
    """One robot under one contract.

    ``read`` and ``write`` are each other's inverse as far as a model's answer is exact.
    """

    @property
    def name(self) -> str:
        """Contract as chunks and robots name it, e.g. ``droid_joint`` or ``eef_delta/droid_lerobot``."""

    @property
    def layout(self) -> ActionLayout:
        """Rows, channels, domain and rate, in the mode ``policy``."""

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Arm joints in the order of a chunk's columns."""

    def given_rows(self, observation: Observation) -> NDArray[np.float32]:
        """Return the rows that a policy request is given, float32 (state rows, width).

        :raises PolicyError: The observation lacks a joint.
        """

    def read(self, rows: NDArray[np.float32], observation: Observation) -> tuple[Array, Array]:
        """Turn denoised rows into positions (H, N) in radians and gripper (H,), 0 open .. 1 closed.

        :param rows: Shape (rows, >= width), state rows included.
        :raises PolicyError: A value is not finite, or the robot cannot do what they say.
        """

    def write(self, positions: Array, gripper: Array, observation: Observation) -> Array:
        """Turn positions (H, N) and gripper (H,) into rows (H, width) as the model would have answered."""


def joints_of(observation: Observation, joint_names: tuple[str, ...]) -> Array:
    """Return an observation's joint positions in the order of ``joint_names``, shape (N,).

    :raises PolicyError: A joint is missing from the observation.
    """
    place = {name: i for i, name in enumerate(observation.joint_names)}
    missing = [name for name in joint_names if name not in place]
    if missing:
        raise PolicyError(
            f'observation: no joint {", ".join(missing)}; it carries {", ".join(observation.joint_names)}. '
            'Check the parameter robot and the topic joint_states')
    return np.array([observation.joint_position[place[name]] for name in joint_names])


def check_finite(actions: Array) -> Array:
    """Return actions (H, channels) if all are finite.

    :raises PolicyError: Names the first that is not.
    """
    if not np.isfinite(actions).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(actions))[0])
        raise PolicyError(
            f'the model answered {actions[row, column]} in row {row}, channel {column}: no chunk. '
            'The weights are damaged or the precision is too low; check the parameters checkpoint and dtype')
    return actions
