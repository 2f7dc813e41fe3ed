"""A matrix in NVFP4: e2m1 numbers in blocks of 16, e4m3 scales per block, one float32 scale for all."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..errors import EngineError
from .fp8_linear import FP8_MAX, OPSET

BLOCK = 16
"""Neighbouring inputs that share a scale (NVIDIA, "Introducing NVFP4")."""
FP4_MAX = 6.0
_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # of e2m1, by code; bit 3 is the sign
_BETWEEN = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)


class Nvfp4Linear(nn.Module):
    """``y = x @ dq(w).T``; inputs stay in the compute type, so nothing is calibrated.

    TensorRT-RTX fuses the product with the two DequantizeLinear and keeps 4.5 bits a weight in the plan.
    ONNX Runtime has no e2m1 on a CPU: a float32 layer exports the values that e2m1 stands for.

    :param linear: Layer to replace; a bias stays in the compute type.
    :raises EngineError: Its inputs are no multiple of 16.
    """

    def __init__(self, linear: Any) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self.outputs, self.inputs = weight.shape
        if self.inputs % BLOCK:
            raise EngineError(
                f'nvfp4: a matrix of {self.inputs} inputs arrived, multiples of {BLOCK} are allowed; '
                'use another precision')
        self.bias = linear.bias
        codes, scales, total = quantise_blocks(weight.float())
        self.compute = weight.dtype
        if self.compute == torch.float32:
            self.register_buffer('values', dequantise_blocks(codes, scales, total))
            return
        packed = codes[:, 0::2] | (codes[:, 1::2] << 4)  # ONNX: the first of two in the low bits
        self.register_buffer('weight', packed.view(torch.float4_e2m1fn_x2))
        self.register_buffer('scales', scales)
        self.register_buffer('total', total)

    def forward(self, states: Any) -> Any:
        """Return the product; torch rounds as the exported graph does."""
        if self.compute == torch.float32:
            return functional.linear(states, self.values, self.bias)
        if torch.onnx.is_in_onnx_export():
            return functional.linear(states, self._export_weight(), self.bias)
        packed = self.weight.view(torch.uint8)
        codes = torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1)
        weight = dequantise_blocks(codes, self.scales, self.total).to(self.compute)
        return functional.linear(states, weight, self.bias)

    def _export_weight(self) -> Any:
        scales = torch.onnx.ops.symbolic(
            'DequantizeLinear', (self.scales, self.total), attrs={}, dtype=torch.float32,
            shape=self.scales.shape, version=OPSET)
        return torch.onnx.ops.symbolic(
            'DequantizeLinear', (self.weight, scales), attrs={'axis': 1, 'block_size': BLOCK},
            dtype=torch.float32, shape=(self.outputs, self.inputs), version=OPSET).to(self.compute)


def quantise_blocks(weight: Any) -> tuple[Any, Any, Any]:
    """Return codes uint8 (outputs, inputs), block scales e4m3 (outputs, blocks) and the float32 scale.

    The float32 scale lifts the largest block scale to e4m3's largest number; a block's scale puts its
    largest weight on 6. Nearest, ties to even.

    :param weight: float32 (outputs, inputs).
    """
    blocks = weight.unflatten(1, (-1, BLOCK))
    largest = blocks.abs().amax(-1)
    total = (largest.max() / (FP8_MAX * FP4_MAX)).clamp(min=1e-30)
    scales = (largest / (FP4_MAX * total)).clamp(max=FP8_MAX).to(torch.float8_e4m3fn)
    step = (scales.float() * total)[..., None]
    scaled = torch.where(step > 0, blocks / step.clamp(min=1e-38), torch.zeros_like(blocks))
    magnitude = scaled.abs().contiguous()
    codes = torch.zeros_like(magnitude, dtype=torch.uint8)
    for code, middle in enumerate(_BETWEEN):
        # In the middle the even one of two neighbours wins: the upper one where its code is even.
        codes += (magnitude > middle if code % 2 == 0 else magnitude >= middle).to(torch.uint8)
    codes |= (scaled < 0).to(torch.uint8) << 3
    return codes.flatten(1), scales, total


def dequantise_blocks(codes: Any, scales: Any, total: Any) -> Any:
    """Return the float32 values that codes stand for.

    :param codes: uint8 (outputs, inputs).
    """
    table = torch.tensor(_MAGNITUDES, device=codes.device)
    values = table[(codes & 7).int()] * (1.0 - 2.0 * (codes >> 3).float())
    return (values.unflatten(1, (-1, BLOCK)) * (scales.float() * total)[..., None]).flatten(1)
