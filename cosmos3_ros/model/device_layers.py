"""A layer of the generation tower on CUDA: products of the library, and Triton's kernels between them.

Computes what :func:`generation_tower.project` and :func:`generation_tower.finish_layer` say, up to rounding.
In full precision the products that end attention and feed-forward add to the residual where it lies: a sum
of its own would be a pass over memory more. In float8 the library's product cannot do that, and the sum goes
along with the next norm.
"""

from collections.abc import Sequence
from typing import Any

from cosmos3_ros.resources import require

from . import row_kernels
from .generation_tower import Layer, stack
from .layer_math import multiply_rows
from .tower_shape import TowerShape

functional = require('torch.nn.functional', 'model')


def project(terms: Sequence[Any], layer: Layer, shape: TowerShape) -> tuple[Any, Any]:
    """As :func:`generation_tower.project`."""
    first, delta = terms[0], terms[1] if len(terms) > 1 else None
    if layer.qkv_scale is None:
        hidden, normed = row_kernels.add_norm(first, delta, layer.norm_in, shape.eps)
        return functional.linear(normed, layer.qkv), hidden
    hidden, rows, scales = row_kernels.add_norm_quantise(first, delta, layer.norm_in, shape.eps)
    return multiply_rows(rows, scales, layer.qkv, layer.qkv_scale, hidden.dtype), hidden


def finish_layer(mixed: list[Any], hidden: list[Any], layer: Layer, shape: TowerShape) -> tuple[Any, ...]:
    """As :func:`generation_tower.finish_layer`, but in full precision the sum, written over ``hidden``."""
    states = stack(hidden)
    if layer.out_scale is not None:
        return _finish_float8(mixed, states, layer, shape)
    first = 0
    for part in mixed:
        add_product(states[first:first + len(part)], part, layer.out)
        first += len(part)
    joined = functional.linear(row_kernels.add_norm(states, None, layer.norm_out, shape.eps)[1], layer.up)
    add_product(states, row_kernels.activate(joined, gated=shape.gated), layer.down)
    return (states,)


def _finish_float8(mixed: list[Any], states: Any, layer: Layer, shape: TowerShape) -> tuple[Any, Any]:
    # Gate and up side by side are the largest thing a request needs: what is not read any more goes before.
    kind = states.dtype
    added = multiply_rows(*row_kernels.quantise(mixed), layer.out, layer.out_scale, kind)
    states, rows, scales = row_kernels.add_norm_quantise(states, added, layer.norm_out, shape.eps)
    del added
    joined = multiply_rows(rows, scales, layer.up, layer.up_scale, kind)
    del rows
    activated = row_kernels.activate_quantise(joined, gated=shape.gated)
    del joined
    return states, multiply_rows(*activated, layer.down, layer.down_scale, kind)


def add_product(states: Any, factor: Any, weight: Any) -> None:
    """Add ``factor @ weight.T`` to ``states`` in place, rounded once."""
    states.addmm_(factor, weight.t())
