"""One CUDA kernel: the gated activation and its quantisation to float8 in a single pass.

A row is 2 x 12288 numbers of Nano's feed-forward. Compiled from its formula the row is read twice, once
for its largest magnitude and once to scale it; here it stays in registers.
"""

from typing import Any

from cosmos3_ros.resources import require

from .layer_math import FP8_MAX, SMALLEST_AMAX

torch = require('torch', 'model')
triton = require('triton', 'model')
tl = require('triton.language', 'model')


@triton.jit  # type: ignore[untyped-decorator]
def _gate_rows(joined, out, scales, width, largest, smallest, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def, name-defined]
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(joined + row * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(joined + row * 2 * width + width + column, mask=inside, other=0.0).to(tl.float32)
    value = gate / (1.0 + tl.exp(-gate)) * up
    scale = tl.maximum(tl.max(tl.abs(value), axis=0), smallest) / largest
    scaled = tl.minimum(tl.maximum(value / scale, -largest), largest)
    tl.store(out + row * width + column, scaled.to(tl.float8e4nv), mask=inside)
    tl.store(scales + row, scale)


@torch.library.custom_op('cosmos3_ros::gate_and_quantise', mutates_args=())  # type: ignore[untyped-decorator]
def gate_and_quantise(joined: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[name-defined]
    """Return float8 rows and float32 scales (rows, 1) of ``silu(gate) * up``.

    :param joined: (rows, 2 * width), gate and up side by side, contiguous.
    """
    rows, width = joined.shape[0], joined.shape[1] // 2
    out = torch.empty((rows, width), dtype=torch.float8_e4m3fn, device=joined.device)
    scales = torch.empty((rows, 1), dtype=torch.float32, device=joined.device)
    _gate_rows[(rows,)](
        joined, out, scales, width, FP8_MAX, SMALLEST_AMAX, BLOCK=triton.next_power_of_2(width), num_warps=16)
    return out, scales


@gate_and_quantise.register_fake  # type: ignore[untyped-decorator]
def _shapes_of(joined: Any) -> tuple[Any, Any]:
    rows, width = joined.shape[0], joined.shape[1] // 2
    return (joined.new_empty((rows, width), dtype=torch.float8_e4m3fn),
            joined.new_empty((rows, 1), dtype=torch.float32))
