"""Camera frames over time."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .arrays import ContractError, frozen_array


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """Frames of one camera, oldest first.

    :param camera: Camera slot, e.g. ``wrist``.
    :param frames: uint8, shape (T, H, W, 3), RGB.
    :param stamps_ns: int64, shape (T,), strictly increasing nanoseconds of the node's clock.
    """

    camera: str
    frames: NDArray[np.uint8]
    stamps_ns: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Check shapes and order, freeze the arrays."""
        frames = frozen_array('frames', self.frames, shape=(None, None, None, 3), dtype=np.uint8)
        stamps = frozen_array('stamps_ns', self.stamps_ns, shape=(len(frames),), dtype=np.int64)
        if len(frames) == 0:
            raise ContractError('frames: 0 frames arrived, at least 1 is needed')
        if (np.diff(stamps) <= 0).any():
            raise ContractError('stamps_ns: must increase strictly from frame to frame')
        object.__setattr__(self, 'frames', frames)
        object.__setattr__(self, 'stamps_ns', stamps)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.frames.shape[1]), int(self.frames.shape[2])
