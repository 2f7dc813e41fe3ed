"""Camera slots of a robot cell."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import RobotError

SLOTS = ('wrist', 'exterior_1', 'exterior_2')


@dataclass(frozen=True, slots=True, eq=False)
class CameraMount:
    """Nominal pose of a camera's optical frame (x right, y down, z forward, REP 103).

    :param parent: ``base`` or ``tool``.
    :param xyz_m: Shape (3,), in the parent frame.
    :param rpy_rad: Shape (3,), fixed-axis roll, pitch, yaw in the parent frame.
    :param vertical_fov_rad: Full vertical angle of view.
    """

    parent: str
    xyz_m: NDArray[np.float64]
    rpy_rad: NDArray[np.float64]
    vertical_fov_rad: float


@dataclass(frozen=True, slots=True, eq=False)
class CameraSlot:
    """One camera that a policy may ask for.

    :param name: ``wrist``, ``exterior_1`` or ``exterior_2`` (the DROID layout).
    :param topic: Relative name of the image topic.
    :param frame_id: Optical frame in the image headers.
    :param width: Pixels.
    :param height: Pixels.
    """

    name: str
    topic: str
    frame_id: str
    width: int
    height: int
    mount: CameraMount

    def __post_init__(self) -> None:
        """Check the slot's name."""
        if self.name not in SLOTS:
            raise RobotError(f'camera slot {self.name!r} arrived, {", ".join(SLOTS)} are allowed')
        if self.mount.parent not in ('base', 'tool'):
            raise RobotError(
                f'camera {self.name}: parent {self.mount.parent!r} arrived, base or tool is allowed')
