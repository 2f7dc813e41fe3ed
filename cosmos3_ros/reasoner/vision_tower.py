"""The vision tower at fixed grids: tables made once, no question to the device on the way.

Same mathematics as transformers' ``Qwen3VLVisionModel``: learned positions interpolated to the grid,
two-axis rotary positions, attention within one temporal patch, features merged two by two, three
intermediate layers merged as well (deepstack).
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from ..model.attention_order import cudnn_first
from ..resources import require

CUDNN = True
"""With fused kernels: ask for cuDNN's attention first."""

Grid = tuple[int, int, int]
"""Patches in time, height and width."""


@dataclass(frozen=True, slots=True, eq=False)
class VisionTables:
    """What depends on the grids alone.

    :param positions: (patches, width of the tower), the interpolated learned positions.
    :param cos: float32 (patches, head width), and ``sin`` alike.
    """

    grids: tuple[Grid, ...]
    positions: Any
    cos: Any
    sin: Any


class VisionTower:
    """Runs the vision tower of a model whose weights stay where they are.

    :param model: ``Cosmos3OmniForConditionalGeneration``.
    :param fused: Rotate, add and normalise with Triton's kernels, GELU as the last step of its product (CUDA
        only).
    """

    def __init__(self, model: Any, fused: bool = False) -> None:
        self._torch = require('torch', 'model')
        self._visual = model.model.visual
        config = model.config.vision_config
        self._heads = config.num_heads
        self._head_dim = config.hidden_size // config.num_heads
        self._merge = config.spatial_merge_size
        self._side = int(config.num_position_embeddings ** 0.5)
        self._deep = tuple(config.deepstack_visual_indexes)
        rope = getattr(config, 'rope_parameters', None) or {}
        self._theta = float(rope.get('rope_theta', 10000.0))
        self._kernels: Any = None
        # The library's GELU is the tanh form: on CUDA alone.
        self._joins_gelu = fused and config.hidden_act == 'gelu_pytorch_tanh'
        if fused:
            require('triton', 'model')
            from . import fused_kernels

            self._kernels = fused_kernels

    @property
    def patch_values(self) -> int:
        """Numbers in one patch: 3 x 2 x 16 x 16."""
        weight = self._visual.patch_embed.proj.weight
        return int(weight.numel() // len(weight))

    def tokens(self, grids: tuple[Grid, ...]) -> tuple[int, ...]:
        """Return how many tokens each clip becomes."""
        return tuple(t * h * w // self._merge ** 2 for t, h, w in grids)

    def tables(self, grids: tuple[Grid, ...]) -> VisionTables:
        """Return the tables of some clips' grids."""
        torch = self._torch
        made = [self._clip_tables(grid) for grid in grids]
        return VisionTables(grids, *(torch.cat(parts) for parts in zip(*made, strict=True)))

    def _clip_tables(self, grid: Grid) -> tuple[Any, Any, Any]:
        torch = self._torch
        frames, height, width = grid
        device = self._visual.pos_embed.weight.device
        row, column = self._places(height, width, device)
        # Source: torch.nn.functional.interpolate, bilinear with align_corners, of the square table.
        indices, weights = [], []
        for place, count in ((row, height), (column, width)):
            exact = place.float() * (self._side - 1) / max(count - 1, 1)
            low = exact.floor().clamp(0, self._side - 1)
            share = exact - low
            indices.append(torch.stack([low.long(), (low.long() + 1).clamp(max=self._side - 1)], -1))
            weights.append(torch.stack([1 - share, share], -1))
        taps = (indices[0][:, :, None] * self._side + indices[1][:, None, :]).flatten(1)
        shares = (weights[0][:, :, None] * weights[1][:, None, :]).flatten(1)
        positions = (self._visual.pos_embed(taps) * shares[:, :, None]).sum(1)
        axis = self._head_dim // 2
        turns = 1.0 / self._theta ** (torch.arange(0, axis, 2, dtype=torch.float, device=device) / axis)
        angles = torch.cat([row[:, None].float() * turns, column[:, None].float() * turns], dim=-1)
        cos, sin = (table.repeat(frames, 2) for table in (angles.cos(), angles.sin()))
        return positions.to(self._visual.pos_embed.weight.dtype).repeat(frames, 1), cos, sin

    def _places(self, height: int, width: int, device: Any) -> tuple[Any, Any]:
        """Return row and column of each patch of a frame, in the order in which patches are merged."""
        torch, merge = self._torch, self._merge
        rows, columns = torch.meshgrid(
            torch.arange(height, device=device), torch.arange(width, device=device), indexing='ij')
        blocks = (height // merge, merge, width // merge, merge)
        return (rows.reshape(blocks).transpose(1, 2).flatten(),
                columns.reshape(blocks).transpose(1, 2).flatten())

    def encode(self, pixels: Any, tables: VisionTables) -> tuple[Any, list[Any]]:
        """Return merged features (tokens, hidden) and one such tensor per deepstack level.

        :param pixels: (patches, 3 * 2 * 16 * 16), in the tower's precision.
        """
        visual, functional = self._visual, self._torch.nn.functional
        embed = visual.patch_embed.proj
        x = functional.linear(pixels, embed.weight.flatten(1), embed.bias) + tables.positions
        levels, delta = [], None
        for index, block in enumerate(visual.blocks):
            x, delta = self._block(block, x, delta, tables.cos, tables.sin, tables.grids)
            if index in self._deep:
                x, delta = x + delta, None
                levels.append(visual.deepstack_merger_list[self._deep.index(index)](x))
        return visual.merger(x if delta is None else x + delta), levels

    def _add_norm(self, x: Any, delta: Any, norm: Any) -> tuple[Any, Any]:
        """Return ``x + delta`` and its norm; ``delta`` may be None."""
        if self._kernels is None:
            x = x if delta is None else x + delta
            return x, norm(x)
        torch, width = self._torch, x.shape[1]
        total, normed = x if delta is None else torch.empty_like(x), torch.empty_like(x)
        self._kernels.add_layer_norm_kernel[(len(x),)](
            x, x if delta is None else delta, norm.weight, norm.bias, total, normed, width, norm.eps,
            HAS_DELTA=delta is not None, BLOCK=1 << (width - 1).bit_length(), num_warps=4)
        return total, normed

    def _feed(self, mlp: Any, x: Any) -> Any:
        if not self._joins_gelu:
            return mlp(x)
        first = mlp.linear_fc1
        return mlp.linear_fc2(self._torch._addmm_activation(first.bias, x, first.weight.t(), use_gelu=True))

    def compile_blocks(self) -> None:
        """Let torch compile the blocks, for training; one graph per set of grids."""
        self._block = self._torch.compile(self._block)  # type: ignore[method-assign]

    def _block(
        self, block: Any, x: Any, delta: Any, cos: Any, sin: Any, grids: tuple[Grid, ...],
    ) -> tuple[Any, Any]:
        """Return a block's input after its attention, and what its feed-forward adds to that."""
        x, normed = self._add_norm(x, delta, block.norm1)
        x, normed = self._add_norm(x, self._attend(block, normed, cos, sin, grids), block.norm2)
        return x, self._feed(block.mlp, normed)

    def _attend(self, block: Any, x: Any, cos: Any, sin: Any, grids: tuple[Grid, ...]) -> Any:
        torch, heads, width = self._torch, self._heads, self._head_dim
        joined = block.attn.qkv(x).view(len(x), 3, heads, width)
        q, k = self._rotate(joined, cos, sin)
        outputs, first = [], 0
        for frames, rows, columns in grids:
            patches = frames * rows * columns
            q_clip, k_clip, v_clip = (
                part[first:first + patches].view(frames, rows * columns, heads, width).transpose(1, 2)
                for part in (q, k, joined[:, 2]))
            with cudnn_first(x.device) if CUDNN and self._kernels is not None else nullcontext():
                attended = torch.nn.functional.scaled_dot_product_attention(q_clip, k_clip, v_clip)
            outputs.append(attended.transpose(1, 2).reshape(patches, -1))
            first += patches
        return block.attn.proj(outputs[0] if len(outputs) == 1 else torch.cat(outputs))

    def _rotate(self, joined: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
        torch = self._torch
        if self._kernels is not None:
            shape, make = (len(joined), *joined.shape[2:]), {'dtype': joined.dtype, 'device': joined.device}
            q, k = torch.empty(shape, **make), torch.empty(shape, **make)
            self._kernels.rotate_patches_kernel[(len(joined), 2)](
                joined, cos, sin, q, k, HEADS=self._heads, WIDTH=self._head_dim,
                HEAD_BLOCK=1 << (self._heads - 1).bit_length(),
                BLOCK=1 << (self._head_dim - 1).bit_length(), num_warps=4)
            return q, k
        wide = joined[:, :2].float()
        half = self._head_dim // 2
        turned = torch.cat((-wide[..., half:], wide[..., :half]), dim=-1)
        both = (wide * cos[:, None, None] + turned * sin[:, None, None]).to(joined.dtype)
        return both[:, 0], both[:, 1]
