"""Every sample of a batch is what diffusers' own forward makes of it alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cosmos3_ros.model.batched_step import BatchedStep
from cosmos3_ros.model.sequence_pack import SequencePack
from cosmos3_ros.model.tiny import PRESETS, transformer_config

MICRO = PRESETS['micro']
EDGE = {'hidden_act': 'relu2', 'qk_norm_for_text': False, 'use_und_k_norm_for_gen': True}


def make_transformer(preset=MICRO, seed=0, **more):
    from diffusers import Cosmos3OmniTransformer

    from cosmos3_ros.model.random_weights import draw

    torch.set_num_threads(1)
    model = Cosmos3OmniTransformer(**transformer_config(preset, 512), **more)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(draw(name, tuple(parameter.shape), seed)))
            if parameter.ndim == 1:  # biases and norms that a test can see
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model.requires_grad_(False)


def draw_batch(lengths, latent_shape, rows, seed=0):
    random = np.random.RandomState(seed)
    texts = [tuple(int(i) for i in random.randint(0, 512, n)) for n in lengths]
    vision = torch.from_numpy(random.standard_normal((len(lengths), 48, *latent_shape)).astype(np.float32))
    action = torch.from_numpy(random.standard_normal((len(lengths), rows, 64)).astype(np.float32))
    timesteps = torch.from_numpy(random.uniform(1.0, 999.0, len(lengths)).astype(np.float32))
    domains = torch.from_numpy(random.randint(0, 32, len(lengths)))
    return texts, vision, action, timesteps, domains


def assert_equal(got, expected):
    """To 1e-6 of the largest value: float32's own rounding is 6e-8 of each."""
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(got, expected, rtol=0.0, atol=1e-6 * scale)


def reference(model, text, vision, action, timesteps, domain):
    pack = SequencePack(len(text), tuple(vision.shape[1:]), len(action))
    arguments = pack.forward_arguments(torch.tensor(text), int(domain))
    noisy = (pack.grid[0] - 1) * pack.patches_per_frame
    video, _, actions = model(
        **arguments, vision_tokens=[vision[None]], action_tokens=[action],
        vision_timesteps=torch.full((noisy,), float(timesteps[0])),
        action_timesteps=torch.full((len(action) - 1,), float(timesteps[-1])), return_dict=False)
    return video[0][0], actions[0]


@pytest.mark.parametrize('config', [{}, EDGE], ids=['nano', 'edge'])
@pytest.mark.parametrize(('lengths', 'latent_shape', 'rows'), [
    ((17,), (9, 3, 4), 33),
    ((17, 17, 17), (9, 3, 4), 33),
    ((5, 40, 23), (3, 4, 4), 9),
    ((31, 8), (2, 5, 3), 5),
    ((17, 6), (1, 3, 4), 33),
])
def test_batch_equals_forward(config, lengths, latent_shape, rows):
    model = make_transformer(**config)
    texts, vision, action, timesteps, domains = draw_batch(lengths, latent_shape, rows)
    step = BatchedStep(model)
    with torch.inference_mode():
        video, actions = step.velocity(step.contexts(texts), vision, action, timesteps, domains)
        for i, text in enumerate(texts):
            expected = reference(model, text, vision[i], action[i], timesteps[i:i + 1], domains[i])
            assert_equal(video[i], expected[0])
            assert_equal(actions[i], expected[1])
    assert latent_shape[0] == 1 or float(video.abs().max()) > 0.1
    assert float(actions.abs().max()) > 0.1
    assert not video[:, :, 0].any() and not actions[:, 0].any()


def test_modalities_may_have_different_times():
    model = make_transformer()
    texts, vision, action, _, domains = draw_batch((9, 12), (3, 4, 4), 9)
    times = torch.tensor([[900.0, 100.0], [20.0, 700.0]])
    step = BatchedStep(model)
    with torch.inference_mode():
        video, actions = step.velocity(step.contexts(texts), vision, action, times, domains)
        for i, text in enumerate(texts):
            expected = reference(model, text, vision[i], action[i], times[i], domains[i])
            assert_equal(video[i], expected[0])
            assert_equal(actions[i], expected[1])


def test_selected_contexts_are_those_computed_alone():
    step = BatchedStep(make_transformer())
    texts, vision, action, timesteps, domains = draw_batch((9, 12, 5), (3, 4, 4), 9)
    with torch.inference_mode():
        chosen = step.contexts(texts).select([2, 0, 2])
        assert chosen.lengths == (5, 9, 5) and chosen.keys[0].shape[1] == 12
        got = step.velocity(chosen, vision, action, timesteps, domains)
        alone = step.velocity(
            step.contexts([texts[2], texts[0], texts[2]]), vision, action, timesteps, domains)
    for one, other in zip(got, alone, strict=True):
        assert_equal(one, other)


def test_gradients_are_those_of_forward():
    model = make_transformer()
    texts, vision, action, timesteps, domains = draw_batch((7, 11), (2, 4, 4), 5)
    step = BatchedStep(model)
    names = [n for n, _ in model.named_parameters() if 'lm_head' not in n]

    def gradients(loss):
        model.requires_grad_(True).zero_grad()
        loss().backward()
        found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        model.requires_grad_(False)
        return found

    def batched():
        video, actions = step.velocity(step.contexts(texts), vision, action, timesteps, domains)
        return video.square().mean() + actions.square().mean()

    def one_by_one():
        pairs = [reference(model, t, vision[i], action[i], timesteps[i:i + 1], domains[i])
                 for i, t in enumerate(texts)]
        return sum(v.square().mean() + a.square().mean() for v, a in pairs) / len(pairs)

    ours, theirs = gradients(batched), gradients(one_by_one)
    for name in names:
        if name not in theirs or not theirs[name].any():  # the last text layer is not read
            assert name not in ours or not ours[name].any()
            continue
        scale = float(theirs[name].abs().max())
        torch.testing.assert_close(ours[name], theirs[name], rtol=0.0, atol=2e-5 * max(scale, 1.0))
    assert any('add_q_proj' in n for n in ours) and any('.to_k' in n for n in ours)


def test_nano_view_geometry():
    """Odd latents, as Nano's 33 x 40 are: the padding's velocities are cut off again."""
    model = make_transformer(replace(MICRO, layers=1))
    texts, vision, action, timesteps, domains = draw_batch((6, 9), (2, 33, 40), 5)
    step = BatchedStep(model)
    with torch.inference_mode():
        video, _ = step.velocity(step.contexts(texts), vision, action, timesteps, domains)
        expected, _ = reference(model, texts[1], vision[1], action[1], timesteps[1:2], domains[1])
    assert video.shape == vision.shape
    assert_equal(video[1], expected)
