"""What a policy sees at one instant."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from .arrays import ContractError, check_names, frozen_array


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """One image per camera slot and the joint state at the same instant.

    :param stamp_ns: The anchor: the oldest of the cameras' newest header stamps.
    :param images: Camera slot to uint8 (H, W, 3) RGB.
    :param joint_names: N names.
    :param joint_position: Shape (N,), radians, interpolated to the anchor.
    :param gripper: 0 open .. 1 closed.
    :param skew_ns: Largest distance of an image's stamp from the anchor.
    :param blank_cameras: Slots without a camera, filled with black because that was asked for.
    """

    stamp_ns: int
    images: Mapping[str, NDArray[np.uint8]]
    joint_names: tuple[str, ...]
    joint_position: NDArray[np.float64]
    gripper: float
    skew_ns: int
    blank_cameras: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check shapes and ranges, freeze the arrays."""
        if not self.images:
            raise ContractError('images: none arrived, at least one camera slot is needed')
        images = {
            slot: frozen_array(f'images[{slot}]', image, shape=(None, None, 3), dtype=np.uint8)
            for slot, image in self.images.items()
        }
        names = check_names('joint_names', self.joint_names)
        if not 0.0 <= self.gripper <= 1.0:
            raise ContractError(f'gripper: {self.gripper} arrived, 0 (open) to 1 (closed) is allowed')
        object.__setattr__(self, 'images', MappingProxyType(images))
        object.__setattr__(self, 'joint_names', names)
        object.__setattr__(
            self, 'joint_position',
            frozen_array('joint_position', self.joint_position, shape=(len(names),)))


@dataclass(frozen=True, slots=True)
class ObservationRefused:
    """Why there is no observation now.

    :param reason: One sentence with the numbers and the parameter to change.
    :param camera: The camera slot at fault, or an empty string.
    """

    reason: str
    camera: str = ''
