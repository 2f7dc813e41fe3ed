"""A decoder layer on a CUDA device with Triton's kernels between, and for one token as, the products."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from ..model.attention_order import cudnn_first
from ..resources import require
from .language_weights import LanguageWeights, Layer, Matrix
from .plain_math import PlainMath, Turn

CUDNN = True
"""Ask for cuDNN's attention first, of a prompt."""

SPLIT = 64
"""Cached tokens that one program of a decode step's attention reads."""


@dataclass(frozen=True, slots=True)
class Tile:
    """How a weight is cut for one token: rows and columns per step of a program, warps per program."""

    rows: int
    columns: int
    warps: int


TILES = {
    'qkv': Tile(4, 2048, 8),
    'out': Tile(1, 4096, 4),
    'gate_up': Tile(1, 2048, 4),
    'down': Tile(1, 2048, 4),
    'head': Tile(4, 2048, 8),
}
"""The fastest of eight cuts per matrix, measured on an H200 at Nano's shape in bfloat16 (docs/reasoner.md).

Fixed, not tuned at start: another cut sums in another order, and answers must not depend on timing.
"""

EIGHT_BIT_TILE = Tile(2, 4096, 4)
"""The fastest of six for every float8 matrix of a layer, measured likewise."""


class FusedMath(PlainMath):
    """The same steps as :class:`PlainMath` in fewer passes over memory.

    :raises resources.MissingDependencyError: triton is not installed.
    """

    name = 'fused'

    def __init__(self, weights: LanguageWeights) -> None:
        super().__init__(weights)
        require('triton', 'model')
        from ..model import row_kernels
        from . import fused_kernels, token_kernels

        self._row_kernels: Any = row_kernels
        self._prompt_kernels: Any = fused_kernels
        self._token_kernels: Any = token_kernels
        shape = weights
        self._group = shape.kv_heads & -shape.kv_heads  # divides heads as well: those are its multiples

    def quantise(self, x: Any) -> tuple[Any, Any]:
        """As in :class:`PlainMath`."""
        quantised: tuple[Any, Any] = self._row_kernels.quantise([x.contiguous()])
        return quantised

    def add_norm(self, x: Any, delta: Any, weight: Any) -> tuple[Any, Any]:
        """As in :class:`PlainMath`."""
        added: tuple[Any, Any] = self._row_kernels.add_norm(x, delta, weight, self._weights.eps)
        return added

    def project(self, joined: Any, layer: Layer, cos: Any, sin: Any, keys: Any, values: Any) -> Any:
        """As in :class:`PlainMath`."""
        shape = self._weights
        queries = self._torch.empty(
            (len(joined), shape.heads, shape.head_dim), dtype=joined.dtype, device=joined.device)
        groups = (shape.heads + 2 * shape.kv_heads) // self._group
        self._prompt_kernels.project_kernel[(len(joined), groups)](
            joined, layer.norm_qk, cos, sin, queries, keys, values, keys.stride(0), shape.eps,
            HEADS=shape.heads, KV_HEADS=shape.kv_heads, WIDTH=shape.head_dim, GROUP=self._group, num_warps=4)
        return queries

    def attend(self, q: Any, keys: Any, values: Any) -> Any:
        """As in :class:`PlainMath`."""
        with cudnn_first(q.device) if CUDNN else nullcontext():
            return super().attend(q, keys, values)

    def gate(self, joined: Any) -> Any:
        """As in :class:`PlainMath`."""
        return self._row_kernels.activate(joined)

    def step(self, x: Any, layer: Layer, keys: Any, values: Any, turn: Turn) -> Any:
        """As in :class:`PlainMath`; positions are always read on the device."""
        attended = self._attend_token(self._norm_product(x, layer.norm_in, layer.qkv, 'qkv'), layer, keys,
                                      values, turn)
        x = self._product_add(attended, layer.out, x, 'out')
        return self._product_add(
            self._norm_product(x, layer.norm_mlp, layer.gate_up, 'gate_up'), layer.down, x, 'down')

    def choose(self, x: Any) -> Any:
        """As in :class:`PlainMath`."""
        return self._norm_product(x, self._weights.norm, self._weights.head, 'head').argmax(-1)

    def _norm_product(self, x: Any, norm: Any, matrix: Matrix, role: str) -> Any:
        torch, tile, gated = self._torch, _tile(role, matrix), role == 'gate_up'
        rows, width = matrix.weight.shape
        rows = rows // 2 if gated else rows
        # Logits keep float32: rounding them would make neighbours equal.
        kind = torch.float32 if role == 'head' else x.dtype
        out = torch.empty((1, rows), dtype=kind, device=x.device)
        self._token_kernels.norm_product_kernel[(-(-rows // tile.rows),)](
            x, norm, matrix.weight, norm if matrix.scale is None else matrix.scale, out, rows,
            self._weights.eps, WIDTH=width, GATED=gated, SCALED=matrix.scale is not None, ROWS=tile.rows,
            BLOCK=min(tile.columns, _power(width)), num_warps=tile.warps)
        return out

    def _product_add(self, x: Any, matrix: Matrix, residual: Any, role: str) -> Any:
        tile = _tile(role, matrix)
        rows, width = matrix.weight.shape
        out = self._torch.empty_like(residual)
        self._token_kernels.product_add_kernel[(-(-rows // tile.rows),)](
            x, matrix.weight, residual if matrix.scale is None else matrix.scale, residual, out, rows,
            WIDTH=width, SCALED=matrix.scale is not None, ROWS=tile.rows,
            BLOCK=min(tile.columns, _power(width)), num_warps=tile.warps)
        return out

    def _attend_token(self, joined: Any, layer: Layer, keys: Any, values: Any, turn: Turn) -> Any:
        torch, shape = self._torch, self._weights
        splits = -(-keys.shape[1] // SPLIT)
        make = {'dtype': torch.float32, 'device': joined.device}
        part = torch.empty((splits, shape.heads, shape.head_dim), **make)
        largest, total = (torch.empty((splits, shape.heads), **make) for _ in range(2))
        out = torch.empty((1, shape.heads * shape.head_dim), dtype=joined.dtype, device=joined.device)
        self._token_kernels.attention_kernel[(shape.kv_heads, splits)](
            joined, layer.norm_qk, turn.cos, turn.sin, turn.start, turn.step, keys, values, part, largest,
            total, keys.stride(0), shape.eps, shape.head_dim ** -0.5, HEADS=shape.heads,
            KV_HEADS=shape.kv_heads, WIDTH=shape.head_dim,
            QUERIES=max(16, _power(shape.heads // shape.kv_heads)), SPLIT=SPLIT, num_warps=4)
        self._token_kernels.combine_kernel[(shape.heads,)](
            part, largest, total, out, splits, HEADS=shape.heads, WIDTH=shape.head_dim,
            SPLITS=_power(splits), num_warps=4)
        return out


def _tile(role: str, matrix: Matrix) -> Tile:
    return TILES[role] if matrix.scale is None else EIGHT_BIT_TILE


def _power(number: int) -> int:
    """Return the power of two that is not below ``number``."""
    return 1 << (number - 1).bit_length()
