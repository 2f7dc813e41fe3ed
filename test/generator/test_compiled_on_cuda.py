"""On a GPU the compiled backend answers as on a CPU: every shape, every mode."""

import numpy as np
import pytest
from test_compiled_backend import SHAPES, build, compiled, prefix, request, texts
import torch

from cosmos3_ros.generator.action_layout import ActionLayout
from cosmos3_ros.generator.denoise import Request
from cosmos3_ros.generator.guidance import Guidance
from cosmos3_ros.generator.sampler import schedule

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='this needs an NVIDIA GPU')

NEAR = 1e-4  # both in float32, but sums in other orders, four steps long


@pytest.fixture(scope='module')
def models():
    return {name: build(name) for name in SHAPES}


@pytest.mark.parametrize('name', SHAPES)
@pytest.mark.parametrize('batched', [True, False])
def test_rows_are_those_of_the_cpu(models, name, batched):
    for asked in (request(name), request(name, 4, prefix())):
        want = compiled(models[name]).denoise(*texts(name), asked)
        device = compiled(models[name], device='cuda', batched=batched)
        got = device.denoise(*texts(name), asked)
        assert np.abs(got - want).max() <= NEAR and np.abs(got[1:]).max() > 0.1
        assert device.denoise(*texts(name), asked).tobytes() == got.tobytes()
        device.forget()
        assert device.denoise(*texts(name), asked).tobytes() == got.tobytes()


@pytest.mark.parametrize('guidance', [Guidance(1.0), Guidance(2.0)])
def test_dynamics_are_those_of_the_cpu(models, guidance):
    forward, frames = ActionLayout(4, 10, 7, mode='forward_dynamics'), 2
    torch.manual_seed(3)
    latent, film = torch.randn(1, 48, 1, 3, 4), torch.randn(1, 48, frames, 3, 4)
    moves = torch.randn(4, 10).numpy()
    inverse = forward.of_mode('inverse_dynamics')
    nothing = np.zeros((0, 10), np.float32)
    made = {}
    for device in ('cpu', 'cuda'):
        of = compiled(models['micro'], schedule(2, 10.0), guidance, device, layout=forward)
        made[device] = (
            of.imagine((1, 2), (3,), Request(latent, moves, frames, 64, 0, layout=forward)).cpu().numpy(),
            of.denoise((1, 2), (3,), Request(film, nothing, frames, 64, 0, layout=inverse)))
    for ours, theirs in zip(made['cuda'], made['cpu'], strict=True):
        assert ours.shape == theirs.shape and np.abs(ours - theirs).max() <= NEAR * np.abs(theirs).max()


@pytest.mark.parametrize('name', ['micro', 'wide', 'edge'])
@pytest.mark.parametrize('batched', [True, False])
def test_float8_drifts_little_and_repeats_itself(models, name, batched):
    want = compiled(models[name]).denoise(*texts(name), request(name))
    device = compiled(models[name], device='cuda', dtype=torch.bfloat16, float8=True, batched=batched)
    got = device.denoise(*texts(name), request(name))
    assert device.denoise(*texts(name), request(name)).tobytes() == got.tobytes()
    assert 1e-4 < np.abs(got - want).mean() < 0.2 * np.abs(want).mean()

