"""Measured joint state."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .arrays import check_names, frozen_array


@dataclass(frozen=True, slots=True, eq=False)
class JointMeasurement:
    """One joint-state sample in the robot's joint order.

    :param stamp_ns: Nanoseconds of the node's clock.
    :param joint_names: N names.
    :param position: Shape (N,), radians.
    :param velocity: Shape (N,), rad/s.
    :param effort: Shape (N,), N m, or None where the robot reports none.
    :param gripper: 0 open .. 1 closed, or None without a gripper reading.
    """

    stamp_ns: int
    joint_names: tuple[str, ...]
    position: NDArray[np.float64]
    velocity: NDArray[np.float64]
    effort: NDArray[np.float64] | None = None
    gripper: float | None = None

    def __post_init__(self) -> None:
        """Check names, shapes and finiteness, freeze the arrays."""
        names = check_names('joint_names', self.joint_names)
        object.__setattr__(self, 'joint_names', names)
        for field in ('position', 'velocity', 'effort'):
            value = getattr(self, field)
            if value is not None:
                object.__setattr__(self, field, frozen_array(field, value, shape=(len(names),)))
