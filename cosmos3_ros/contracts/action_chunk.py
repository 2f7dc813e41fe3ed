"""A chunk of future actions on an absolute timeline."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .arrays import ContractError, check_names, frozen_array
from .identity import ModelIdentity


@dataclass(frozen=True, slots=True, eq=False)
class ActionChunk:
    """H rows of absolute joint positions and gripper; row i is due at stamp + (i + 1) * step.

    :param stamp_ns: The observation that the chunk was computed from.
    :param step_ns: Nanoseconds between rows, positive.
    :param joint_names: N names, order of the columns.
    :param positions: Shape (H, N), absolute radians.
    :param gripper: Shape (H,), 0 open .. 1 closed.
    :param contract: Action contract, e.g. ``droid_joint``.
    :param seed: Seed of the explicit noise.
    :param steps: Denoising steps; 0 for a policy that does not denoise.
    :param guidance: Classifier-free guidance scale; 1 is off.
    :param latency_s: Seconds from the request to the finished chunk.
    """

    stamp_ns: int
    step_ns: int
    joint_names: tuple[str, ...]
    positions: NDArray[np.float64]
    gripper: NDArray[np.float64]
    contract: str
    instruction: str
    seed: int
    steps: int
    guidance: float
    policy: str
    identity: ModelIdentity
    trace_id: str
    latency_s: float

    def __post_init__(self) -> None:
        """Check shapes, ranges and finiteness, freeze the arrays."""
        names = check_names('joint_names', self.joint_names)
        if self.step_ns <= 0:
            raise ContractError(f'step_ns: {self.step_ns} arrived, a positive number is needed')
        positions = frozen_array('positions', self.positions, shape=(None, len(names)))
        if len(positions) == 0:
            raise ContractError('positions: 0 rows arrived, at least 1 is needed')
        gripper = frozen_array('gripper', self.gripper, shape=(len(positions),))
        if gripper.min() < 0.0 or gripper.max() > 1.0:
            raise ContractError(
                f'gripper: {gripper.min():.3g}..{gripper.max():.3g} arrived, '
                '0 (open) to 1 (closed) is allowed')
        object.__setattr__(self, 'joint_names', names)
        object.__setattr__(self, 'positions', positions)
        object.__setattr__(self, 'gripper', gripper)

    @property
    def horizon(self) -> int:
        """Number of rows H."""
        return int(self.positions.shape[0])

    def due_ns(self, row: int) -> int:
        """Return the time at which ``row`` (0-based) is due."""
        return self.stamp_ns + (row + 1) * self.step_ns

    @property
    def end_ns(self) -> int:
        """Time at which the last row is due."""
        return self.due_ns(self.horizon - 1)
