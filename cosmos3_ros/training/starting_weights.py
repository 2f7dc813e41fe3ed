"""What the generation tower starts from, where random weights or those of a checkpoint are not it."""

import math
import re
from typing import Any

from ..generator.droid_joint import DOMAIN_ID, WIDTH
from ..model.random_weights import draw
from ..resources import require
from .generator_objective import GENERATION, understanding_name

torch = require('torch', 'model')

_HEADS = ('action_proj_in.', 'action_proj_out.', 'action_modality_embed')
_OUTPUTS = re.compile(r'\.to_add_out\.weight$|\.mlp_moe_gen\.down_proj\.weight$')
_QUIET = 0.1
_CONSTANT_CHANNELS = 8
_CONSTANT = 4.0


def reinitialise_heads(transformer: Any, seed: int) -> None:
    """Draw the action heads anew."""
    for name, parameter in transformer.named_parameters():
        if name.startswith(_HEADS):
            parameter.data.copy_(torch.from_numpy(draw(name, tuple(parameter.shape), seed)))


def copy_understanding(transformer: Any) -> None:
    """Copy the understanding tower into the generation tower, layer by layer."""
    sources = dict(transformer.named_parameters())
    for name, parameter in sources.items():
        if GENERATION.search(name):
            parameter.data.copy_(sources[understanding_name(name)].data)


def pass_noise(transformer: Any) -> None:
    """Let a row's own noise reach the output from the first step on.

    The answer ``(x_s - x0) / s`` is the noisy row itself, but for the demonstration: absolute joint angles
    differ by hundredths of a radian where the noise has deviation 1, so the noise must be copied to a percent
    before anything else shows in the loss. Here the row's eight values get channels of their own from the
    action head to its counterpart at the end; some constant channels keep the last norm's divisor from
    following the noise; and the layers' outputs start small, so that they do not drown it.
    """
    hidden = int(transformer.config.hidden_size)
    width = int(transformer.config.action_dim)
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if _OUTPUTS.search(name):
                parameter.mul_(_QUIET)
        head = transformer.action_proj_in.fc.weight[DOMAIN_ID].view(width, hidden)
        head[:WIDTH] *= 0.3
        head[:WIDTH, :WIDTH] = torch.eye(WIDTH)
        constant = transformer.action_modality_embed.view(-1)
        constant.zero_()
        constant[WIDTH:WIDTH + _CONSTANT_CHANNELS] = _CONSTANT
        # What the last norm divides by, about: constants, rows of deviation 0.8, and the rest of the head.
        size = math.sqrt((_CONSTANT_CHANNELS * _CONSTANT**2 + WIDTH * 0.64) / hidden + 0.05)
        tail = transformer.action_proj_out.fc.weight[DOMAIN_ID].view(hidden, width)
        tail[:, :WIDTH] *= _QUIET
        tail[:WIDTH, :WIDTH] = size * torch.eye(WIDTH)
