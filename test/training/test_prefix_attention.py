"""Attention in two parts is attention under the whole mask, whatever the mask of the rest."""

from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st
import torch

from cosmos3_ros.reasoner.model_loading import load_model
from cosmos3_ros.training import prefix_attention

MODULE = SimpleNamespace(num_key_value_groups=3, is_causal=True)


def states(tokens, seed):
    drawn = torch.Generator().manual_seed(seed)
    return [torch.randn(2, heads, tokens, 8, generator=drawn, requires_grad=True) for heads in (6, 2, 2)]


@settings(max_examples=30, deadline=None)
@given(tokens=st.integers(4, 20), shared=st.integers(0, 3), seed=st.integers(0, 99))
def test_it_is_attention_under_the_whole_mask(tokens, shared, seed):
    whole = torch.ones(tokens, tokens, dtype=torch.bool).tril().repeat(2, 1, 1, 1)
    hidden = torch.rand(2, 1, tokens, tokens, generator=torch.Generator().manual_seed(seed)) < 0.4
    hidden[:, :, :shared] = False
    whole = (whole & ~hidden) | torch.eye(tokens, dtype=torch.bool)
    query, key, value = states(tokens, seed)
    weight = torch.randn(2, tokens, 6, 8, generator=torch.Generator().manual_seed(seed + 1))
    results = []
    for mask, count in ((whole, shared), (whole, 0)):
        got, _ = prefix_attention.attend(
            MODULE, query, key, value, mask, shared=count, scaling=0.3, dropout=0.0)
        gradients = torch.autograd.grad((got * weight).sum(), (query, key, value))
        results.append((got.detach(), *gradients))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_without_a_mask_it_is_causal():
    query, key, value = (s.detach() for s in states(7, 0))
    causal = torch.ones(2, 1, 7, 7, dtype=torch.bool).tril()
    one, other = (prefix_attention.attend(MODULE, query, key, value, mask, scaling=0.3)[0]
                  for mask in (None, causal))
    torch.testing.assert_close(one, other)


def test_a_model_answers_as_before(micro_directory):
    model, _ = load_model(micro_directory, torch.float32, 'cpu')
    ids = torch.arange(1, 20)[None]
    before = model(input_ids=ids).logits
    prefix_attention.use(model.model.language_model)
    assert torch.equal(model(input_ids=ids).logits, before)
    layer, hidden = model.model.language_model.layers[0], torch.randn(1, 9, model.lm_head.in_features)
    turns = model.model.language_model.rotary_emb(hidden, torch.arange(9).expand(3, 1, 9))
    # Of the tokens that are shared the mask is not read: here it would say something else.
    mask = torch.ones(1, 1, 9, 9, dtype=torch.bool).tril()
    mask[:, :, :4] = torch.eye(9, dtype=torch.bool)[:4]
    causal = layer(hidden, position_embeddings=turns, attention_mask=None)
    got = layer(hidden, position_embeddings=turns, attention_mask=mask, shared=4)
    torch.testing.assert_close(got, causal)
    without = layer(hidden, position_embeddings=turns, attention_mask=mask)
    assert float((without - causal)[:, 1:4].abs().max()) > 1e-3
