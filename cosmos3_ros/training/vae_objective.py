"""The autoencoder's objective: clips of the composed view, there and back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..generator.composed_view import View
from ..model.device_transfer import send
from ..resources import require
from .device_frames import DeviceFrames
from .fused_norms import fuse_norms
from .latent_windows import ClipEncoder, luminance
from .objective import Batch, noise_generator
from .recording import Recording
from .settings import VaeSettings

torch = require('torch', 'model')
_STREAM = 1
_SURROUNDINGS = 17
"""Pixels each way, around one, that its colour is compared with."""


class VaeObjective(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Absolute and squared error of the reconstruction, and a little Kullback-Leibler divergence.

    :param vae: ``diffusers.AutoencoderKLWan`` on its device.
    :param recordings: One per dataset.
    :param starts: Frames at which clips may start, per dataset.
    :param seed: Of the posterior's noise.
    """

    def __init__(
        self, vae: Any, recordings: Sequence[Recording], starts: Sequence[NDArray[np.int64]],
        settings: VaeSettings, view: View, device: Any, seed: int,
    ) -> None:
        super().__init__()
        self.vae = vae.requires_grad_(True)
        self._device = torch.device(device)
        self._recordings, self._starts = tuple(recordings), tuple(starts)
        self._settings, self._seed = settings, seed
        self._frames = [DeviceFrames(r.pictures, self._device) for r in recordings]
        self._encoder = ClipEncoder(vae, view, self._device)

    def trained(self) -> dict[str, Any]:
        """See :class:`objective.Objective`."""
        return dict(self.vae.named_parameters())

    def compile_layers(self) -> None:
        """See :class:`objective.Objective`: what lies between convolutions; the causal cache cannot be."""
        fuse_norms(self.vae)

    def learning_rate_factor(self, name: str) -> float:  # noqa: ARG002 (all alike)
        """See :class:`objective.Objective`."""
        return 1.0

    def clips(self, draws: Sequence[tuple[int, int]]) -> Any:
        """Return uint8 clips (N, T, H, W, 3) on the device."""
        shown: Any = None
        for dataset in dict.fromkeys(dataset for dataset, _ in draws):
            places = [i for i, draw in enumerate(draws) if draw[0] == dataset]
            starts = self._starts[dataset][[draws[i][1] for i in places]]
            clips = self._frames[dataset].take(
                self._recordings[dataset].frame_rows(starts, self._settings.frames))
            if shown is None:
                shown = clips.new_empty((len(draws), *clips.shape[1:]))
            shown[send(torch.tensor(places), self._device)] = clips
        return shown

    def forward(self, batch: Batch) -> dict[str, Any]:
        """Return the loss and its parts, pixels in -1..1."""
        clips = self.clips(batch.draws)
        wanted = self._encoder.canvas(clips)
        posterior = self._encoder.distribution(clips)
        noise = noise_generator(self._device, self._seed, _STREAM, batch.step, batch.part)
        mean, spread = posterior.mean, posterior.std
        drawn = torch.randn(mean.shape, generator=noise, device=self._device, dtype=mean.dtype)
        sample = mean + spread * drawn
        got = self.vae.decode(sample).sample.float()
        weights = pixel_weights(wanted, self._settings.colour_weight)
        absolute, square = ((got - wanted).abs() * weights).mean(), ((got - wanted).square() * weights).mean()
        kl = 0.5 * (mean.float().square() + posterior.var.float() - 1.0 - posterior.logvar.float()).mean()
        return {
            'loss': absolute + self._settings.square_weight * square + self._settings.kl_weight * kl,
            'absolute': absolute, 'square': square, 'kl': kl}


def pixel_weights(canvas: Any, colour_weight: float) -> Any:
    """Return the weights of pixels, 1 on average over each batch, (N, 1, T, H, W).

    Before they are scaled: 1 + ``colour_weight`` times the mean distance of a pixel's colour from that of its
    surroundings; colour is the three channels without their luminance.

    :param canvas: (N, 3, T, H, W), -1..1.
    """
    colour = canvas - luminance(canvas)
    frames = colour.transpose(1, 2).flatten(0, 1)
    around = torch.nn.functional.avg_pool2d(
        frames, _SURROUNDINGS, stride=1, padding=_SURROUNDINGS // 2, count_include_pad=False)
    distance = (frames - around).abs().mean(dim=1).unflatten(0, (len(canvas), -1))[:, None]
    weights = 1.0 + colour_weight * distance
    return weights / weights.mean()


def latent_statistics(
    objective: VaeObjective, draws: Sequence[tuple[int, int]], batch: int = 16,
) -> tuple[list[float], list[float]]:
    """Return mean and deviation of each latent channel over some clips, float64 sums.

    They go into the VAE's config: the generator sees latents of mean 0 and deviation 1.
    """
    total: Any = 0.0
    square: Any = 0.0
    count = 0
    for first in range(0, len(draws), batch):
        with torch.no_grad():
            raw = objective._encoder.distribution(objective.clips(draws[first:first + batch])).mode().double()
        total = total + raw.sum(dim=(0, 2, 3, 4))
        square = square + raw.square().sum(dim=(0, 2, 3, 4))
        count += raw[:, 0].numel()
    mean = total / count
    deviation = (square / count - mean.square()).clamp(min=1e-12).sqrt()
    return [float(m) for m in mean], [max(float(d), 1e-6) for d in deviation]
