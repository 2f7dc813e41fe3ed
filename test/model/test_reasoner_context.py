"""The context is exactly what the full forward computes, whatever is generated after it."""

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch

from cosmos3_ros.model.checkpoint import CheckpointError
from cosmos3_ros.model.reasoner_context import (
    ContextCache,
    ReasonerContext,
    context_identity,
)
from cosmos3_ros.model.sequence_pack import SequencePack
from cosmos3_ros.model.understanding_tower import UnderstandingTower
from cosmos3_ros.model.weight_source import CheckpointWeights, ModuleWeights


def compute_context(transformer, ids, weights, **options):
    tower = UnderstandingTower(ModuleWeights(transformer), 'cpu', torch.float32, weights, **options)
    return tower.contexts([ids])[0]


def full_forward_keys_and_values(monkeypatch, transformer, ids, seed):
    """Run diffusers' own forward and note the text's part of what the generation tower attends to."""
    from diffusers.models.transformers import transformer_cosmos3 as module

    seen, dispatch = [], module.dispatch_attention_fn

    def spy(query, key, value, **options):
        if not options.get('is_causal'):
            seen.append((key[0, :len(ids)].clone(), value[0, :len(ids)].clone()))
        return dispatch(query, key, value, **options)

    monkeypatch.setattr(module, 'dispatch_attention_fn', spy)
    pack = SequencePack(text_length=len(ids), latent_shape=(2, 3, 4), action_rows=5)
    torch.manual_seed(seed)
    with torch.inference_mode():
        transformer(
            **pack.forward_arguments(torch.tensor(ids), 8), vision_tokens=[torch.randn(1, 48, 2, 3, 4)],
            vision_timesteps=torch.full((4,), float(seed)), action_tokens=[torch.randn(5, 64)],
            action_timesteps=torch.full((4,), float(seed)), return_dict=False)
    return seen


@pytest.mark.parametrize('seed', [1, 900])
def test_equals_the_decoder_stack_bit_for_bit(monkeypatch, transformer, seed):
    ids = [(7 * i) % 300 for i in range(37)]
    context = compute_context(transformer, ids, 'weights')
    seen = full_forward_keys_and_values(monkeypatch, transformer, ids, seed)
    assert len(seen) == len(context.keys) == 2
    for (key, value), ours_key, ours_value in zip(seen, context.keys, context.values, strict=True):
        assert torch.equal(key, ours_key) and torch.equal(value, ours_value)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(
        (*one.keys, *one.values), (*other.keys, *other.values), strict=True))


def test_streamed_from_files_or_kept_is_the_same(micro, transformer):
    ids = [5, 6, 7, 250]
    want = compute_context(transformer, ids, 'w')
    source = CheckpointWeights(micro)
    for resident in (False, True):
        tower = UnderstandingTower(source, 'cpu', torch.float32, 'w', resident=resident)
        together = tower.contexts([[1, 2], ids])
        assert same(together[1], want) and together[1].identity == want.identity
        assert same(tower.contexts([ids])[0], want)


def test_size(transformer):
    context = compute_context(transformer, range(10), 'weights')
    layers, heads, width = 2, 2, 16
    assert context.length == 10 and context.size_bytes == 10 * layers * 2 * heads * width * 4


def test_saved_and_loaded(transformer, tmp_path):
    context = compute_context(transformer, [5, 6, 7], 'weights')
    context.save(tmp_path / 'context.safetensors')
    loaded = ReasonerContext.load(tmp_path / 'context.safetensors', context.identity)
    assert all(torch.equal(a, b) for a, b in zip(
        (*context.keys, *context.values), (*loaded.keys, *loaded.values), strict=True))
    other = context_identity('other weights', [5, 6, 7], 'torch.float32')
    with pytest.raises(CheckpointError, match=f'is of {context.identity}, {other} is needed'):
        ReasonerContext.load(tmp_path / 'context.safetensors', other)


def test_identity_tells_weights_text_and_precision_apart():
    same = context_identity('w', [1, 23], 'float32')
    assert same == context_identity('w', (1, 23), 'float32')
    assert len({same, context_identity('v', [1, 23], 'float32'), context_identity('w', [12, 3], 'float32'),
                context_identity('w', [1, 23], 'bfloat16')}) == 4


@settings(max_examples=60, deadline=None)
@given(capacity=st.integers(1, 4), requests=st.lists(st.integers(0, 6), max_size=40))
def test_the_cache_keeps_the_last_used(capacity, requests):
    computed = []

    def compute(ids):
        computed.append(ids)
        return ReasonerContext((torch.zeros(1, 1, 2),), (torch.zeros(1, 1, 2),), str(ids))

    cache, model = ContextCache(compute, capacity), []
    for request in requests:
        hit = request in model
        before = len(computed)
        assert cache.get([request]).identity == str((request,))
        assert len(computed) == before + (not hit)
        model = [*(r for r in model if r != request), request][-capacity:]
    assert cache.hits + cache.misses == len(requests) and cache.misses == len(computed)


def test_a_cache_of_nothing_is_refused():
    with pytest.raises(CheckpointError, match='capacity 0'):
        ContextCache(lambda ids: None, 0)
