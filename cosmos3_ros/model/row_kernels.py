"""CUDA kernels for what stands between a layer's matrix products: one program per row, one pass over memory.

Written by hand rather than compiled from their formulas: a compiler chooses by timing how a row is summed, so
chunks may differ between two devices, or two days. Here the order is fixed, and a row stays in
registers. Arithmetic is in float32. What is not a number stays so: a chunk with it in must be refused, not
clamped into something that looks right. ``triton`` can also run them without a GPU (TRITON_INTERPRET=1), for
tests.
"""

from typing import Any

from cosmos3_ros.resources import require

from .layer_math import FP8_MAX, SMALLEST_AMAX

# Triton reads annotations as types of its own, so most parameters carry none.
# mypy: disable-error-code="untyped-decorator, no-untyped-def, name-defined"

torch = require('torch', 'model')
triton = require('triton', 'model')
tl = require('triton.language', 'model')

ACTIVATION_BLOCK = 1024
"""Columns of one program where an activation's row is not needed whole."""


@triton.jit
def _to_float8(value, largest, smallest):
    """Return one row scaled so that its largest magnitude becomes ``largest``, and the scale."""
    scale = tl.maximum(tl.max(tl.abs(value), axis=0), smallest) / largest
    return tl.clamp(value / scale, -largest, largest, propagate_nan=tl.PropagateNan.ALL), scale


@triton.jit
def _norm_rows(
    x, delta, weight, total, normed, scales, width, eps, largest, smallest, HAS_DELTA: tl.constexpr,
    QUANTISE: tl.constexpr, BLOCK: tl.constexpr,
):
    """Total = x + delta; normed = total / rms(total) * weight, with QUANTISE as float8."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    place = row * width + column
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if HAS_DELTA:
        value += tl.load(delta + place, mask=inside, other=0.0).to(tl.float32)
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + place, rounded, mask=inside)
        value = rounded.to(tl.float32)
    value *= tl.rsqrt(tl.sum(value * value, axis=0) / width + eps)
    value *= tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    if QUANTISE:
        value, scale = _to_float8(value, largest, smallest)
        tl.store(scales + row, scale)
    tl.store(normed + place, value.to(normed.dtype.element_ty), mask=inside)


@triton.jit
def _quantise_rows(x, out, scales, width, largest, smallest, BLOCK: tl.constexpr):
    """Float8 rows and their scales: the row's largest magnitude becomes ``largest``."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(x + row * width + column, mask=inside, other=0.0).to(tl.float32)
    value, scale = _to_float8(value, largest, smallest)
    tl.store(out + row * width + column, value.to(out.dtype.element_ty), mask=inside)
    tl.store(scales + row, scale)


@triton.jit
def _activate_rows(
    joined, out, scales, width, largest, smallest, GATED: tl.constexpr, QUANTISE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """BLOCK columns of silu(gate) * up, or of relu(up) squared; with QUANTISE the whole row, as float8."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    start = row * (2 * width if GATED else width)
    value = tl.load(joined + start + column, mask=inside, other=0.0).to(tl.float32)
    if GATED:
        up = tl.load(joined + start + width + column, mask=inside, other=0.0).to(tl.float32)
        value = value / (1.0 + tl.exp(-value)) * up
    else:
        value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)
        value *= value
    if QUANTISE:
        value, scale = _to_float8(value, largest, smallest)
        tl.store(scales + row, scale)
    tl.store(out + row * width + column, value.to(out.dtype.element_ty), mask=inside)


def add_norm(x: Any, delta: Any, weight: Any, eps: float, *, in_place: bool = False) -> tuple[Any, Any]:
    """Return ``x + delta`` and its norm times ``weight``, both (rows, width) as ``x``.

    :param x: (rows, width), contiguous.
    :param delta: Likewise, or None: the sum is then ``x`` itself.
    :param weight: (width,).
    :param in_place: Write the sum over ``x``.
    :raises ValueError: A matrix has another form.
    """
    normed = torch.empty_like(x)
    return _launch_norm(x, delta, weight, eps, in_place, normed, None), normed


def add_norm_quantise(
    x: Any, delta: Any, weight: Any, eps: float, *, in_place: bool = False,
) -> tuple[Any, Any, Any]:
    """As :func:`add_norm`, the norm as float8 (rows, width) and float32 scales (rows, 1)."""
    normed, scales = _float8_room(len(x), x.shape[1], x.device)
    return _launch_norm(x, delta, weight, eps, in_place, normed, scales), normed, scales


def _launch_norm(
    x: Any, delta: Any, weight: Any, eps: float, in_place: bool, normed: Any, scales: Any,
) -> Any:
    """Fill ``normed``, and ``scales`` unless it is None; return the sum."""
    width = x.shape[1]
    _check('x', x, width)
    if weight.shape != (width,) or not weight.is_contiguous():
        raise ValueError(f'weight: {tuple(weight.shape)} arrived, ({width},) contiguous is needed')
    if delta is not None:
        _check('delta', delta, width, len(x))
    total = x if delta is None or in_place else torch.empty_like(x)
    _norm_rows[(len(x),)](
        x, x if delta is None else delta, weight, total, normed, x if scales is None else scales, width,
        eps, FP8_MAX, SMALLEST_AMAX, HAS_DELTA=delta is not None, QUANTISE=scales is not None,
        BLOCK=triton.next_power_of_2(width), num_warps=_warps(width))
    return total


def quantise(parts: list[Any]) -> tuple[Any, Any]:
    """Return float8 (rows, width) and float32 scales (rows, 1) of matrices below one another.

    :param parts: Each (rows, width), contiguous.
    :raises ValueError: A matrix has another form.
    """
    width, first = parts[0].shape[1], 0
    out, scales = _float8_room(sum(map(len, parts)), width, parts[0].device)
    for part in parts:
        _check('part', part, width)
        rows = slice(first, first + len(part))
        _quantise_rows[(len(part),)](
            part, out[rows], scales[rows], width, FP8_MAX, SMALLEST_AMAX, BLOCK=triton.next_power_of_2(width),
            num_warps=8)
        first += len(part)
    return out, scales


def activate(joined: Any, *, gated: bool = True) -> Any:
    """Return ``silu(gate) * up``, or without a gate ``relu(up) ** 2``, (rows, width).

    :param joined: (rows, 2 * width), gate and up side by side, or (rows, width); contiguous.
    :raises ValueError: It is not contiguous.
    """
    rows, width = _activation_size(joined, gated=gated)
    out = torch.empty((rows, width), dtype=joined.dtype, device=joined.device)
    block = min(ACTIVATION_BLOCK, triton.next_power_of_2(width))
    _activate_rows[(rows, -(-width // block))](
        joined, out, joined, width, FP8_MAX, SMALLEST_AMAX, GATED=gated, QUANTISE=False, BLOCK=block,
        num_warps=4)
    return out


def activate_quantise(joined: Any, *, gated: bool = True) -> tuple[Any, Any]:
    """As :func:`activate`, as float8 (rows, width) and float32 scales (rows, 1)."""
    rows, width = _activation_size(joined, gated=gated)
    out, scales = _float8_room(rows, width, joined.device)
    _activate_rows[(rows, 1)](
        joined, out, scales, width, FP8_MAX, SMALLEST_AMAX, GATED=gated, QUANTISE=True,
        BLOCK=triton.next_power_of_2(width), num_warps=16)
    return out, scales


def _activation_size(joined: Any, *, gated: bool) -> tuple[int, int]:
    """Return rows and columns of what :func:`activate` makes of ``joined``."""
    parts = 2 if gated else 1
    width = joined.shape[-1] // parts
    _check('joined', joined, parts * width)
    return len(joined), width


def _check(name: str, tensor: Any, width: int, rows: int | None = None) -> None:
    """Refuse what a kernel would read wrongly; costs nothing where the work is replayed from a graph."""
    if tensor.shape[-1] != width or not tensor.is_contiguous() or rows not in (None, len(tensor)):
        wanted = f'({"rows" if rows is None else rows}, {width}) contiguous'
        raise ValueError(
            f'{name}: {tuple(tensor.shape)} with strides {tensor.stride()} arrived, {wanted} is needed')


def _float8_room(rows: int, width: int, device: Any) -> tuple[Any, Any]:
    return (torch.empty((rows, width), dtype=torch.float8_e4m3fn, device=device),
            torch.empty((rows, 1), dtype=torch.float32, device=device))


def _warps(width: int) -> int:
    """Return how many warps share a row: none twice.

    Several warps would read the same numbers of a narrow row, and only one of them would write: over numbers,
    with the sum in place, that another one is still going to read.
    """
    return min(8, max(1, int(triton.next_power_of_2(width)) // 32))
