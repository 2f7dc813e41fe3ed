"""Parts that the towers share."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..dimensions import Dimensions


class RmsNorm(nn.Module):
    """Root-mean-square norm over the last axis, float32 inside; rounds once, before the weight.

    The order of rounding is that of ``Qwen3VLTextRMSNorm`` and diffusers' ``RMSNorm``.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, states: Any) -> Any:
        """Return normed states of the same shape and dtype."""
        wide = states.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return wide.to(states.dtype) * self.weight


class LayerNorm(nn.Module):
    """Layer norm over the last axis, float32 inside."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, states: Any) -> Any:
        """Return normed states of the same shape and dtype."""
        return functional.layer_norm(
            states.float(), self.weight.shape, self.weight.float(), self.bias.float(), self.eps,
        ).to(states.dtype)


class GatedMlp(nn.Module):
    """SwiGLU without biases; gate and up stay two matrices, so that each keeps its own FP8 scale."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, states: Any) -> Any:
        """Return (tokens, hidden)."""
        return self.down_proj(functional.silu(self.gate_proj(states)) * self.up_proj(states))


def rotate(states: Any, cos: Any, sin: Any) -> Any:
    """Apply rotary positions in float32.

    :param states: (..., heads, width).
    :param cos: float32 (..., 1, width).
    """
    wide = states.float()
    half = wide.shape[-1] // 2
    turned = torch.cat((-wide[..., half:], wide[..., :half]), dim=-1)
    return (wide * cos + turned * sin).to(states.dtype)


def attend(query: Any, keys: Any, values: Any, mask: Any = None) -> Any:
    """Return softmax attention, (queries, heads * width); exports to one ONNX ``Attention``.

    :param query: (queries, heads, width).
    :param keys: (key heads, keys, width).
    :param mask: bool (queries, keys), True where it may look; None is everywhere.
    """
    mixed = functional.scaled_dot_product_attention(
        query.transpose(0, 1)[None], keys[None], values[None],
        attn_mask=None if mask is None else mask[None, None], enable_gqa=True)
    return mixed[0].transpose(0, 1).flatten(1)


def rotary_table(dimensions: Dimensions, positions: Any) -> tuple[Any, Any]:
    """Return float32 cosines and sines, (tokens, head width), of positions (3, tokens).

    Interleaved mRoPE: frequencies 1, 4, 7, ... count height, 2, 5, 8, ... width, the rest time
    (diffusers ``Cosmos3VLTextRotaryEmbedding``). Computed outside the engines: positions reach 15000
    and more, where a GPU's fast cosine is not accurate, and they are constant per request.
    """
    positions = positions.float()
    width = dimensions.head_dim
    steps = torch.arange(0, width, 2, dtype=torch.float32, device=positions.device)
    angles = positions[:, :, None] / dimensions.rope_theta ** (steps / width)
    mixed = angles[0].clone()
    for axis in (1, 2):
        chosen = slice(axis, dimensions.rope_sections[axis] * 3, 3)
        mixed[:, chosen] = angles[axis][:, chosen]
    mixed = torch.cat((mixed, mixed), dim=-1)
    return mixed.cos(), mixed.sin()
