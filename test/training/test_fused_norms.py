"""Norms fused with their activations give what diffusers gives, in values, gradients and names."""

import copy

import pytest
import torch

from cosmos3_ros.model.checkpoint import Checkpoint
from cosmos3_ros.model.loading import load_vae
from cosmos3_ros.training import fused_norms
from cosmos3_ros.training.fused_norms import fuse_norms, normalise


@pytest.fixture
def vae(micro_directory):
    torch.set_num_threads(1)
    return load_vae(Checkpoint.open(micro_directory), 'cpu', 'float32').requires_grad_(True)


@pytest.fixture
def not_compiled(monkeypatch):
    monkeypatch.setattr(fused_norms.torch, 'compile', lambda function, **_: function)


def loss_and_gradients(vae, clips, autocast):
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        mean = vae.encode(clips).latent_dist.mean
        got = vae.decode(mean).sample.float()
    loss = (got - clips).square().mean()
    vae.zero_grad()
    loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in vae.named_parameters()}


def norms(vae):
    return [m for m in vae.modules() if type(m).__name__ == 'WanRMS_norm']


def clips_of_noise():
    return torch.rand(2, 3, 5, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_values_and_gradients_are_those_of_diffusers(vae, not_compiled):
    other = copy.deepcopy(vae)
    # All but those of attention, which no activation follows.
    assert fuse_norms(vae) == sum(norm.gamma.ndim == 4 for norm in norms(vae)) > 0
    one, other = (loss_and_gradients(each, clips_of_noise(), False) for each in (vae, other))
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        size = float(other[1][name].norm())
        assert float((gradient - other[1][name]).norm()) <= 2e-5 * size + 1e-9, name


def test_in_bfloat16_they_are_no_farther_from_the_truth(vae, not_compiled):
    other = copy.deepcopy(vae)
    truth = loss_and_gradients(vae, clips_of_noise(), False)
    fuse_norms(vae)
    errors = []
    for each in (vae, other):
        found = loss_and_gradients(each, clips_of_noise(), True)
        assert found[0] == pytest.approx(truth[0], rel=0.01)
        errors.append(sum(float((g - truth[1][name]).square().sum()) for name, g in found[1].items()) ** 0.5)
    assert errors[0] < 1.2 * errors[1]


def test_what_follows_a_norm_gets_autocasts_precision(vae, not_compiled):
    fuse_norms(vae)
    norm = next(norm for norm in norms(vae) if norm.gamma.ndim == 4)
    states = torch.rand(1, len(norm.gamma), 2, 4, 4)
    assert norm(states).dtype == torch.float32
    with torch.autocast('cpu', torch.bfloat16):
        assert norm(states).dtype == torch.bfloat16


def test_twice_changes_nothing_more_and_where_nothing_is_gradients_are_finite(vae, not_compiled):
    assert fuse_norms(vae) > 0 and fuse_norms(vae) == 0
    states = torch.zeros(1, 4, 1, 2, 2, requires_grad=True)
    normalise(states, torch.ones(4, 1, 1, 1), torch.float32).sum().backward()
    assert bool(states.grad.isfinite().all())


def test_compiled_is_the_same():
    states = torch.randn(3, 8, 2, 5, 6, requires_grad=True)
    weight = torch.rand(8, 1, 1, 1, requires_grad=True)
    found = []
    for function in (normalise, torch.compile(normalise, dynamic=True)):
        states.grad = weight.grad = None
        got = function(states, weight, torch.float32)
        got.square().sum().backward()
        found.append((got.detach(), states.grad.clone(), weight.grad.clone()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
