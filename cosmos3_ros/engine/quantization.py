"""FP8 matrices: static scales per input, per output channel of the weight, exported as Q/DQ.

Only the layers' projections and feed-forwards are quantised. Embedding heads, logits, action heads,
norms, rotary positions and the whole vision tower keep their precision (the exclusions that the
published FP8 checkpoints and NVIDIA's configs share).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cosmos3_ros.resources import require

torch = require('torch', 'model')
functional = require('torch.nn.functional', 'model')
nn = require('torch.nn', 'model')

FP8_MAX = 448.0  # largest finite e4m3
OPSET = 23


class Fp8Linear(nn.Module):
    """``y = dq(q(x)) @ dq(w).T`` with e4m3 in between.

    :param linear: Bias-free layer to replace.
    :param input_amax: Largest magnitude that its input took in calibration.
    """

    def __init__(self, linear: Any, input_amax: float) -> None:
        super().__init__()
        weight, kind = linear.weight.detach(), linear.weight.dtype
        scale = (weight.float().abs().amax(1) / FP8_MAX).clamp(min=1e-12).to(kind)
        self.register_buffer('weight', (weight.float() / scale.float()[:, None]).clamp(-FP8_MAX, FP8_MAX).to(
            torch.float8_e4m3fn))
        self.register_buffer('weight_scale', scale)
        self.register_buffer('input_scale', torch.tensor(max(input_amax, 1e-12) / FP8_MAX, dtype=kind))
        self.register_buffer('zero', torch.zeros((), dtype=torch.float8_e4m3fn))

    def forward(self, states: Any) -> Any:
        """Return the product; torch rounds as the exported Q/DQ does."""
        if torch.onnx.is_in_onnx_export():
            return functional.linear(self._export_input(states), self._export_weight())
        scale = self.input_scale
        # Divided in float32 and rounded once, whatever the scale's type.
        held = (states.float() / scale.float()).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
        return functional.linear(
            held.to(states.dtype) * scale, self.weight.to(states.dtype) * self.weight_scale[:, None])

    def _export_input(self, states: Any) -> Any:
        held = torch.onnx.ops.symbolic(
            'QuantizeLinear', (states, self.input_scale, self.zero), attrs={'saturate': 1},
            dtype=torch.float8_e4m3fn, shape=states.shape, version=OPSET)
        return torch.onnx.ops.symbolic(
            'DequantizeLinear', (held, self.input_scale), attrs={}, dtype=states.dtype, shape=states.shape,
            version=OPSET)

    def _export_weight(self) -> Any:
        return torch.onnx.ops.symbolic(
            'DequantizeLinear', (self.weight, self.weight_scale), attrs={'axis': 0},
            dtype=self.weight_scale.dtype, shape=self.weight.shape, version=OPSET)


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
