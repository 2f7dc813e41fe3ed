"""Frames where they are used: on the accelerator if they fit, so that no step waits for copies."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model.device_transfer import send
from ..resources import require

torch = require('torch', 'model')

_CHUNK = 4096


class DeviceFrames:
    """Gives frames by their numbers, as a tensor on a device.

    :param frames: uint8 (F, H, W, 3), in memory or mapped.
    :param share: Of an accelerator's free memory that they may take; otherwise they stay where they are.
    """

    def __init__(self, frames: NDArray[np.uint8], device: Any, share: float = 0.4) -> None:
        self._frames, self._device = frames, torch.device(device)
        self._held: Any = None
        if self._device.type == 'cuda' and frames.nbytes < share * torch.cuda.mem_get_info(self._device)[0]:
            self._held = torch.empty(frames.shape, dtype=torch.uint8, device=self._device)
            for first in range(0, len(frames), _CHUNK):
                part = np.ascontiguousarray(frames[first:first + _CHUNK])
                self._held[first:first + len(part)] = torch.from_numpy(part).to(self._device)

    def take(self, rows: NDArray[np.int64]) -> Any:
        """Return uint8 (*rows.shape, H, W, 3) on the device."""
        if self._held is None:
            return torch.from_numpy(np.ascontiguousarray(self._frames[rows])).to(self._device)
        picked = self._held.index_select(0, send(torch.from_numpy(rows.ravel()), self._device))
        return picked.unflatten(0, rows.shape)
