"""Guidance with a tower per branch gives the chunk of one tower; FP8 and modes included."""

import numpy as np
import pytest
import test_compiled_backend as one
import torch

from cosmos3_ros.generator.action_layout import ActionLayout
from cosmos3_ros.generator.compiled_backend import CompiledBackend
from cosmos3_ros.generator.denoise import Request
from cosmos3_ros.generator.guidance import Guidance
from cosmos3_ros.generator.parallel_backend import ParallelBackend
from cosmos3_ros.generator.policy import PolicyError, create_policy
from cosmos3_ros.generator.sampler import schedule
from cosmos3_ros.model.checkpoint import CheckpointError
from cosmos3_ros.model.weight_source import ModuleWeights

LAYOUT = ActionLayout(8, 10, 7)


@pytest.fixture(scope='module')
def models():
    torch.set_num_threads(1)
    return {name: one.build(name) for name in ('micro', 'wide')}


def tower(model, plan, guidance, **options):
    return CompiledBackend(ModuleWeights(model), 'cpu', torch.float32, 'w', plan, guidance, **options)


@pytest.mark.parametrize('name', ['micro', 'wide'])
@pytest.mark.parametrize('guidance', [Guidance(3.0), Guidance(1.0), Guidance(2.0, (960, 1001))])
@pytest.mark.parametrize('tied', [False, True])
def test_two_towers_give_the_chunk_of_one(models, name, guidance, tied):
    plan, asked = schedule(4, 5.0), one.request(name, prefix=one.prefix() if tied else None)
    want = tower(models[name], plan, guidance, batched=False).denoise(*one.texts(name), asked)
    leader, follower = (tower(models[name], plan, guidance) for _ in range(2))
    both = ParallelBackend(leader, follower, plan, guidance)
    got = both.denoise(*one.texts(name), asked)
    assert got.tobytes() == want.tobytes()
    assert leader.contexts.misses == 1 and follower.contexts.misses == 1, 'a text per device'
    both.forget()
    assert both.denoise(*one.texts(name), asked).tobytes() == want.tobytes()


def test_two_towers_imagine_what_one_does(models):
    plan, guidance, layout = schedule(2, 10.0), Guidance(2.0), LAYOUT.of_mode('forward_dynamics')
    given = np.random.default_rng(0).normal(size=(8, 10)).astype(np.float32)
    asked = Request(torch.randn(1, 48, 1, 3, 4), given, 3, 64, 1, layout=layout)
    want = tower(models['micro'], plan, guidance, batched=False, layout=LAYOUT).imagine((1, 2), (3,), asked)
    towers = [tower(models['micro'], plan, guidance, layout=LAYOUT) for _ in range(2)]
    both = ParallelBackend(*towers, plan, guidance)
    assert torch.equal(both.imagine((1, 2), (3,), asked), want)


def test_towers_with_other_heads_are_refused(models):
    plan, guidance = schedule(2, 10.0), Guidance(2.0)
    with pytest.raises(PolicyError, match=r'\(7, 10\) and \(8, 8\) were loaded'):
        ParallelBackend(
            tower(models['micro'], plan, guidance, layout=LAYOUT), tower(models['micro'], plan, guidance),
            plan, guidance)


@pytest.mark.parametrize('name', ['micro', 'wide'])
def test_rows_of_deltas_agree_with_the_reference(models, name):
    from cosmos3_ros.generator.diffusers_backend import DiffusersBackend

    plan, guidance = schedule(4, 10.0), Guidance(2.0)
    frames, height, width = one.SHAPES[name][1]
    asked = Request(
        torch.randn(1, 48, 1, height, width), np.zeros((0, 10), np.float32), frames, 64, 3, layout=LAYOUT)
    want = DiffusersBackend(models[name], plan, guidance).denoise(*one.texts(name), asked)
    got = tower(models[name], plan, guidance, layout=LAYOUT).denoise(*one.texts(name), asked)
    assert got.shape == (8, 10) and np.abs(got - want[:, :10]).max() <= 1e-5 and np.abs(got).max() > 0.1


def test_a_policy_on_two_devices(policy_checkpoint, droid_observation):
    chunks = [
        create_policy(
            'cosmos3', checkpoint=str(policy_checkpoint), robot='panda', branches='sequential', **options,
        ).generate(droid_observation, 'go', seed=2) for options in ({}, {'guidance_device': 'cpu'})]
    assert chunks[0].positions.tobytes() == chunks[1].positions.tobytes()
    with pytest.raises(PolicyError, match="guidance_device: 'cpu' arrived, the backend diffusers uses one"):
        create_policy('cosmos3', checkpoint=str(policy_checkpoint), robot='panda', backend='diffusers',
                      guidance_device='cpu')
    with pytest.raises(CheckpointError, match="device: 'cuda:7' arrived"):
        create_policy(
            'cosmos3', checkpoint=str(policy_checkpoint), robot='panda', guidance_device='cuda:7')


def test_the_benchmark_measures_both_devices(policy_checkpoint):
    from cosmos3_ros.generator.bench import measure
    from cosmos3_ros.generator.bench_variants import Variant, make_policy

    rows = []
    for second in (None, 'cpu'):
        variant = Variant('both', 'compiled', 'float32', branches='sequential', guidance_device=second)
        policy = make_policy(str(policy_checkpoint), 'cpu', variant, None, None)
        rows.append(measure(policy, variant, 'cpu', 12, 2, anew=False))
    assert isinstance(policy.backend, ParallelBackend)
    assert rows[0].chunk.positions.tobytes() == rows[1].chunk.positions.tobytes()
    assert all(row.deterministic and row.request_ms > 0.0 for row in rows)
