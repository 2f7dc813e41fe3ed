"""Triton kernels of one decoded token: each weight is read once, everything else rides along.

A token is bound by the weights' way through memory, and then by the number of kernels. So the norm is
computed while its product's weights come in (a norm's scale can be multiplied in afterwards), the
feed-forward's gate and the residual sums are the products' last step, and attention is cut along the
cache. Import only where triton is installed.
"""

from ..resources import require

# Triton reads annotations as types of its own, so most parameters carry none.
# mypy: disable-error-code="untyped-decorator, no-untyped-def, name-defined"

triton = require('triton', 'model')
tl = require('triton.language', 'model')


@triton.jit
def norm_product_kernel(
    x, norm, weight, scale, out, rows, eps, WIDTH: tl.constexpr, GATED: tl.constexpr, SCALED: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):
    """Out = weight @ rms_norm(x); gated: rows r and rows + r of weight give silu(gate) * up.

    :param weight: (rows, WIDTH), or (2 rows, WIDTH) if gated; ``scale`` one factor per row.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    place = row.to(tl.int64)[:, None] * WIDTH
    square = tl.zeros((BLOCK,), tl.float32)
    product = tl.zeros((ROWS, BLOCK), tl.float32)
    if GATED:
        second = tl.zeros((ROWS, BLOCK), tl.float32)
    for first in tl.static_range(0, WIDTH, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = column < WIDTH
        both = there[:, None] & inside[None, :]
        w = tl.load(weight + place + column[None, :], mask=both, other=0.0, eviction_policy='evict_first')
        if GATED:
            u = tl.load(weight + place + (rows.to(tl.int64) * WIDTH) + column[None, :], mask=both, other=0.0,
                        eviction_policy='evict_first')
        value = tl.load(x + column, mask=inside, other=0.0).to(tl.float32)
        factor = tl.load(norm + column, mask=inside, other=0.0).to(tl.float32)
        square += value * value
        value *= factor
        product += w.to(tl.float32) * value[None, :]
        if GATED:
            second += u.to(tl.float32) * value[None, :]
    inverse = tl.rsqrt(tl.sum(square, axis=0) / WIDTH + eps)
    result = tl.sum(product, axis=1) * inverse
    if SCALED:
        result *= tl.load(scale + row, mask=there, other=0.0)
    if GATED:
        up = tl.sum(second, axis=1) * inverse
        if SCALED:
            up *= tl.load(scale + rows + row, mask=there, other=0.0)
        result = result * tl.sigmoid(result) * up
    tl.store(out + row, result.to(out.dtype.element_ty), mask=there)


@triton.jit
def product_add_kernel(
    x, weight, scale, residual, out, rows, WIDTH: tl.constexpr, SCALED: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Out = residual + weight @ x."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    place = row.to(tl.int64)[:, None] * WIDTH
    product = tl.zeros((ROWS, BLOCK), tl.float32)
    for first in tl.static_range(0, WIDTH, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = column < WIDTH
        w = tl.load(weight + place + column[None, :], mask=there[:, None] & inside[None, :], other=0.0,
                    eviction_policy='evict_first')
        value = tl.load(x + column, mask=inside, other=0.0).to(tl.float32)
        product += w.to(tl.float32) * value[None, :]
    result = tl.sum(product, axis=1)
    if SCALED:
        result *= tl.load(scale + row, mask=there, other=0.0)
    result += tl.load(residual + row, mask=there, other=0.0).to(tl.float32)
    tl.store(out + row, result.to(out.dtype.element_ty), mask=there)


@triton.jit
def attention_kernel(
    joined, weight, cos, sin, start, step, keys, values, part, largest, total, cache_stride, eps, factor,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """One stretch of the cache for the queries of one key head; the new token's stretch stores it.

    :param joined: ((HEADS + 2 KV_HEADS) * WIDTH,), as projected: norm and rotation happen here.
    :param QUERIES: Rows of the query block, at least HEADS / KV_HEADS and what a matrix unit takes.
    :param part: float32 (splits, HEADS, WIDTH), unnormalised; with ``largest`` and ``total`` (splits, HEADS).
    """
    head = tl.program_id(0)
    split = tl.program_id(1)
    share: tl.constexpr = HEADS // KV_HEADS
    half: tl.constexpr = WIDTH // 2
    turn = tl.load(step)
    at = tl.load(start) + turn
    column = tl.arange(0, WIDTH)
    query = tl.arange(0, QUERIES)
    asked = query < share
    row = head * share + query
    first = split * SPLIT
    if first > at:
        tl.store(largest + split * HEADS + row, float('-inf'), mask=asked)
        tl.store(total + split * HEADS + row, 0.0, mask=asked)
    else:
        partner = (column + half) % WIDTH
        sign = tl.where(column < half, -1.0, 1.0)
        c = tl.load(cos + turn * WIDTH + column).to(tl.float32)
        s = tl.load(sin + turn * WIDTH + column).to(tl.float32)
        mask = asked[:, None] & (column[None, :] < WIDTH)
        q = tl.load(joined + row[:, None] * WIDTH + column[None, :], mask=mask, other=0.0).to(tl.float32)
        q_other = tl.load(joined + row[:, None] * WIDTH + partner[None, :], mask=mask, other=0.0)
        q_scale = tl.rsqrt(tl.sum(q * q, axis=1) / WIDTH + eps)[:, None]
        q_norm = tl.load(weight + column).to(tl.float32)[None, :]
        q_norm_other = tl.load(weight + partner).to(tl.float32)[None, :]
        q_turned = sign[None, :] * q_other.to(tl.float32) * q_scale * q_norm_other
        q = q * q_scale * q_norm * c[None, :] + q_turned * s[None, :]
        key_row = (HEADS + head) * WIDTH
        k = tl.load(joined + key_row + column).to(tl.float32)
        k_other = tl.load(joined + key_row + partner).to(tl.float32)
        k_scale = tl.rsqrt(tl.sum(k * k, axis=0) / WIDTH + eps)
        k_norm = tl.load(weight + HEADS * WIDTH + column).to(tl.float32)
        k_norm_other = tl.load(weight + HEADS * WIDTH + partner).to(tl.float32)
        k = k * k_scale * k_norm * c + sign * (k_other * k_scale * k_norm_other) * s
        k = k.to(keys.dtype.element_ty)
        v = tl.load(joined + (HEADS + KV_HEADS + head) * WIDTH + column).to(values.dtype.element_ty)
        base = head.to(tl.int64) * cache_stride
        if at < first + SPLIT:
            tl.store(keys + base + at * WIDTH + column, k)
            tl.store(values + base + at * WIDTH + column, v)
        slot = first + tl.arange(0, SPLIT)
        old = slot < at
        place = base + slot[:, None] * WIDTH + column[None, :]
        k_tile = tl.load(keys + place, mask=old[:, None], other=0.0)
        v_tile = tl.load(values + place, mask=old[:, None], other=0.0)
        k_tile = tl.where((slot == at)[:, None], k[None, :], k_tile)
        v_tile = tl.where((slot == at)[:, None], v[None, :], v_tile)
        scores = tl.dot(q.to(k_tile.dtype), tl.trans(k_tile), input_precision='ieee') * factor
        scores = tl.where((slot <= at)[None, :], scores, float('-inf'))
        peak = tl.max(scores, axis=1)
        weights = tl.exp(scores - peak[:, None])
        mixed = tl.dot(weights.to(v_tile.dtype), v_tile, input_precision='ieee')
        tl.store(part + (split * HEADS + row[:, None]) * WIDTH + column[None, :], mixed, mask=mask)
        tl.store(largest + split * HEADS + row, peak, mask=asked)
        tl.store(total + split * HEADS + row, tl.sum(weights, axis=1), mask=asked)


@triton.jit
def combine_kernel(part, largest, total, out, splits, HEADS: tl.constexpr, WIDTH: tl.constexpr,
                   SPLITS: tl.constexpr):
    """Join the stretches of one head."""
    head = tl.program_id(0)
    column = tl.arange(0, WIDTH)
    split = tl.arange(0, SPLITS)
    there = split < splits
    peaks = tl.load(largest + split * HEADS + head, mask=there, other=float('-inf'))
    totals = tl.load(total + split * HEADS + head, mask=there, other=0.0)
    share = tl.where(totals > 0, tl.exp(peaks - tl.max(peaks, axis=0)), 0.0)
    used = (totals > 0)[:, None]
    tile = tl.load(part + (split[:, None] * HEADS + head) * WIDTH + column[None, :], mask=used, other=0.0)
    mixed = tl.sum(tile * share[:, None], axis=0) / tl.sum(totals * share, axis=0)
    tl.store(out + head * WIDTH + column, mixed.to(out.dtype.element_ty))
