"""A picture to the clean first latent frame, by the VAE's encoder.

The encoder is causal: the latent of frame 0 does not depend on later frames, so one frame is
encoded where the reference encodes 33 (equal bit for bit; facts sheet 0.7, and a test here).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.resources import require

torch = require('torch', 'model')


class ObservationEncoder:
    """Holds the VAE and its per-channel statistics.

    :param vae: ``diffusers.AutoencoderKLWan``.
    """

    def __init__(self, vae: Any) -> None:
        self._vae = vae
        shape = (1, -1, 1, 1, 1)
        self._mean = torch.tensor(vae.config.latents_mean, dtype=vae.dtype, device=vae.device).view(shape)
        self._inverse_std = 1.0 / torch.tensor(
            vae.config.latents_std, dtype=vae.dtype, device=vae.device).view(shape)

    def encode(self, pixels: NDArray[np.float32], latent_height: int, latent_width: int) -> Any:
        """Return float32 latents (1, 48, 1, latent_height, latent_width), normalised.

        :param pixels: float32 (3, H, W) in -1..1, H and W multiples of 16.
        :param latent_height: Rows to keep, from the top.
        :param latent_width: Columns to keep, from the left.
        """
        with torch.inference_mode():
            frames = torch.from_numpy(pixels)[None, :, None].to(self._vae.device, self._vae.dtype)
            raw = self._vae.encode(frames).latent_dist.mode()
            latent = ((raw - self._mean) * self._inverse_std).float()
        return latent[..., :latent_height, :latent_width].contiguous()
