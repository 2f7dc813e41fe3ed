"""The autoencoder's normalisations with the activations after them, each one kernel instead of nine.

At cosmos3-tiny's widths (12 to 48 channels) a step of diffusers' ``AutoencoderKLWan`` is 7500 small kernels,
half of them between its convolutions.
"""

from functools import partial
from typing import Any

from ..resources import require
from .settings import TrainingError

torch = require('torch', 'model')
_NORM = 'WanRMS_norm'


def fuse_norms(vae: Any) -> int:
    """Replace every ``WanRMS_norm`` that a SiLU follows by a compiled function of both; return how many.

    Parameters stay what and where they are. Under autocast the result is in its precision, to which the
    convolution that follows would round it anyway.

    :param vae: ``diffusers.AutoencoderKLWan``; changed in place.
    :raises TrainingError: Its norms are others.
    """
    compiled = torch.compile(normalise, dynamic=True)
    fused = 0
    for module in vae.modules():
        activation = getattr(module, 'nonlinearity', None)
        if not isinstance(activation, torch.nn.SiLU):
            continue
        for name in ('norm1', 'norm2', 'norm_out'):
            norm = getattr(module, name, None)
            if norm is not None:
                if type(norm).__name__ != _NORM or not norm.channel_first or torch.is_tensor(norm.bias):
                    raise TrainingError(
                        f'vae: {type(norm).__name__} as {name} arrived, {_NORM} over channels and without a '
                        'bias is known; train with compile: false')
                norm.forward = partial(_apply, compiled, norm)
                fused += 1
        module.nonlinearity = torch.nn.Identity()
    return fused


def normalise(states: Any, weight: Any, dtype: Any) -> Any:
    """Return ``silu(sqrt(C) * states / |states| * weight)``, norms over the channels.

    Source: ``WanRMS_norm.forward`` of diffusers 0.42.1, whose bias these norms lack.

    :param states: (batch, C, T, h, w).
    :param weight: (C, 1, 1, 1).
    :param dtype: Of the result.
    """
    scaled = torch.nn.functional.normalize(states.float(), dim=1) * states.shape[1] ** 0.5
    return torch.nn.functional.silu(scaled * weight).to(dtype)


def _apply(compiled: Any, norm: Any, states: Any) -> Any:
    kind = states.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
    # A layout of its own, or a view of something else, would be compiled anew.
    return compiled(states.contiguous(), norm.gamma, dtype)
