"""Latents to patches and back, as ``Cosmos3OmniTransformer`` lays them out (facts sheet 1.1)."""

from typing import Any

from cosmos3_ros.resources import require

from .sequence_pack import SequencePack

functional = require('torch.nn.functional', 'model')


def to_patches(latents: Any, pack: SequencePack) -> Any:
    """Turn (1, C, T, h, w) into (tokens, patch^2 * C), channels fastest, odd edges padded with zeros.

    T may be any number of frames; height and width are the pack's.
    """
    _, rows, columns = pack.grid
    size = pack.patch
    padded = functional.pad(
        latents[0], (0, columns * size - latents.shape[-1], 0, rows * size - latents.shape[-2]))
    split = padded.unflatten(-1, (columns, size)).unflatten(-3, (rows, size))  # C T rows p columns q
    return split.permute(1, 2, 4, 3, 5, 0).flatten(3).flatten(0, 2)


def from_patches(patches: Any, pack: SequencePack, channels: int) -> Any:
    """Turn (tokens, patch^2 * C) of whole frames back into (1, C, T, h, w)."""
    _, rows, columns = pack.grid
    size = pack.patch
    frames = len(patches) // (rows * columns)
    split = patches.reshape(frames, rows, columns, size, size, channels)
    latents = split.permute(5, 0, 1, 3, 2, 4).reshape(channels, frames, rows * size, columns * size)
    return latents[None, :, :, :pack.latent_shape[1], :pack.latent_shape[2]]
