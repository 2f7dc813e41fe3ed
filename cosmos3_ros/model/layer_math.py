"""The arithmetic that both towers share, in diffusers' order of operations.

In float32 the results equal ``diffusers.Cosmos3OmniTransformer`` bit for bit where a test says so.
"""

from typing import Any

from cosmos3_ros.resources import require

from .tower_shape import TowerShape

torch = require('torch', 'model')
functional = require('torch.nn.functional', 'model')

FP8_MAX = 448.0  # largest finite float8_e4m3fn (OCP 8-bit floating point specification, v1.0)
SMALLEST_AMAX = 1e-12  # a row of zeros stays zeros


def normalise(states: Any, weight: Any, shape: TowerShape) -> Any:
    """Divide by the root mean square of the last axis (``RMSNorm``, Edge's ``Cosmos3NemotronRMSNorm``)."""
    wide = states.float()
    scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + shape.eps)
    if shape.exact_norm:
        return (weight.float() * scaled).to(states.dtype)
    return scaled.to(weight.dtype) * weight


def rotate(states: Any, cos: Any, sin: Any) -> Any:
    """Apply rotary positions to (tokens, heads, width)."""
    half = states.shape[-1] // 2
    turned = torch.cat((-states[..., half:], states[..., :half]), dim=-1)
    return states * cos + turned * sin


def rotary_table(shape: TowerShape, positions: Any, device: Any, dtype: Any) -> tuple[Any, Any]:
    """Return cosines and sines, (tokens, 1, head width), of float32 positions (3, tokens).

    Computed on the CPU in float32, so that every device gets the same table.
    """
    module = require('diffusers.models.transformers.transformer_cosmos3', 'model')
    cos, sin = module.Cosmos3VLTextRotaryEmbedding(
        shape.head_dim, shape.rope_theta, shape.rope_sections)(
            position_ids=positions.cpu().unsqueeze(1), device=torch.device('cpu'), dtype=dtype)
    return (cos.squeeze(0).unsqueeze(1).contiguous().to(device),
            sin.squeeze(0).unsqueeze(1).contiguous().to(device))


def multiply(states: Any, weight: Any, scale: Any) -> Any:
    """Return ``states @ weight.T``.

    With a scale the weight is float8, and the states are quantised row by row on the fly: each row
    by its own largest magnitude.

    :param states: (tokens, inputs).
    :param weight: (outputs, inputs).
    :param scale: None, or float32 (1, outputs).
    """
    if scale is None:
        return functional.linear(states, weight)
    quantised, row_scale = quantise_rows(states)
    return multiply_rows(quantised, row_scale, weight, scale, states.dtype)


def multiply_rows(quantised: Any, row_scale: Any, weight: Any, scale: Any, dtype: Any) -> Any:
    """Return the product of float8 rows and a float8 weight in ``dtype``."""
    return torch._scaled_mm(
        quantised, weight.t(), scale_a=row_scale, scale_b=scale, out_dtype=dtype, use_fast_accum=True)


def quantise_rows(matrix: Any) -> tuple[Any, Any]:
    """Return float8_e4m3fn (rows, columns) and float32 scales (rows, 1), whose product is the matrix."""
    wide = matrix.float()
    scale = wide.abs().amax(dim=-1, keepdim=True).clamp(min=SMALLEST_AMAX) / FP8_MAX
    return (wide / scale).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn), scale


def feed_forward(states: Any, up: tuple[Any, Any], down: tuple[Any, Any], shape: TowerShape) -> Any:
    """Return the feed-forward's result.

    :param up: Weight and scale of gate and up side by side, or of up alone.
    :param down: Weight and scale.
    """
    return multiply(activate(multiply(states, *up), shape), *down)


def activate(joined: Any, shape: TowerShape) -> Any:
    """Apply the feed-forward's nonlinearity to gate and up side by side, or to up alone."""
    if not shape.gated:
        return torch.relu(joined).square()
    gate, up = joined.chunk(2, dim=-1)
    return functional.silu(gate) * up
