"""What the scripted expert sees of a world, and how its arm is led: physics, or geometry alone."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .snapshot import WorldState


class Surroundings(Protocol):
    """A tabletop with an arm, cubes and a zone: ``world.World`` or ``still_world.StillWorld``."""

    @property
    def tcp(self) -> NDArray[np.float64]:
        """The tool's position, shape (3,), metres, base frame."""

    @property
    def tcp_rotation(self) -> NDArray[np.float64]:
        """The tool's rotation matrix, shape (3, 3), base frame."""

    @property
    def zone_xy(self) -> NDArray[np.float64]:
        """Middle of the target zone, shape (2,), metres, base frame."""

    def cube_pose(self, colour: str) -> NDArray[np.float64]:
        """Position and quaternion (w x y z) of a cube, shape (7,)."""

    def state(self) -> WorldState:
        """Return what the arm's sensors say now."""

    def track(self, start: NDArray[np.float64], end: NDArray[np.float64], gripper: float,
              duration_ns: int) -> None:
        """Let time pass while the arm is led on a straight joint path."""
