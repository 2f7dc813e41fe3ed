"""What keeps a policy from knowing a scene by its look."""

import numpy as np
import pytest
import torch

from cosmos3_ros.training.flow_matching import blur_observation
from cosmos3_ros.training.latent_windows import change_look, draw_looks


def pictures(seed=0):
    return torch.rand((3, 3, 2, 4, 5), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1.0


def test_a_look_of_ones_changes_nothing():
    shown = pictures()
    assert torch.allclose(change_look(shown, torch.ones(3, 3)), shown, atol=1e-6)


def test_brightness_scales_and_contrast_keeps_the_mean():
    shown = pictures() * 0.2  # far from black and white: nothing is clipped
    values = (shown + 1.0) / 2.0
    darker = change_look(shown, torch.tensor([[0.5, 1.0, 1.0]] * 3))
    assert torch.allclose((darker + 1.0) / 2.0, values * 0.5, atol=1e-6)
    flat = change_look(shown, torch.tensor([[1.0, 0.5, 1.0]] * 3))
    assert torch.allclose(flat.flatten(1).mean(1), shown.flatten(1).mean(1), atol=1e-5)
    assert torch.allclose(flat.flatten(1).std(1), shown.flatten(1).std(1) * 0.5, rtol=1e-4)


def test_no_saturation_is_grey():
    grey = change_look(pictures(), torch.tensor([[1.0, 1.0, 0.0]] * 3))
    assert torch.allclose(grey[:, :1].expand_as(grey), grey, atol=1e-6)


def test_every_clip_has_its_own_look_and_stays_in_range():
    shown = pictures()
    looks = torch.tensor([[1.9, 1.9, 1.9], [1.0, 1.0, 1.0], [0.1, 0.1, 0.1]])
    changed = change_look(shown, looks)
    assert changed.min() >= -1.0 and changed.max() <= 1.0
    assert torch.allclose(changed[1], shown[1], atol=1e-6)
    assert not torch.allclose(changed[0], shown[0], atol=0.1)


def test_looks_are_drawn_alike_for_the_same_seed_and_in_range():
    one, other = draw_looks(50, 0.3, 4), draw_looks(50, 0.3, 4)
    assert np.array_equal(one, other) and not np.array_equal(one, draw_looks(50, 0.3, 5))
    assert one.dtype == np.float32 and one.min() >= 0.7 and one.max() <= 1.3 and one.std() > 0.1


def test_only_the_observation_is_blurred():
    latents = torch.randn((64, 4, 3, 6, 6), generator=torch.Generator().manual_seed(0))
    blurred = blur_observation(latents, 0.5, torch.Generator().manual_seed(1))
    assert torch.equal(blurred[:, :, 1:], latents[:, :, 1:])
    deviations = (blurred - latents)[:, :, 0].flatten(1).std(1)
    assert deviations.min() > 0.0 and deviations.max() < 0.6
    # Uniform in 0..0.5: its mean is a quarter.
    assert deviations.mean() == pytest.approx(0.25, abs=0.06)
