"""The picture reaches the VAE byte for byte as the reference lays it out."""

import numpy as np
import pytest
import torch

from cosmos3_ros.generator.composed_view import DROID_VIEW, View, place_on_canvas
from cosmos3_ros.model.loading import load_vae
from cosmos3_ros.model.observation_encoder import ObservationEncoder
from cosmos3_ros.model.picture_encoder import PictureEncoder


@pytest.fixture(scope='module')
def encoder(micro):
    return ObservationEncoder(load_vae(micro, 'cpu', 'float32'), 'cpu', frame_only=True)


def pictures(encoder, view):
    return PictureEncoder(
        encoder, (view.height, view.width), (view.canvas_height, view.canvas_width),
        (view.latent_height, view.latent_width))


@pytest.mark.parametrize('view', [
    DROID_VIEW, View.of(54, 64), View.of(144, 160), View(48, 32, 96, 32), View(48, 32, 64, 80)])
def test_the_canvas_is_the_references(encoder, view):
    picture = np.random.default_rng(0).integers(0, 256, (view.height, view.width, 3), dtype=np.uint8)
    ours = pictures(encoder, view)
    ours._picture.copy_(torch.from_numpy(picture))
    assert ours.canvas().numpy().tobytes() == place_on_canvas(picture, view).tobytes()


def test_the_latent_is_the_encoders(encoder):
    view = View.of(54, 64)
    ours = pictures(encoder, view)
    for seed in (0, 1):
        picture = np.random.default_rng(seed).integers(0, 256, (54, 64, 3), dtype=np.uint8)
        want = encoder.encode(place_on_canvas(picture, view), view.latent_height, view.latent_width)
        assert torch.equal(ours.encode(picture), want)
