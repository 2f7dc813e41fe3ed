"""Super over several GPUs: where each layer goes, from sizes alone, on the meta device."""

import diffusers
from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch

from cosmos3_ros.model.checkpoint import CheckpointError
from cosmos3_ros.model.device_map import plan_devices
from cosmos3_ros.model.memory_need import layer_bytes, working_bytes
from cosmos3_ros.model.tower_shape import TowerShape

GIGA = 10**9
# facts sheet 1.1
SUPER = {'hidden_size': 5120, 'intermediate_size': 25600, 'num_hidden_layers': 64, 'num_attention_heads': 64,
         'num_key_value_heads': 8, 'head_dim': 128, 'action_gen': True, 'action_dim': 64}
TOKENS = 3093


def test_the_arithmetic_is_that_of_the_model():
    with torch.device('meta'):
        model = diffusers.Cosmos3OmniTransformer(**SUPER)
    parts = ('add_q_proj', 'add_k_proj', 'add_v_proj', 'to_add_out', 'mlp_moe_gen')
    layer = sum(t.numel() for name, t in model.state_dict().items()
                if name.startswith('layers.0.') and any(p in name for p in parts))
    assert layer_bytes(TowerShape.of(SUPER), 'bfloat16') == 2 * layer
    # 31.206e9 parameters in the facts sheet, which counts the norms too.
    assert 64 * layer == pytest.approx(31.206e9, rel=1e-3)


def test_super_fits_two_gpus_of_80_gb_and_one_in_float8():
    shape = TowerShape.of(SUPER)
    two = plan_devices(shape, 'bfloat16', TOKENS, [('cuda:0', 60 * GIGA), ('cuda:1', 60 * GIGA)])
    assert two.spans == ((0, 32), (32, 64))
    assert (two.device_of(31), two.device_of(32)) == ('cuda:0', 'cuda:1')
    one = plan_devices(shape, 'float8', TOKENS, [('cuda:0', 60 * GIGA), ('cuda:1', 60 * GIGA)])
    assert one.devices == ('cuda:0',) and one.spans == ((0, 64),)
    with pytest.raises(CheckpointError, match=r'69\.1 GB are needed for 64 layers in bfloat16'):
        plan_devices(shape, 'bfloat16', TOKENS, [('cuda:0', 24 * GIGA)])
    with pytest.raises(CheckpointError, match='no device'):
        plan_devices(shape, 'bfloat16', TOKENS, [])
    with pytest.raises(CheckpointError, match='layer 64 arrived'):
        two.device_of(64)


def test_every_tensor_of_the_tower_has_a_place():
    shape = TowerShape.of(SUPER)
    plan = plan_devices(shape, 'bfloat16', TOKENS, [(f'cuda:{i}', 30 * GIGA) for i in range(4)])
    with torch.device('meta'):
        names = list(diffusers.Cosmos3OmniTransformer(**SUPER).state_dict())
    places = plan.tensor_devices(names)
    assert set(places.values()) == set(plan.devices) and len(plan.devices) == 3
    assert places['proj_in.weight'] == places['layers.0.self_attn.add_q_proj.weight'] == 'cuda:0'
    assert places['proj_out.weight'] == places['layers.63.self_attn.add_q_proj.weight'] == 'cuda:2'


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(0, 90), min_size=1, max_size=6), st.sampled_from(['bfloat16', 'float8', 'float32']))
def test_no_device_takes_more_than_it_has(free_gb, dtype):
    shape = TowerShape.of(SUPER)
    free = [(f'cuda:{i}', gb * GIGA) for i, gb in enumerate(free_gb)]
    try:
        plan = plan_devices(shape, dtype, TOKENS, free)
    except CheckpointError:
        one, working = layer_bytes(shape, dtype), working_bytes(shape, dtype, TOKENS)
        assert sum(max(0, (f - working) // one) for _, f in free) < 64
        return
    assert plan.spans[0][0] == 0 and plan.spans[-1][1] == 64
    assert all(a[1] == b[0] for a, b in zip(plan.spans, plan.spans[1:], strict=False))
    for (_, have), held, (first, end) in zip(free, plan.weights_bytes, plan.spans, strict=False):
        assert held == (end - first) * layer_bytes(shape, dtype)
        assert end == first or held + plan.working_bytes <= have
