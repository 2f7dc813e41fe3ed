"""NVFP4: what a weight becomes, what the file holds, what is built."""

from hypothesis import given, settings
from hypothesis import strategies as st
from micro_engine import SHAPES
import numpy as np
import onnx
import pytest
import torch
from torch import nn

from cosmos3_ros.engine.compiler import BuildOptions, Compiler
from cosmos3_ros.engine.errors import EngineError
from cosmos3_ros.engine.graphs.nvfp4_linear import (
    BLOCK,
    FP4_MAX,
    Nvfp4Linear,
    dequantise_blocks,
    quantise_blocks,
)
from cosmos3_ros.engine.modules import make_module
from cosmos3_ros.engine.precision import PRECISIONS
from cosmos3_ros.engine.quantization import convert
from cosmos3_ros.engine.segments import cut_tower

# The first test that needs them waits for all plans; on a busy machine that is minutes.
pytestmark = pytest.mark.timeout(900)


@given(st.integers(0, 2**31), st.floats(-6.0, 6.0))
@settings(deadline=None, max_examples=30)
def test_a_weight_moves_by_less_than_half_the_widest_step(seed, exponent):
    stream = torch.Generator().manual_seed(seed)
    weight = torch.randn(8, 4 * BLOCK, generator=stream) * 10.0 ** exponent
    weight[0] *= 1e-3  # blocks far below the largest have coarse scales
    codes, scales, total = quantise_blocks(weight)
    error = (dequantise_blocks(codes, scales, total) - weight).abs().unflatten(1, (-1, BLOCK))
    # Between 4 and 6 a half step is 1; a scale below e4m3's smallest normal number is off by 2**-10 itself.
    allowed = scales.float() * total + FP4_MAX * 2.0 ** -9 * total
    assert (error <= allowed[..., None] * (1 + 1e-6)).all()


def test_what_e2m1_can_say_survives():
    magnitudes = [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    values = torch.tensor([0.0, *magnitudes, *(-m for m in magnitudes), 0.0])
    weight = torch.stack((values, values * 0.5)) * 448.0
    assert torch.equal(dequantise_blocks(*quantise_blocks(weight)), weight)


def test_ties_go_to_the_even_code():
    middles = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]
    row = torch.tensor([*middles, *(-m for m in middles), 6.0, 0.0])[None] * 448.0
    found = dequantise_blocks(*quantise_blocks(row))[0] / 448.0
    even = [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]
    assert found.tolist() == [*even, *(-e for e in even), 6.0, 0.0]


def test_a_matrix_of_zeros_stays_one():
    assert not dequantise_blocks(*quantise_blocks(torch.zeros(3, 32))).any()


def test_other_widths_than_whole_blocks_are_refused():
    with pytest.raises(EngineError, match='24 inputs arrived, multiples of 16'):
        Nvfp4Linear(nn.Linear(24, 8, bias=False))


@pytest.mark.parametrize('kind', [torch.float32, torch.bfloat16])
def test_the_layer_multiplies_by_what_the_blocks_say(kind):
    linear = nn.Linear(32, 6).to(kind).requires_grad_(False)
    states = torch.randn(5, 32, generator=torch.Generator().manual_seed(1)).to(kind)
    wanted = dequantise_blocks(*quantise_blocks(linear.weight.float())).to(kind)
    assert torch.equal(
        Nvfp4Linear(linear)(states), torch.nn.functional.linear(states, wanted, linear.bias))


def test_the_file_holds_the_blocks_that_torch_multiplied_by(built_nvfp4, checkpoint):
    (directory, manifest), = built_nvfp4.result.engines
    model = onnx.load(directory / 'generation-1-of-1.onnx')
    held = {t.name: t for t in model.graph.initializer}
    dimensions = built_nvfp4.request.dimensions
    segment, = cut_tower('generation', dimensions, SHAPES)
    module = make_module(segment, dimensions, SHAPES, checkpoint.weights)
    convert(module, PRECISIONS['nvfp4'], {})
    scaled = {node.input[0]: node.input[1] for node in model.graph.node if node.op_type == 'DequantizeLinear'}
    matrices = [name for name, part in module.named_modules() if isinstance(part, Nvfp4Linear)]
    assert len(matrices) == 7 and len(scaled) == 14
    for name in matrices:
        # Equal numbers are stored once: which one a matrix reads is in the graph.
        packed, scales, total = (
            held[part] for part in (f'{name}.weight', f'{name}.scales', scaled[f'{name}.scales']))
        assert packed.data_type == onnx.TensorProto.FLOAT4E2M1
        values, steps, whole = (
            np.asarray(onnx.numpy_helper.to_array(t), np.float32) for t in (packed, scales, total))
        weight = checkpoint.weights.tensor(f'{name}.weight', tuple(packed.dims)).float()
        wanted = dequantise_blocks(*quantise_blocks(weight)).numpy()
        np.testing.assert_array_equal(
            values * np.repeat(steps * whole, BLOCK, axis=1), wanted)
    assert set(manifest.excluded) == {
        'proj_in.weight', 'proj_out.weight', 'action_proj_in.weight', 'action_proj_out.weight'}


def test_it_is_built_for_blackwell_within_its_bound(built_nvfp4):
    (directory, manifest), = built_nvfp4.result.engines
    plan, = manifest.plans
    assert manifest.key.targets == ('sm120',) and (directory / plan.file).stat().st_size == plan.size_bytes
    assert PRECISIONS['nvfp4'].cosine <= built_nvfp4.result.fidelity_cosine_min < 0.9999


def test_tensorrt_itself_refuses_it_for_ada(built_nvfp4, tmp_path):
    """Our refusal of sm89 stands on this one."""
    (directory, _), = built_nvfp4.result.engines
    segment, = cut_tower('generation', built_nvfp4.request.dimensions, SHAPES)
    with pytest.raises(EngineError, match='fp4_e2m1'):
        Compiler().compile(
            directory / 'generation-1-of-1.onnx', segment, BuildOptions(('sm89',)), tmp_path / 'plan')
