"""FP8 matrices: static scales per input, per output channel of the weight, exported as Q/DQ.

Only the layers' projections and feed-forwards are quantised. Embedding heads, logits, action heads,
norms, rotary positions and the whole vision tower keep their precision (the exclusions that the
published FP8 checkpoints and NVIDIA's configs share).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cosmos3_ros.resources import require

from .graphs.fp8_linear import Fp8Linear

nn = require('torch.nn', 'model')


def quantised_names(module: Any) -> list[str]:
    """Return the names of the matrices that FP8 takes: bias-free linears inside numbered layers."""
    return [
        name for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and name.startswith('layers.') and part.bias is None]


def excluded_names(module: Any) -> list[str]:
    """Return the names of the parameters with two axes or more that FP8 leaves alone."""
    taken = {f'{name}.weight' for name in quantised_names(module)}
    return [name for name, p in module.named_parameters() if p.ndim > 1 and name not in taken]


@contextmanager
def observed(module: Any, amax: dict[str, float]) -> Iterator[None]:
    """While open, record the largest input magnitude of every matrix that FP8 will take.

    :param amax: Filled, or raised where it already holds a smaller value.
    """
    def watch(name: str) -> Callable[..., None]:
        def see(_module: Any, inputs: tuple[Any, ...]) -> None:
            amax[name] = max(amax.get(name, 0.0), float(inputs[0].detach().abs().amax()))
        return see

    parts = dict(module.named_modules())
    handles = [parts[name].register_forward_pre_hook(watch(name)) for name in quantised_names(module)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def quantise(module: Any, amax: dict[str, float]) -> None:
    """Replace the layers' matrices by FP8 ones, in place.

    :param amax: From :func:`observed`.
    :raises KeyError: A matrix was not calibrated.
    """
    for name in quantised_names(module):
        owner, _, attribute = name.rpartition('.')
        parent = module.get_submodule(owner)
        setattr(parent, attribute, Fp8Linear(getattr(parent, attribute), amax[name]))
