"""The reasoner's vision tower (Qwen3-VL's) for one frame grid; the number of frame pairs is free."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..dimensions import Dimensions
from .blocks import LayerNorm, rotate


class _Attention(nn.Module):
    """Full attention inside one temporal patch."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.heads = heads

    def forward(self, states: Any, cos: Any, sin: Any) -> Any:
        joined = self.qkv(states).unflatten(-1, (3, self.heads, -1))
        query, key, value = joined[..., 0, :, :], joined[..., 1, :, :], joined[..., 2, :, :]
        mixed = functional.scaled_dot_product_attention(
            rotate(query, cos, sin).transpose(1, 2), rotate(key, cos, sin).transpose(1, 2),
            value.transpose(1, 2))
        return self.proj(mixed.transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, width: int, intermediate: int, outputs: int, approximate: str) -> None:
        super().__init__()
        self.linear_fc1 = nn.Linear(width, intermediate)
        self.linear_fc2 = nn.Linear(intermediate, outputs)
        self.approximate = approximate

    def forward(self, states: Any) -> Any:
        return self.linear_fc2(functional.gelu(self.linear_fc1(states), approximate=self.approximate))


class _Block(nn.Module):
    def __init__(self, d: Dimensions) -> None:
        super().__init__()
        self.norm1 = LayerNorm(d.vision_hidden)
        self.norm2 = LayerNorm(d.vision_hidden)
        self.attn = _Attention(d.vision_hidden, d.vision_heads)
        self.mlp = _Mlp(d.vision_hidden, d.vision_intermediate, d.vision_hidden, 'tanh')

    def forward(self, states: Any, cos: Any, sin: Any) -> Any:
        states = states + self.attn(self.norm1(states), cos, sin)
        return states + self.mlp(self.norm2(states))


class _Merger(_Mlp):
    """Joins 2 x 2 neighbouring patches into one token of the language model's width.

    :param joined_norm: Norm after joining (deepstack) instead of before.
    """

    def __init__(self, d: Dimensions, *, joined_norm: bool) -> None:
        joined = d.vision_hidden * d.vision_merge ** 2
        super().__init__(joined, joined, d.hidden, 'none')
        self.norm = LayerNorm(joined if joined_norm else d.vision_hidden)
        self.joined, self.joined_norm = joined, joined_norm

    def forward(self, states: Any) -> Any:
        frames = states.shape[0]
        if self.joined_norm:
            return super().forward(self.norm(states.reshape(frames, -1, self.joined)))
        return super().forward(self.norm(states).reshape(frames, -1, self.joined))


class _PatchEmbed(nn.Module):
    """The 3-D convolution whose kernel is its stride, as the matrix that it is."""

    def __init__(self, values: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(values, width)

    def forward(self, patches: Any) -> Any:
        return self.proj(patches)


class VisionTower(nn.Module):
    """Patches of a clip to tokens of the language model.

    :param grid: Patches of a frame, height and width.
    """

    def __init__(self, dimensions: Dimensions, grid: tuple[int, int]) -> None:
        super().__init__()
        d = dimensions
        self.patch_embed = _PatchEmbed(d.patch_values, d.vision_hidden)
        self.blocks = nn.ModuleList([_Block(d) for _ in range(d.vision_layers)])
        self.merger = _Merger(d, joined_norm=False)
        self.deepstack_merger_list = nn.ModuleList([_Merger(d, joined_norm=True) for _ in d.deepstack])
        self.taken = {layer: i for i, layer in enumerate(d.deepstack)}
        tokens = grid[0] * grid[1]
        width = d.vision_hidden // d.vision_heads
        # Constants of the grid, filled by grid_constants.
        self.register_buffer('positions', torch.zeros(tokens, d.vision_hidden))
        self.register_buffer('cos', torch.zeros(tokens, 1, width))
        self.register_buffer('sin', torch.zeros(tokens, 1, width))

    def forward(self, patches: Any) -> tuple[Any, Any]:
        """Return tokens (frames, tokens, hidden) and deepstack (levels, frames, tokens, hidden).

        :param patches: (frame pairs, patches, 3 * 2 * 16 * 16), in the processor's order.
        """
        states = self.patch_embed(patches) + self.positions
        features = []
        for i, block in enumerate(self.blocks):
            states = block(states, self.cos, self.sin)
            if i in self.taken:
                features.append(self.deepstack_merger_list[self.taken[i]](states))
        return self.merger(states), torch.stack(features)


def grid_constants(dimensions: Dimensions, grid: tuple[int, int], table: Any) -> dict[str, Any]:
    """Return float32 ``positions``, ``cos`` and ``sin`` of a grid, in the order of merged blocks.

    Learned positions are resampled bilinearly, corners aligned, from their square; rotary angles count
    rows in the first half of the frequencies and columns in the second, theta 10000 (transformers
    5.23 ``Qwen3VLVisionModel``).

    :param table: float32 (learned positions, width).
    """
    rows, columns = grid
    merge = dimensions.vision_merge
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing='ij')
    blocks = (rows // merge, merge, columns // merge, merge)
    row, column = (part.reshape(blocks).transpose(1, 2).flatten() for part in (row, column))
    side = round(dimensions.vision_positions ** 0.5)
    positions = torch.zeros(rows * columns, table.shape[1])
    for row_tap, row_weight in _taps(row, rows, side):
        for column_tap, column_weight in _taps(column, columns, side):
            positions += table[row_tap * side + column_tap] * (row_weight * column_weight)[:, None]
    width = dimensions.vision_hidden // dimensions.vision_heads
    inverse = 1.0 / 10000.0 ** (torch.arange(0, width // 2, 2, dtype=torch.float32) / (width // 2))
    angles = torch.cat((row[:, None] * inverse, column[:, None] * inverse), dim=-1)
    angles = torch.cat((angles, angles), dim=-1)[:, None]
    return {'positions': positions, 'cos': angles.cos(), 'sin': angles.sin()}


def _taps(index: Any, size: int, side: int) -> list[tuple[Any, Any]]:
    """Return the two neighbours in the learned square and their weights."""
    source = index.float() * (side - 1) / max(size - 1, 1)
    low = source.floor().long()
    high_weight = source - low
    return [(low, 1.0 - high_weight), ((low + 1).clamp(max=side - 1), high_weight)]
