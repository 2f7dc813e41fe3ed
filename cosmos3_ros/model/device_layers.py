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
    """As :func:`generation_tower.project`; two terms are summed over the first."""
    states, delta = terms[0], terms[1] if len(terms) > 1 else None
    if layer.qkv_scale is None:
        hidden, normed = row_kernels.add_norm(states, delta, layer.norm_in, shape.eps, in_place=True)
        return functional.linear(normed, layer.qkv), hidden
    hidden, rows, scales = row_kernels.add_norm_quantise(
        states, delta, layer.norm_in, shape.eps, in_place=True)
    return multiply_rows(rows, scales, layer.qkv, layer.qkv_scale, hidden.dtype), hidden


def finish_layer(mixed: list[Any], hidden: list[Any], layer: Layer, shape: TowerShape) -> tuple[Any, ...]:
    """As :func:`generation_tower.finish_layer`, in float8 as two terms; written over ``hidden``.

    :param mixed: Emptied: its room is needed before the layer is through.
    """
    states = stack(hidden)
    if layer.out_scale is not None:
        return _finish_float8(mixed, states, layer, shape)
    for rows in states.split([len(part) for part in mixed]):
        add_product(rows, mixed.pop(0), layer.out)
    joined = functional.linear(row_kernels.add_norm(states, None, layer.norm_out, shape.eps)[1], layer.up)
    add_product(states, row_kernels.activate(joined, gated=shape.gated), layer.down)
    return (states,)


def _finish_float8(mixed: list[Any], states: Any, layer: Layer, shape: TowerShape) -> tuple[Any, Any]:
    # Gate and up side by side are the largest thing a request needs: what is not read any more goes before.
    kind = states.dtype
    quantised = row_kernels.quantise(mixed)
    mixed.clear()
    added = multiply_rows(*quantised, layer.out, layer.out_scale, kind)
    del quantised
    _, rows, scales = row_kernels.add_norm_quantise(states, added, layer.norm_out, shape.eps, in_place=True)
    del added
    joined = multiply_rows(rows, scales, layer.up, layer.up_scale, kind)
    del rows
    activated = row_kernels.activate_quantise(joined, gated=shape.gated)
    del joined
    return states, multiply_rows(*activated, layer.down, layer.down_scale, kind)


def add_product(states: Any, factor: Any, weight: Any) -> None:
    """Add ``factor @ weight.T`` to ``states`` in place, rounded once.

    :param states: (rows, outputs).
    :param factor: (rows, inputs).
    :param weight: (outputs, inputs).
    """
    states.addmm_(factor, weight.t())
