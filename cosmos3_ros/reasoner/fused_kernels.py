"""Triton kernels of the prompt and the vision tower, beside those of :mod:`..model.row_kernels`.

All arithmetic is in float32; inputs and outputs have the
model's precision. ``triton`` can also run them without a GPU (TRITON_INTERPRET=1), for tests.
"""

from ..resources import require

# Triton reads annotations as types of its own, so most parameters carry none.
# mypy: disable-error-code="untyped-decorator, no-untyped-def, name-defined"

triton = require('triton', 'model')
tl = require('triton.language', 'model')


@triton.jit
def add_layer_norm_kernel(
    x, delta, weight, bias, total, normed, width, eps, HAS_DELTA: tl.constexpr, BLOCK: tl.constexpr,
):
    """Total = x + delta; normed = (total - mean) / deviation * weight + bias. One row per program."""
    row = tl.program_id(0).to(tl.int64) * width
    column = tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(x + row + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_DELTA:
        value += tl.load(delta + row + column, mask=inside, other=0.0).to(tl.float32)
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + row + column, rounded, mask=inside)
        value = rounded.to(tl.float32)
    centred = tl.where(inside, value - tl.sum(value, axis=0) / width, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=0) / width + eps)
    factor = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    result = centred * scale * factor + shift
    tl.store(normed + row + column, result.to(normed.dtype.element_ty), mask=inside)


@triton.jit
def project_kernel(
    joined, weight, cos, sin, queries, keys, values, cache_stride, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr,
):
    """Norm and rotate GROUP heads of one token; queries go out, keys and values into the cache.

    :param joined: (N, (HEADS + 2 KV_HEADS) * WIDTH).
    :param cache_stride: Elements between two heads of the cache.
    """
    token = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * GROUP
    head = first + tl.arange(0, GROUP)
    column = tl.arange(0, WIDTH)
    half: tl.constexpr = WIDTH // 2
    start = joined + token * (HEADS + 2 * KV_HEADS) * WIDTH
    value = tl.load(start + head[:, None] * WIDTH + column[None, :]).to(tl.float32)
    if first >= HEADS + KV_HEADS:
        place = (head - HEADS - KV_HEADS).to(tl.int64)[:, None] * cache_stride
        place += token * WIDTH + column[None, :]
        tl.store(values + place, value.to(values.dtype.element_ty))
    else:
        partner = (column + half) % WIDTH
        other = tl.load(start + head[:, None] * WIDTH + partner[None, :]).to(tl.float32)
        scale = tl.rsqrt(tl.sum(value * value, axis=1) / WIDTH + eps)[:, None]
        own = tl.load(weight + head[:, None] * WIDTH + column[None, :]).to(tl.float32)
        others = tl.load(weight + head[:, None] * WIDTH + partner[None, :]).to(tl.float32)
        sign = tl.where(column < half, -1.0, 1.0)[None, :]
        c = tl.load(cos + token * WIDTH + column).to(tl.float32)[None, :]
        s = tl.load(sin + token * WIDTH + column).to(tl.float32)[None, :]
        turned = value * scale * own * c + sign * (other * scale * others) * s
        if first >= HEADS:
            place = (head - HEADS).to(tl.int64)[:, None] * cache_stride
            place += token * WIDTH + column[None, :]
            tl.store(keys + place, turned.to(keys.dtype.element_ty))
        else:
            place = (token * HEADS + head[:, None]) * WIDTH + column[None, :]
            tl.store(queries + place, turned.to(queries.dtype.element_ty))


@triton.jit
def rotate_patches_kernel(
    joined, cos, sin, queries, keys, HEADS: tl.constexpr, WIDTH: tl.constexpr,
    HEAD_BLOCK: tl.constexpr, BLOCK: tl.constexpr,
):
    """Rotate the vision tower's queries (program 0) or keys (program 1) of one patch.

    :param joined: (patches, 3, HEADS, WIDTH).
    :param cos: float32 (patches, WIDTH).
    """
    patch = tl.program_id(0).to(tl.int64)
    which = tl.program_id(1)
    head = tl.arange(0, HEAD_BLOCK)
    column = tl.arange(0, BLOCK)
    half: tl.constexpr = WIDTH // 2
    inside = (head[:, None] < HEADS) & (column[None, :] < WIDTH)
    partner = tl.where(column < half, column + half, column - half)
    start = joined + (patch * 3 + which) * HEADS * WIDTH + head[:, None] * WIDTH
    value = tl.load(start + column[None, :], mask=inside, other=0.0).to(tl.float32)
    other = tl.load(start + partner[None, :], mask=inside, other=0.0).to(tl.float32)
    c = tl.load(cos + patch * WIDTH + column, mask=column < WIDTH, other=0.0)[None, :]
    s = tl.load(sin + patch * WIDTH + column, mask=column < WIDTH, other=0.0)[None, :]
    turned = value * c + tl.where(column < half, -1.0, 1.0)[None, :] * other * s
    place = (patch * HEADS + head[:, None]) * WIDTH + column[None, :]
    if which == 0:
        tl.store(queries + place, turned.to(queries.dtype.element_ty), mask=inside)
    else:
        tl.store(keys + place, turned.to(keys.dtype.element_ty), mask=inside)
