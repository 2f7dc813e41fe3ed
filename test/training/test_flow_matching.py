"""Noise, targets and sampling agree with what the policy integrates."""

import numpy as np
import pytest
from synthetic_recordings import make_recording
import torch

from cosmos3_ros.generator.denoise import Request, denoise
from cosmos3_ros.generator.diffusers_backend import DiffusersBranch
from cosmos3_ros.generator.guidance import Guidance
from cosmos3_ros.generator.sampler import schedule
from cosmos3_ros.model.batched_step import BatchedStep
from cosmos3_ros.training.batched_policy import denoise_batch
from cosmos3_ros.training.flow_matching import add_noise, draw_levels, flow_losses
from cosmos3_ros.training.objective import noise_generator
from cosmos3_ros.training.settings import GeneratorSettings, OptimiserSettings

OPTIMISER = OptimiserSettings(steps=1, batch=1, learning_rate=1e-3)


def draw(count=5, **more):
    settings = GeneratorSettings(OPTIMISER, **more)
    generator = noise_generator('cpu', 1, 2, 3)
    latents = torch.randn(count, 48, 3, 4, 4)
    rows = torch.randn(count, 33, 8)
    levels = draw_levels(settings, count, generator)
    return settings, latents, rows, levels, add_noise(latents, rows, levels, 64, generator)


def test_a_step_along_the_target_gives_the_sample_back():
    """``x - s v = x0``: what the sampler's last step does."""
    _, latents, rows, levels, noisy = draw()
    scale = levels.view(-1, 1, 1)
    torch.testing.assert_close(noisy.action[:, 1:, :8] - scale * noisy.action_velocity, rows[:, 1:])
    back = noisy.vision[:, :, 1:] - scale[..., None, None] * noisy.vision_velocity
    torch.testing.assert_close(back, latents[:, :, 1:])


def test_what_is_clean_stays_clean():
    _, latents, rows, levels, noisy = draw()
    assert torch.equal(noisy.vision[:, :, 0], latents[:, :, 0])
    assert torch.equal(noisy.action[:, 0, :8], rows[:, 0])
    assert not noisy.action[:, :, 8:].any()
    torch.testing.assert_close(noisy.timesteps, 1000.0 * levels)


def test_levels_follow_the_shift():
    settings = GeneratorSettings(OPTIMISER, shift=5.0)
    levels = draw_levels(settings, 20_000, noise_generator('cpu', 0))
    assert bool(((levels > 0.0) & (levels < 1.0)).all())
    # The median of a logit-normal is a half, and 5/2 / (1 + 4/2) is five sixths.
    assert abs(float(levels.median()) - 5.0 / 6.0) < 0.01
    uniform = draw_levels(GeneratorSettings(OPTIMISER, uniform_share=1.0), 20_000, noise_generator('cpu', 0))
    assert float((uniform > 0.99).float().mean()) > 5 * float((levels > 0.99).float().mean())


def test_losses_weigh_rows_and_modalities():
    settings, _, _, _, noisy = draw(action_weight=10.0, loss_scale=10.0)
    vision = torch.cat([torch.zeros_like(noisy.vision[:, :, :1]), noisy.vision_velocity], dim=2)
    action = torch.nn.functional.pad(noisy.action_velocity, (0, 56, 1, 0))
    weights = torch.ones(5, 32)
    assert float(flow_losses(vision, action, noisy, weights, settings)['loss']) == 0.0
    action[:, 20] += 1.0
    wrong = flow_losses(vision, action, noisy, weights, settings)
    assert float(wrong['action_loss']) == pytest.approx(1.0 / 32.0, rel=1e-5)
    assert float(wrong['loss']) == pytest.approx(100.0 / 32.0, rel=1e-5)
    weights[:, 19] = 0.0
    assert float(flow_losses(vision, action, noisy, weights, settings)['loss']) == 0.0
    seen = torch.ones_like(noisy.vision_velocity[:, 0, :, 0, 0])
    vision[:, :, -1] += 1.0
    assert float(flow_losses(vision, action, noisy, weights, settings, seen)['video_loss']) > 0.0
    seen[:, -1] = 0.0
    assert float(flow_losses(vision, action, noisy, weights, settings, seen)['loss']) == 0.0


def test_noise_belongs_to_its_numbers():
    one, same, other = (
        torch.randn(4, generator=noise_generator('cpu', *numbers)) for numbers in ((1, 2), (1, 2), (2, 1)))
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize('scale', [1.0, 3.0])
def test_batched_chunks_are_the_policys(micro_directory, scale):
    from cosmos3_ros.model.checkpoint import Checkpoint
    from cosmos3_ros.model.loading import load_transformer

    torch.set_num_threads(1)
    model = load_transformer(Checkpoint.open(micro_directory), 'cpu', 'float32')
    texts, empty = [(5, 9, 200, 17), (3, 4, 5, 6, 7, 8)], (1, 2)
    recording = make_recording(frames=40)
    clean = torch.randn(2, 48, 1, 3, 4, generator=torch.Generator().manual_seed(4))
    step, plan, guidance = BatchedStep(model), schedule(4, 5.0), Guidance(scale)
    rows = denoise_batch(
        step, step.contexts(texts), step.contexts([empty, empty]), clean, recording.state[:2], plan, guidance,
        [11, 12], 9)
    for i, text in enumerate(texts):
        branches = [DiffusersBranch(model, torch.tensor(ids), (9, 3, 4)) for ids in (text, empty)]
        request = Request(clean[i:i + 1], recording.state[i], 9, 64, 11 + i)
        alone = denoise(branches[0], branches[1], request, plan, guidance)
        np.testing.assert_allclose(rows[i], alone, rtol=0.0, atol=2e-5)
