"""The fused kernel gives what the formula gives; it exists on CUDA only."""

import pytest
import torch

from cosmos3_ros.model.layer_math import quantise_rows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='the kernel needs an NVIDIA GPU')


@pytest.mark.parametrize('rows, width', [(1, 16), (33, 12288), (300, 96), (64, 25600)])
def test_gate_and_quantise(rows, width):
    from cosmos3_ros.model.float8_kernels import gate_and_quantise

    torch.manual_seed(0)
    joined = torch.randn(rows, 2 * width, device='cuda', dtype=torch.bfloat16)
    joined[0] = 0.0
    quantised, scale = gate_and_quantise(joined)
    gate, up = joined.float().chunk(2, dim=-1)
    want, want_scale = quantise_rows(torch.nn.functional.silu(gate) * up)
    assert torch.allclose(scale, want_scale, rtol=1e-5)
    # Another last bit of the exponential may round a value to the neighbouring float8.
    assert (quantised.float() != want.float()).float().mean() < 1e-4
    assert ((quantised.float() - want.float()).abs() <= want.float().abs() / 7 + 2.0 ** -9).all()
    assert not quantised[0].float().any()
    again, _ = gate_and_quantise(joined)
    assert torch.equal(again.view(torch.uint8), quantised.view(torch.uint8))
