"""Quantised matrices: FP8 with static scales, or NVFP4 weights, exported as Q/DQ.

Only the layers' projections and feed-forwards are quantised. Embedding heads, logits, action heads,
norms, rotary positions and the whole vision tower keep their precision (the exclusions that the
published FP8 checkpoints and NVIDIA's configs share).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cosmos3_ros.resources import require

from .errors import EngineError
from .graphs.fp8_linear import Fp8Linear
from .graphs.nvfp4_linear import Nvfp4Linear
from .modules import to_compute
from .precision import Precision

nn = require('torch.nn', 'model')


def quantised_names(module: Any) -> list[str]:
    """Return the names of the matrices that are quantised: bias-free linears inside numbered layers."""
    return [
        name for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and name.startswith('layers.') and part.bias is None]


def excluded_names(module: Any) -> list[str]:
    """Return the names of the parameters with two axes or more that stay in the compute type."""
    taken = {f'{name}.weight' for name in quantised_names(module)}
    return [name for name, p in module.named_parameters() if p.ndim > 1 and name not in taken]


@contextmanager
def observed(module: Any, amax: dict[str, float], names: Iterable[str] | None = None) -> Iterator[None]:
    """While open, record the largest input magnitude of every matrix that FP8 will take.

    :param amax: Filled, or raised where it already holds a smaller value.
    :param names: Which; None are those of :func:`quantised_names`.
    """
    def watch(name: str) -> Callable[..., None]:
        def see(_module: Any, inputs: tuple[Any, ...]) -> None:
            amax[name] = max(amax.get(name, 0.0), float(inputs[0].detach().abs().amax()))
        return see

    parts = dict(module.named_modules())
    chosen = quantised_names(module) if names is None else tuple(names)
    handles = [parts[name].register_forward_pre_hook(watch(name)) for name in chosen]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def convert(module: Any, precision: Precision, amax: Mapping[str, float]) -> tuple[str, ...]:
    """Bring a float32 or compute-type module to a precision, in place.

    :param amax: From :func:`observed` or a calibration; FP8 alone reads it.
    :return: The matrices that stay in the compute type, if others do not.
    :raises EngineError: A matrix was not calibrated, or does not fit the precision.
    """
    to_compute(module, precision.compute)
    if precision.matrices == 'plain':
        return ()
    excluded = tuple(excluded_names(module))
    quantise(module, precision, amax)
    return excluded


def quantise(
    module: Any, precision: Precision, amax: Mapping[str, float], names: Iterable[str] | None = None,
) -> None:
    """Replace matrices by quantised ones, in place.

    :param names: Which; None are those of :func:`quantised_names`.
    :raises EngineError: A matrix was not calibrated, or does not fit the precision.
    """
    for name in quantised_names(module) if names is None else names:
        owner, _, attribute = name.rpartition('.')
        parent = module.get_submodule(owner)
        linear = getattr(parent, attribute)
        if precision.matrices == 'nvfp4':
            setattr(parent, attribute, Nvfp4Linear(linear))
            continue
        if name not in amax:
            raise EngineError(
                f'precision: {precision.name} needs the largest input of {name}, and it was not calibrated; '
                'give --calibration, or leave --no-vectors out')
        setattr(parent, attribute, Fp8Linear(linear, amax[name]))
