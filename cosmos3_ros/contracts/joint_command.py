"""One sample of the committed plan."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class JointCommand:
    """Command for one instant. Built 500 times a second from a verified plan, so not re-checked.

    :param stamp_ns: The instant that the command is for.
    :param position: Shape (N,), radians.
    :param velocity: Shape (N,), rad/s.
    :param acceleration: Shape (N,), rad/s^2.
    :param gripper: 0 open .. 1 closed.
    :param effort: Shape (N,), N m, for effort-controlled arms; None otherwise.
    """

    stamp_ns: int
    position: NDArray[np.float64]
    velocity: NDArray[np.float64]
    acceleration: NDArray[np.float64]
    gripper: float
    effort: NDArray[np.float64] | None = None
