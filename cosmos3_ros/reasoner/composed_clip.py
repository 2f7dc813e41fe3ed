"""Clips of several cameras as one clip of the picture that the policy sees."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..contracts import Clip, ContractError

COMPOSED = 'composed'
"""Camera name of a composed clip."""

Compose = Callable[[Mapping[str, NDArray[np.uint8]]], NDArray[np.uint8]]


def compose_clips(clips: Sequence[Clip], compose: Compose) -> Clip:
    """Return one clip whose frames are made of all cameras' frames.

    It has the stamps of the camera with the fewest frames; of the others the nearest frame in time is
    taken for each, so every picture was really seen at about that time.

    :param clips: One per camera.
    :param compose: Makes a picture (H, W, 3) of one image per camera slot; ``generator.composed_view`` has
        the one that the policy sees.
    :raises ContractError: No clips, or two of one camera.
    """
    if not clips or len({clip.camera for clip in clips}) != len(clips):
        raise ContractError(
            f'clips: cameras {[clip.camera for clip in clips]} arrived, one clip per camera is needed')
    times = min(clips, key=lambda clip: len(clip.frames)).stamps_ns
    chosen = {
        clip.camera: clip.frames[np.abs(clip.stamps_ns[:, None] - times[None]).argmin(axis=0)]
        for clip in clips}
    pictures = [
        compose({camera: frames[i] for camera, frames in chosen.items()}) for i in range(len(times))]
    return Clip(COMPOSED, np.stack(pictures), times)
