"""One CUDA kernel between a layer's first matrix and its attention: norm, rotation, and all keys and values.

Step by step that is a reduction and a rotation each for queries and keys and three copies, and each goes over
memory on its own; here a number is read once and written once. Arithmetic is in float32.
``triton`` can also run it without a GPU (TRITON_INTERPRET=1), for tests.
"""

from typing import Any

from cosmos3_ros.resources import require

from .generation_tower import Layer
from .tower_shape import TowerShape

# Triton reads annotations as types of its own, so most parameters carry none.
# mypy: disable-error-code="untyped-decorator, no-untyped-def, name-defined"

torch = require('torch', 'model')
triton = require('triton', 'model')
tl = require('triton.language', 'model')


@triton.jit
def _place_heads(
    joined, cos, sin, norm_query, norm_key, text_keys, text_values, queries, keys, values, length, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """GROUP heads of one row: of the text where row < length, else of generated token row - length."""
    row = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * GROUP
    head = (first + tl.arange(0, GROUP))[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (column < HALF) & (head >= 0)
    width: tl.constexpr = 2 * HALF
    own: tl.constexpr = KV_HEADS * width
    token = row - length
    key_place = row * own + (head - HEADS) * width + column
    value_place = key_place - own
    if row < length:
        if first >= HEADS + KV_HEADS:
            tl.store(values + value_place, tl.load(text_values + value_place, mask=inside), mask=inside)
            tl.store(values + value_place + HALF, tl.load(text_values + value_place + HALF, mask=inside),
                     mask=inside)
        elif first >= HEADS:
            tl.store(keys + key_place, tl.load(text_keys + key_place, mask=inside), mask=inside)
            tl.store(keys + key_place + HALF, tl.load(text_keys + key_place + HALF, mask=inside), mask=inside)
    else:
        start = joined + token * (HEADS + 2 * KV_HEADS) * width + head * width + column
        low, high = tl.load(start, mask=inside, other=0.0), tl.load(start + HALF, mask=inside, other=0.0)
        if first >= HEADS + KV_HEADS:
            tl.store(values + value_place, low, mask=inside)
            tl.store(values + value_place + HALF, high, mask=inside)
        else:
            wide_low, wide_high = low.to(tl.float32), high.to(tl.float32)
            square = tl.sum(wide_low * wide_low, axis=1) + tl.sum(wide_high * wide_high, axis=1)
            scale = tl.rsqrt(square / width + eps)[:, None]
            norm = norm_key if first >= HEADS else norm_query
            real = column < HALF
            one = wide_low * scale * tl.load(norm + column, mask=real, other=0.0).to(tl.float32)
            other = wide_high * scale * tl.load(norm + HALF + column, mask=real, other=0.0).to(tl.float32)
            turn = token * width + column
            low_cos = tl.load(cos + turn, mask=real, other=0.0).to(tl.float32)
            low_sin = tl.load(sin + turn, mask=real, other=0.0).to(tl.float32)
            high_cos = tl.load(cos + turn + HALF, mask=real, other=0.0).to(tl.float32)
            high_sin = tl.load(sin + turn + HALF, mask=real, other=0.0).to(tl.float32)
            low_turned = one * low_cos - other * low_sin
            high_turned = other * high_cos + one * high_sin
            if first >= HEADS:
                tl.store(keys + key_place, low_turned.to(keys.dtype.element_ty), mask=inside)
                tl.store(keys + key_place + HALF, high_turned.to(keys.dtype.element_ty), mask=inside)
            else:
                place = queries + (token * HEADS + head) * width + column
                tl.store(place, low_turned.to(queries.dtype.element_ty), mask=inside)
                tl.store(place + HALF, high_turned.to(queries.dtype.element_ty), mask=inside)


def place_heads(
    joined: Any, table: tuple[Any, Any], layer: Layer, shape: TowerShape, text: tuple[Any, Any],
    room: tuple[Any, Any],
) -> Any:
    """As :func:`generation_tower.place_heads`; everything contiguous."""
    tokens, length = len(joined), len(text[0])
    queries = torch.empty((tokens, shape.heads, shape.head_dim), dtype=joined.dtype, device=joined.device)
    group = shape.kv_heads & -shape.kv_heads  # divides heads as well: those are its multiples
    half = shape.head_dim // 2
    _place_heads[(length + tokens, (shape.heads + 2 * shape.kv_heads) // group)](
        joined, *table, layer.norm_query, layer.norm_key, *text, queries, *room, length, shape.eps,
        HEADS=shape.heads, KV_HEADS=shape.kv_heads, HALF=half, GROUP=group,
        BLOCK=1 << (half - 1).bit_length(), num_warps=2)
    return queries
