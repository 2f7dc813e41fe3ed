"""One encoded frame is what thirty-three would give for it."""

import numpy as np
import pytest
import torch

from cosmos3_ros.model.loading import load_vae
from cosmos3_ros.model.observation_encoder import ObservationEncoder


@pytest.fixture(scope='module')
def vae(micro):
    return load_vae(micro, 'cpu', 'float32')


@pytest.fixture(scope='module')
def pixels():
    return np.random.default_rng(0).uniform(-1, 1, (3, 64, 64)).astype(np.float32)


@pytest.mark.parametrize('rest', ['zeros', 'repeated', 'noise'])
def test_latent_0_of_33_frames_is_the_latent_of_one(vae, pixels, rest):
    clip = torch.from_numpy(pixels)[None, :, None].repeat(1, 1, 33, 1, 1)
    if rest == 'zeros':
        clip[:, :, 1:] = 0.0
    elif rest == 'noise':
        clip[:, :, 1:] = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, clip[:, :, 1:].shape))
    features = []
    hook = vae.quant_conv.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    with torch.inference_mode():
        whole = vae.encode(clip).latent_dist.mode()
    one = ObservationEncoder(vae).encode(pixels, 4, 4)
    hook.remove()
    assert whole.shape == (1, 48, 9, 4, 4) and torch.equal(whole[:, :, :1], one)
    assert torch.equal(features[0][:, :, :1], features[1])


def test_on_a_few_latents_only_the_last_matrix_product_rounds_differently(vae, pixels):
    # A product over 9 x 6 columns may be summed in another order than one over 6.
    clip = torch.from_numpy(pixels[:, :32, :48])[None, :, None].repeat(1, 1, 33, 1, 1)
    with torch.inference_mode():
        whole = vae.encode(clip).latent_dist.mode()
    one = ObservationEncoder(vae).encode(np.ascontiguousarray(pixels[:, :32, :48]), 2, 3)
    assert (whole[:, :, :1] - one).abs().max() <= 1e-6


def test_equals_the_pipelines_normalised_latents(pipeline, pixels):
    torch.manual_seed(0)
    pipeline._vae_latents_mean = torch.randn(48)
    pipeline._vae_latents_inv_std = 1.0 / (torch.rand(48) + 0.5)
    encoder = ObservationEncoder(pipeline.vae)
    encoder._mean = pipeline._vae_latents_mean.view(1, -1, 1, 1, 1)
    encoder._inverse_std = pipeline._vae_latents_inv_std.view(1, -1, 1, 1, 1)
    with torch.inference_mode():
        theirs = pipeline._encode_video(torch.from_numpy(pixels)[None, :, None])
    assert torch.equal(theirs, encoder.encode(pixels, 4, 4))
    assert torch.equal(theirs[..., :3, :2], encoder.encode(pixels, 3, 2))


def test_an_encoder_of_first_frames_only_agrees_and_is_smaller(micro, vae, pixels):
    small = load_vae(micro, 'cpu', 'float32')
    size = sum(p.numel() for p in small.parameters())
    encoder = ObservationEncoder(small, 'cpu', frame_only=True)
    left = sum(t.numel() for t in (*small.parameters(), *small.buffers()))
    assert left < size / 3
    difference = encoder.encode(pixels, 4, 4) - ObservationEncoder(vae).encode(pixels, 4, 4)
    assert 0 <= difference.abs().max() <= 2e-6
