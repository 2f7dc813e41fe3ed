"""A picture to the clean first latent frame, by the VAE's encoder.

The encoder is causal: the latent of frame 0 does not depend on later frames, so one frame is
encoded where the reference encodes 33 (equal bit for bit; facts sheet 0.7, and a test here). Of a
single frame, a causal convolution sees zeros before it: only the last slice of its kernel counts, and
with ``frame_only`` the encoder keeps nothing else, a third of the work and of the weights.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.resources import require

torch = require('torch', 'model')
functional = require('torch.nn.functional', 'model')


SMALLEST_LENGTH = 1e-12  # as torch.nn.functional.normalize


class FrameConvolution(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A causal convolution over time that is only ever given the first frame.

    :param convolution: ``WanCausalConv3d``: pads only the past, with zeros.
    """

    def __init__(self, convolution: Any) -> None:
        super().__init__()
        self.register_buffer('weight', convolution.weight.detach()[:, :, -1].contiguous())
        self.register_buffer('bias', convolution.bias.detach())
        self._stride, self._padding = convolution.stride[1:], convolution._padding[2::-2]

    def forward(self, frame: Any, cache: Any = None) -> Any:  # noqa: ARG002 (nothing came before)
        """Return (1, outputs, 1, H, W) of (1, inputs, 1, H, W)."""
        picture = frame[:, :, 0]
        if picture.is_cuda:  # the layout that tensor cores read
            picture = picture.contiguous(memory_format=torch.channels_last)
        return functional.conv2d(
            picture, self.weight, self.bias, self._stride, self._padding)[:, :, None]


class FrameNorm(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Divides by the length over the channels, in float32 on a CPU without torch's slow outer norm.

    :param norm: ``WanRMS_norm``, channels first.
    """

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self._norm = norm
        self.register_buffer('weight', norm.gamma.detach() * norm.scale)

    def forward(self, frame: Any) -> Any:
        """Return the same of (1, channels, ...)."""
        if frame.is_cuda or frame.dtype != torch.float32:
            return self._norm(frame)
        length = frame.square().sum(dim=1, keepdim=True).sqrt_().clamp_(min=SMALLEST_LENGTH)
        return (frame / length).mul_(self.weight)


def keep_first_frame(module: Any) -> None:
    """Replace all causal convolutions of a Wan encoder, in place; convolutions over time alone go."""
    for name, child in list(module.named_children()):
        if type(child).__name__ == 'WanRMS_norm':
            setattr(module, name, FrameNorm(child))
        elif type(child).__name__ != 'WanCausalConv3d':
            keep_first_frame(child)
        elif name == 'time_conv':  # the first frame passes by it
            delattr(module, name)
        else:
            setattr(module, name, FrameConvolution(child))


class ObservationEncoder:
    """Holds the VAE's encoder and its per-channel statistics.

    :param vae: ``diffusers.AutoencoderKLWan``; its decoder is let go.
    :param device: Where to encode; None where the VAE is.
    :param frame_only: See the module; agrees with the whole encoder to float32's rounding.
    """

    def __init__(self, vae: Any, device: Any = None, *, frame_only: bool = False) -> None:
        self._vae = vae
        if frame_only:
            vae.decoder = vae.post_quant_conv = None
            keep_first_frame(vae.encoder)
            vae.quant_conv = FrameConvolution(vae.quant_conv)
            vae.requires_grad_(False)  # so that it can be recorded
        if frame_only and torch.device(vae.device if device is None else device).type == 'cuda':
            device = vae.device if device is None else device
            # By way of the host: what is left of a VAE that came on the device lies between the holes of
            # what is not. Convolutions in the layout that tensor cores read.
            for part in (vae.encoder, vae.quant_conv):
                part.to('cpu')
            torch.cuda.empty_cache()
            for part in (vae.encoder, vae.quant_conv):
                part.to(device=device, memory_format=torch.channels_last)
        if device is not None:
            vae.to(device)
        self.device = torch.device(vae.device if device is None else device)
        self._dtype = vae.dtype
        shape = (1, -1, 1, 1, 1)
        self._mean = torch.tensor(vae.config.latents_mean, dtype=self._dtype, device=self.device).view(shape)
        self._inverse_std = 1.0 / torch.tensor(
            vae.config.latents_std, dtype=self._dtype, device=self.device).view(shape)

    def encode(self, pixels: NDArray[np.float32], latent_height: int, latent_width: int) -> Any:
        """Return float32 latents (1, 48, 1, latent_height, latent_width), normalised.

        :param pixels: float32 (3, H, W) in -1..1, H and W multiples of 16.
        :param latent_height: Rows to keep, from the top.
        :param latent_width: Columns to keep, from the left.
        """
        with torch.no_grad():
            latent = self.encode_frame(torch.from_numpy(pixels).to(self.device))
            return latent[..., :latent_height, :latent_width].contiguous()

    def encode_frame(self, pixels: Any) -> Any:
        """Return float32 latents (1, 48, 1, H / 16, W / 16) of a tensor (3, H, W) on the device."""
        raw = self._vae.encode(pixels[None, :, None].to(self._dtype)).latent_dist.mode()
        return ((raw - self._mean) * self._inverse_std).float()
