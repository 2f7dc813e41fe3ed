from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from reasoner_fakes import make_clip

from cosmos3_ros.contracts import ContractError
from cosmos3_ros.reasoner import PromptBook
from cosmos3_ros.reasoner.efficient_video_sampling import kept_tokens, retention_mask

torch = pytest.importorskip('torch', reason='the extra model is not installed')


def slow_mask(embeddings, patches, rate):
    """Return the mask by the book: loops, Python floats, a stable sort."""
    rows = embeddings.double().numpy()
    tokens = len(rows) // patches
    distances = []
    for t in range(patches):
        for p in range(tokens):
            if t == 0:
                distances.append(255.0)
                continue
            a, b = rows[t * tokens + p], rows[(t - 1) * tokens + p]
            distances.append(1.0 - float(a @ b) / (float(np.linalg.norm(a)) * float(np.linalg.norm(b))))
    ranked = sorted(range(len(rows)), key=lambda i: -distances[i])
    kept = set(ranked[: max(tokens, int(patches * tokens * (1.0 - rate)))])
    return [i in kept for i in range(len(rows))]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.integers(1, 12), st.floats(0, 0.99), st.integers(0, 2**31))
def test_the_mask_is_that_of_the_slow_implementation(patches, tokens, rate, seed):
    embeddings = torch.from_numpy(np.random.RandomState(seed).standard_normal((patches * tokens, 16))).float()
    assert retention_mask(embeddings, patches, rate).tolist() == slow_mask(embeddings, patches, rate)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.integers(1, 12), st.floats(0, 0.99), st.integers(0, 2**31))
def test_first_patch_stays_and_the_count_is_exact(patches, tokens, rate, seed):
    embeddings = torch.from_numpy(np.random.RandomState(seed).standard_normal((patches * tokens, 8))).float()
    mask = retention_mask(embeddings, patches, rate)
    assert mask[:tokens].all()
    assert (
        int(mask.sum())
        == kept_tokens(patches, tokens, rate)
        == max(tokens, int(patches * tokens * (1 - rate)))
    )


def test_a_still_video_keeps_the_earliest_and_a_moving_token_wins():
    still = torch.ones(4 * 5, 8)
    assert retention_mask(still, 4, 0.5).tolist() == [True] * 10 + [False] * 10
    still[3 * 5 + 2] *= -1
    mask = retention_mask(still, 4, 0.7).tolist()
    assert mask == [True] * 5 + [True] + [False] * 11 + [True] + [False] * 2 or mask[17]
    assert mask[17] and sum(mask) == 6


@pytest.mark.parametrize('rate', [-0.1, 1.0, float('nan'), 2.0])
def test_other_rates_are_refused(rate):
    with pytest.raises(ContractError, match='video_pruning_rate'):
        retention_mask(torch.ones(4, 2), 2, rate)


@pytest.mark.parametrize('tokens, patches', [(5, 2), (0, 1), (4, 0)])
def test_embeddings_that_cannot_be_split_are_refused(tokens, patches):
    with pytest.raises(ContractError, match='embeddings'):
        retention_mask(torch.ones(tokens, 2), patches, 0.5)


def prompt_tensors(backend, clips):
    from cosmos3_ros.reasoner.video_prompt import build_prompt

    question = PromptBook.load().ask('scene_report', instruction='lift', cameras='a')
    prompt = build_prompt(backend._tokenizer, clips, question, backend._settings)
    return prompt


def tensors(prompt):
    return prompt.input_ids, prompt.mm_token_type_ids, prompt.pixel_values_videos, prompt.video_grid_thw


CLIPS = [make_clip('a', 6, 96, 64, seed=1), make_clip('b', 4, 64, 96, seed=2)]


@torch.inference_mode()
def test_pruning_nothing_generates_what_no_pruning_generates(backend):
    from cosmos3_ros.reasoner.transformers_backend import pruned_inputs

    prompt = prompt_tensors(backend, CLIPS)
    ids, types, pixels, grid = tensors(prompt)
    plain = backend._model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=types,
        pixel_values_videos=pixels,
        video_grid_thw=grid,
        max_new_tokens=24,
        do_sample=False,
    )
    unpruned = backend._model.generate(
        **pruned_inputs(backend._model, prompt, 0.0), max_new_tokens=24, do_sample=False
    )
    assert plain.tolist() == unpruned.tolist()


@torch.inference_mode()
def test_what_stays_keeps_its_position_and_text_follows_the_full_grid(backend):
    from cosmos3_ros.reasoner.transformers_backend import pruned_inputs

    prompt = prompt_tensors(backend, CLIPS)
    ids, types, _, grid = tensors(prompt)
    full, _ = backend._model.model.get_rope_index(ids, types, video_grid_thw=grid)
    inputs = pruned_inputs(backend._model, prompt, 0.5)
    # 3 x 6 and 2 x 6 vision tokens; half of each stays.
    assert inputs['input_ids'].shape[1] == ids.shape[1] - 9 - 6
    positions = inputs['position_ids']
    assert positions[0, 0].tolist() == list(range(inputs['input_ids'].shape[1]))
    kept = {tuple(column) for column in full[:, 0].T.tolist()}
    assert {tuple(column) for column in positions[1:, 0].T.tolist()} <= kept
    assert positions[1:, 0, -1].tolist() == full[:, 0, -1].tolist()
    text = types[0] == 0
    assert (
        inputs['input_ids'][0][inputs['input_ids'][0] != ids[0][~text][0]].tolist() == ids[0][text].tolist()
    )


@torch.inference_mode()
def test_pruned_logits_are_those_of_a_model_that_cannot_see_the_pruned(backend):
    """Masking the pruned tokens out of attention must equal leaving them out."""
    from cosmos3_ros.reasoner.transformers_backend import pruned_inputs

    model = backend._model
    prompt = prompt_tensors(backend, CLIPS[:1])
    ids, types, pixels, grid = tensors(prompt)
    inputs = pruned_inputs(model, prompt, 0.5)
    left_out = model(**inputs).logits[0, -1]
    vision = model.model.get_video_features(pixels, grid, return_dict=True)
    mask = retention_mask(vision.pooler_output[0], 3, 0.5)
    attention = torch.ones_like(ids)
    attention[0, types[0] != 0] = mask.long()
    full, _ = model.model.get_rope_index(ids, types, video_grid_thw=grid)
    masked = model(
        input_ids=ids,
        attention_mask=attention,
        pixel_values_videos=pixels,
        video_grid_thw=grid,
        position_ids=torch.cat([torch.arange(ids.shape[1]).view(1, 1, -1), full]),
    ).logits[0, -1]
    assert torch.allclose(left_out, masked, atol=1e-4) and not torch.allclose(
        left_out,
        model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=types,
            pixel_values_videos=pixels,
            video_grid_thw=grid,
        ).logits[0, -1],
        atol=1e-4,
    )
