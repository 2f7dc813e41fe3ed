"""A matrix in FP8 with static scales, exported as Q/DQ."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

FP8_MAX = 448.0  # largest finite e4m3
OPSET = 23
"""ONNX operators of every export: ``Attention`` keeps grouped heads, Q/DQ takes FP8 beside bfloat16."""


class Fp8Linear(nn.Module):
    """``y = dq(q(x)) @ dq(w).T`` with e4m3 in between.

    :param linear: Layer to replace; a bias stays in the compute type.
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
        self.bias = linear.bias
        self.register_buffer('zero', torch.zeros((), dtype=torch.float8_e4m3fn))

    def forward(self, states: Any) -> Any:
        """Return the product; torch rounds as the exported Q/DQ does."""
        if torch.onnx.is_in_onnx_export():
            return functional.linear(self._export_input(states), self._export_weight(), self.bias)
        scale = self.input_scale
        # Divided in float32 and rounded once, whatever the scale's type.
        held = (states.float() / scale.float()).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
        return functional.linear(
            held.to(states.dtype) * scale, self.weight.to(states.dtype) * self.weight_scale[:, None],
            self.bias)

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
