"""Cutting towers, choosing profiles, shapes: pure functions."""

from dataclasses import replace
from itertools import pairwise
import json
import shutil

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch

from cosmos3_ros.engine.dimensions import NANO, Dimensions, Shapes
from cosmos3_ros.engine.errors import EngineError, EngineRefusedError
from cosmos3_ros.engine.fidelity import compare, require_fidelity, require_tokens
from cosmos3_ros.engine.precision import PRECISIONS
from cosmos3_ros.engine.runtime import choose_profile
from cosmos3_ros.engine.segments import cut_tower
from cosmos3_ros.engine.weights import CheckpointWeights, OverriddenWeights, SeededWeights


@given(st.sampled_from(['language', 'generation']), st.integers(1, 30_000_000_000), st.integers(1, 64))
@settings(deadline=None)
def test_segments_cover_every_layer_once(tower, max_bytes, layers):
    segments = cut_tower(tower, replace(NANO, layers=layers), Shapes(), max_bytes)
    assert segments[0].first == 0 and segments[-1].last == layers
    for before, after in pairwise(segments):
        assert before.last == after.first
        assert after.first_input == 'hidden' and 'states' in [port.name for port in before.outputs]
    assert all(segment.last > segment.first for segment in segments)
    assert [segment.index for segment in segments] == list(range(len(segments)))
    assert sum('logits' in [p.name for p in s.outputs] for s in segments) == (tower == 'language')


def test_nano_is_cut_into_segments_that_fit_20_gb():
    for tower, weights in (('vision', 1.15e9), ('language', 15.1e9), ('generation', 13.9e9)):
        segments = cut_tower(tower, NANO, Shapes())
        assert sum(s.weight_bytes for s in segments) == pytest.approx(weights, rel=0.01)
        assert max(s.weight_bytes for s in segments) <= 2.6e9


def test_deepstack_enters_where_its_layers_are():
    segments = cut_tower('language', NANO, Shapes(), 400_000_000)  # two layers each
    assert [s.name for s in segments if 'deepstack' in [p.name for p in s.inputs]] == [
        s.name for s in segments if s.first < 3]


@pytest.mark.parametrize(('changes', 'words'), [
    ({'frame_grid': (21, 40)}, 'even'), ({'max_frames': 0}, 'positive'), ({'cache': 1024}, 'more than'),
    ({'latent_grid': (1, 17, 20)}, 'noisy'), ({'action_rows': 1}, 'noisy'), ({'max_prompt': 1.5}, 'integers'),
])
def test_shapes_that_cannot_be_are_refused(changes, words):
    with pytest.raises(EngineError, match=words):
        Shapes(**changes)


def test_shapes_survive_json():
    shapes = Shapes(frame_grid=(4, 6), domain=0)
    assert Shapes.from_json(shapes.to_json()) == shapes


def language_shapes(segment, tokens, cached, rows=1):
    sizes = {'tokens': tokens, 'cached': cached, 'rows': rows, 'attended': tokens + cached}
    return {port.name: port.sizes(sizes) for port in segment.inputs}


def test_prefill_and_decode_find_their_profile():
    segment = cut_tower('language', NANO, Shapes())[0]
    assert choose_profile(segment, language_shapes(segment, 970, 1, 880)) == 0
    assert choose_profile(segment, language_shapes(segment, 1, 1280)) == 0


def test_a_size_that_no_profile_takes_is_named():
    segment = cut_tower('language', NANO, Shapes())[0]
    with pytest.raises(EngineError, match='prefill or decode takes tokens from 1 to 1024, 1025 arrived'):
        choose_profile(segment, language_shapes(segment, 1025, 1))
    broken = language_shapes(segment, 970, 1)
    broken['cos'] = (969, 128)
    with pytest.raises(EngineError, match='cos has 969'):
        choose_profile(segment, broken)


@given(st.integers(0, 2**31))
@settings(deadline=None, max_examples=25)
def test_the_gate_takes_equal_and_refuses_nan_zero_and_other_shapes(seed):
    wanted = torch.randn(7, 5, generator=torch.Generator().manual_seed(seed))
    bf16 = PRECISIONS['bf16']
    assert compare('s', 'c', 'o', wanted, wanted.clone()).within(bf16)
    assert compare('s', 'c', 'o', wanted, wanted.to(torch.bfloat16)).within(bf16)
    for wrong in (torch.full_like(wanted, torch.nan), torch.zeros_like(wanted), wanted[:3], -wanted,
                  2.0 * wanted, wanted.flip(0)):
        assert not compare('s', 'c', 'o', wanted, wrong).within(bf16)


def test_the_gate_needs_something_to_compare():
    with pytest.raises(EngineRefusedError, match='no stored vectors'):
        require_fidelity([], PRECISIONS['bf16'], 'again')


def test_other_tokens_are_refused_with_their_place():
    require_tokens([[1, 2], [3, 4]], [[1, 2], [3, 4]], 'again')
    with pytest.raises(EngineRefusedError, match=r'prompt 1 differ from token 1 on \(\[5\] instead of \[4\]'):
        require_tokens([[1, 2], [3, 4]], [[1, 2], [3, 5]], 'again')
    with pytest.raises(EngineRefusedError, match='prompt 0 differ from token 1'):
        require_tokens([[1, 2]], [[1]], 'again')


def test_weights_that_are_missing_or_of_another_shape_are_named(checkpoint, tmp_path):
    with pytest.raises(EngineError, match=r'no weight layers\.9'):
        checkpoint.weights.tensor('layers.9.x', (1,))
    with pytest.raises(EngineError, match=r'norm.weight has shape \(32,\), \(33,\) is needed'):
        checkpoint.weights.tensor('norm.weight', (33,))
    with pytest.raises(EngineError, match='holds neither'):
        CheckpointWeights(tmp_path)


def test_seeded_weights_depend_on_name_and_seed_alone():
    first, second = SeededWeights(0), SeededWeights(0)
    a = first.tensor('layers.0.mlp.up_proj.weight', (8, 4))
    second.tensor('layers.0.mlp.gate_proj.weight', (8, 4))
    assert torch.equal(a, second.tensor('layers.0.mlp.up_proj.weight', (8, 4)))
    assert not torch.equal(a, SeededWeights(1).tensor('layers.0.mlp.up_proj.weight', (8, 4)))
    other = torch.zeros(8, 4)
    assert OverriddenWeights(first, {'x': other}).tensor('x', (8, 4)) is other


def test_edge_checkpoints_are_refused(checkpoint, tmp_path):
    shutil.copytree(checkpoint.directory, tmp_path / 'edge')
    path = tmp_path / 'edge' / 'transformer' / 'config.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), 'hidden_act': 'relu2'}))
    with pytest.raises(EngineError, match='silu'):
        Dimensions.read(tmp_path / 'edge')
