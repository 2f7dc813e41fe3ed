"""Whole videos to latents and back, by the VAE that policies otherwise use for one frame only.

Needed for imagined videos and for the actions behind a recorded one; a policy that only acts never loads it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.resources import require

torch = require('torch', 'model')

Frames = NDArray[np.uint8]


class VideoCodec:
    """Holds the whole VAE and its per-channel statistics.

    :param vae: ``diffusers.AutoencoderKLWan``.
    :param device: Where to work.
    """

    def __init__(self, vae: Any, device: Any) -> None:
        self._vae = vae.to(device)
        self._device, self._dtype = torch.device(device), vae.dtype
        shape = (1, -1, 1, 1, 1)
        self._mean = torch.tensor(vae.config.latents_mean, dtype=self._dtype, device=device).view(shape)
        self._std = torch.tensor(vae.config.latents_std, dtype=self._dtype, device=device).view(shape)

    def encode(self, pixels: NDArray[np.float32], latent_height: int, latent_width: int) -> Any:
        """Return float32 latents (1, 48, 1 + (T - 1) / 4, latent_height, latent_width), normalised.

        :param pixels: float32 (T, 3, H, W) in -1..1, H and W multiples of 16, T = 4 n + 1.
        :param latent_height: Rows to keep, from the top.
        :param latent_width: Columns to keep, from the left.
        """
        video = torch.from_numpy(np.ascontiguousarray(pixels.transpose(1, 0, 2, 3)))[None]
        with torch.no_grad():
            raw = self._vae.encode(video.to(self._device, self._dtype)).latent_dist.mode()
            # One multiplication as in ObservationEncoder: the first frame is then the same bit for bit.
            latents = ((raw - self._mean) * (1.0 / self._std)).float()
            return latents[..., :latent_height, :latent_width].contiguous()

    def decode(self, latents: Any) -> Frames:
        """Return uint8 RGB frames (T, 16 h, 16 w, 3) of latents (1, 48, t, h, w), T = 4 (t - 1) + 1."""
        with torch.no_grad():
            raw = latents.to(self._device, self._dtype) * self._std + self._mean
            video = self._vae.decode(raw, return_dict=False)[0][0].float().cpu()
        pixels = ((video.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)
        frames: Frames = np.ascontiguousarray(pixels.permute(1, 2, 3, 0).numpy())
        return frames
