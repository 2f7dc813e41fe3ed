"""The compiled backend computes what the whole transformer does, in float32 to 1e-5."""

import dataclasses

import diffusers
import numpy as np
import pytest
import torch

from cosmos3_ros.contracts import ContractError
from cosmos3_ros.generator.compiled_backend import CompiledBackend
from cosmos3_ros.generator.compiled_loop import CompiledLoop
from cosmos3_ros.generator.denoise import Request
from cosmos3_ros.generator.diffusers_backend import DiffusersBackend, DiffusersBranch
from cosmos3_ros.generator.guidance import Guidance
from cosmos3_ros.generator.policy import PolicyError
from cosmos3_ros.generator.prefix import Prefix, pull_per_step
from cosmos3_ros.generator.sampler import schedule
from cosmos3_ros.model.generation_tower import GenerationTower
from cosmos3_ros.model.layer_functions import LayerFunctions
from cosmos3_ros.model.layer_math import multiply, quantise_rows
from cosmos3_ros.model.patches import from_patches, to_patches
from cosmos3_ros.model.random_weights import random_state
from cosmos3_ros.model.sequence_pack import SequencePack
from cosmos3_ros.model.understanding_tower import UnderstandingTower
from cosmos3_ros.model.weight_source import ModuleWeights

# Hidden, intermediate, layers, heads, kv heads, rope sections; latents; text. Odd and even latents.
SHAPES = {
    'micro': ((32, 64, 2, 4, 2, (4, 2, 2)), (9, 3, 4), 12),
    'wide': ((96, 160, 3, 6, 1, (8, 6, 2)), (3, 5, 7), 40),
    'deep': ((64, 128, 8, 4, 4, (4, 2, 2)), (5, 4, 2), 3),
    'edge': ((48, 96, 3, 6, 2, (4, 2, 2)), (3, 3, 2), 9),
}
EDGE = {'hidden_act': 'relu2', 'qk_norm_for_text': False, 'use_und_k_norm_for_gen': True,
        'rms_norm_eps': 1e-5}


def build(name):
    hidden, intermediate, layers, heads, kv_heads, sections = SHAPES[name][0]
    model = diffusers.Cosmos3OmniTransformer(
        hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=2 * sum(sections), vocab_size=320,
        rope_scaling={'mrope_section': list(sections)}, action_gen=True, action_dim=64,
        **(EDGE if name == 'edge' else {}))
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    state = {name: t.float() for name, t in random_state(shapes, 5).items()}
    generator = torch.Generator().manual_seed(0)
    for key, tensor in state.items():  # norms of one and biases of zero would hide a mistake
        if 'norm' in key or key.endswith(('bias', 'bias.weight', 'embed')):
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
        if key.startswith('action_proj_out.fc'):  # as small as joint angles are
            tensor.mul_(0.3)
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope='module')
def models():
    torch.set_num_threads(1)
    return {name: build(name) for name in SHAPES}


def texts(name):
    return tuple((11 * i) % 320 for i in range(SHAPES[name][2])), (3, 1, 2)


def request(name, seed=3, prefix=None):
    frames, height, width = SHAPES[name][1]
    generator = torch.Generator().manual_seed(seed)
    state = torch.randn(8, generator=generator).numpy()
    return Request(
        torch.randn(1, 48, 1, height, width, generator=generator), state, frames, 64, seed, prefix)


def compiled(model, plan=None, guidance=None, device='cpu', dtype=torch.float32, **options):
    return CompiledBackend(
        ModuleWeights(model), device, dtype, 'w', plan or schedule(4, 5.0),
        guidance or Guidance(3.0), **options)


def prefix(weight=0.8, seed=0):
    rows = np.random.default_rng(seed).normal(size=(33, 8))
    return Prefix(rows, np.r_[0.0, np.linspace(weight, 0.0, 32)])


@pytest.mark.parametrize('name', SHAPES)
def test_velocities_agree(models, name):
    model, latent_shape, ids = models[name], SHAPES[name][1], texts(name)[0]
    plan = schedule(3, 2.0)
    context = UnderstandingTower(ModuleWeights(model), 'cpu', torch.float32, 'w').contexts([ids])
    tower = GenerationTower(ModuleWeights(model), 'cpu', torch.float32, 8, 8)
    loop = CompiledLoop(
        tower, LayerFunctions.of(tower.device), context, latent_shape, plan, Guidance(1.0), batched=True)
    torch.manual_seed(1)
    vision, action = torch.randn(1, 48, *latent_shape), torch.zeros(33, 64)
    action[:, :8] = torch.randn(33, 8)
    branch = DiffusersBranch(model, torch.tensor(ids), latent_shape)
    for step, timestep in enumerate(plan.timesteps):
        want_vision, want_action = branch.velocity(vision, action, timestep, want_video=True)
        with torch.no_grad():
            got_vision, got_action = loop._velocity(
                tower.embed_vision(to_patches(vision[:, :, :1], loop.pack)),
                to_patches(vision[:, :, 1:], loop.pack), action[:, :8], step, timestep, True)
            _, alone = loop._velocity(
                tower.embed_vision(to_patches(vision[:, :, :1], loop.pack)),
                to_patches(vision[:, :, 1:], loop.pack), action[:, :8], step, timestep, False)
        assert (from_patches(got_vision, loop.pack, 48) - want_vision[:, :, 1:]).abs().max() <= 1e-5
        assert (got_action - want_action[:, :8]).abs().max() <= 1e-5
        assert (alone - want_action[:, :8]).abs().max() <= 1e-5 and not got_action[0].any()
        assert want_action[1:, :8].abs().max() > 0.1 and want_vision.abs().max() > 0.1


@pytest.mark.parametrize('name', SHAPES)
@pytest.mark.parametrize('guidance', [Guidance(3.0), Guidance(1.0), Guidance(2.0, (960, 1001))])
@pytest.mark.parametrize('batched', [True, False])
def test_rows_agree(models, name, guidance, batched):
    plan, asked = schedule(4, 5.0), request(name)
    want = DiffusersBackend(models[name], plan, guidance).denoise(*texts(name), asked)
    backend = compiled(models[name], plan, guidance, batched=batched)
    got = backend.denoise(*texts(name), asked)
    assert got.shape == (33, 8) and np.abs(got - want[:, :8]).max() <= 1e-5
    assert (got[0] == asked.state).all() and np.abs(got[1:]).max() > 0.1
    assert backend.denoise(*texts(name), asked).tobytes() == got.tobytes()
    assert backend.contexts.misses == (1 if guidance.scale == 1.0 else 2)


def test_requests_do_not_leak_into_each_other(models):
    backend, plain = compiled(models['micro']), request('micro', 5)
    first = backend.denoise(*texts('micro'), plain)
    backend.denoise(*texts('micro'), request('micro', 6, prefix()))
    backend.denoise((4, 4), (3, 1, 2), request('micro', 7))
    assert backend.denoise(*texts('micro'), plain).tobytes() == first.tobytes()


@pytest.mark.parametrize('guidance', [Guidance(1.0), Guidance(3.0)])
@pytest.mark.parametrize('batched', [True, False])
def test_what_is_recorded_for_one_text_is_right_for_others(models, guidance, batched):
    backend = compiled(models['micro'], guidance=guidance, batched=batched)
    for _ in range(2):
        backend.denoise(*texts('micro'), request('micro', 5))
    for ids in ((4, 4), tuple(range(40))):
        fresh = compiled(models['micro'], guidance=guidance, batched=batched)
        want = fresh.denoise(ids, (3, 1, 2), request('micro', 7))
        assert backend.denoise(ids, (3, 1, 2), request('micro', 7)).tobytes() == want.tobytes()
    assert len(backend._traces) == 1 and len(backend._loops) == 3


def test_each_domain_has_its_own_head(models):
    heads = [GenerationTower(ModuleWeights(models['micro']), 'cpu', torch.float32, d, 8) for d in (8, 7)]
    states = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    assert (heads[0].read_action(states) - heads[1].read_action(states)).abs().max() > 0.1


# Real-time chunking ---------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['micro', 'wide'])
def test_a_prefix_does_the_same_in_both_backends(models, name):
    plan, guidance, asked = schedule(4, 5.0), Guidance(3.0), request(name, prefix=prefix())
    want = DiffusersBackend(models[name], plan, guidance).denoise(*texts(name), asked)
    got = compiled(models[name], plan, guidance).denoise(*texts(name), asked)
    assert np.abs(got - want[:, :8]).max() <= 1e-5
    free = compiled(models[name], plan, guidance).denoise(
        *texts(name), dataclasses.replace(asked, prefix=None))
    tied = np.abs(got - asked.prefix.rows).mean(axis=1)
    loose = np.abs(free - asked.prefix.rows).mean(axis=1)
    assert tied[1] < 0.3 * loose[1] and tied[:12].sum() < loose[:12].sum()


def test_a_prefix_of_full_weight_is_reached_exactly(models):
    given = Prefix(prefix().rows, np.r_[0.0, np.ones(10), np.zeros(22)])
    got = compiled(models['micro']).denoise(*texts('micro'), request('micro', prefix=given))
    assert np.abs(got[1:11] - given.rows[1:11]).max() <= 1e-5


def test_a_prefix_of_zero_weight_changes_nothing(models):
    backend = compiled(models['micro'])
    free = backend.denoise(*texts('micro'), request('micro'))
    given = Prefix(prefix().rows, np.zeros(33))
    assert (backend.denoise(*texts('micro'), request('micro', prefix=given)) == free).all()


def test_a_step_pulls_as_the_published_form_does():
    from cosmos3_ros.control.realtime_chunking import blend_clean

    plan, random = schedule(4, 5.0), np.random.default_rng(0)
    sample, velocity, given = random.normal(size=(3, 33, 8))
    weights = random.uniform(size=33)
    for sigma, pull in zip(plan.sigmas, pull_per_step(plan), strict=True):
        clean = sample - sigma * velocity
        steered = velocity - pull * weights[:, None] * (given - clean)
        assert np.allclose(sample - sigma * steered, blend_clean(clean, given, weights, float(sigma)))


@pytest.mark.parametrize('weights, message', [
    (np.r_[1.0, np.zeros(32)], 'the first 1'), (np.r_[0.0, np.full(32, 1.5)], '0 to 1')])
def test_bad_prefixes(weights, message):
    with pytest.raises(PolicyError, match=message):
        Prefix(np.zeros((33, 8)), weights)
    with pytest.raises(ContractError):
        Prefix(np.zeros((33, 8)), np.zeros(32))


# Float8 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('rows, columns', [(1, 16), (7, 64), (33, 48)])
def test_rows_are_quantised_by_their_largest(rows, columns):
    matrix = torch.randn(rows, columns) * torch.logspace(-6, 4, rows)[:, None]
    matrix[0, :] = 0.0
    quantised, scale = quantise_rows(matrix)
    assert quantised.dtype == torch.float8_e4m3fn and scale.shape == (rows, 1)
    error = (quantised.float() * scale - matrix).abs()
    # Half a step of three bits of mantissa, and for the smallest half a subnormal step.
    assert (error <= matrix.abs() / 16 + scale * 2.0 ** -10 * 1.01).all()
    assert not quantised[0].float().any()
    assert (quantised[1:].float().abs().amax(1) == 448.0).all()


def test_a_product_of_float8_is_near():
    torch.manual_seed(0)
    states, weight = torch.randn(32, 256), torch.randn(48, 256) / 16
    quantised, scale = quantise_rows(weight)
    got = multiply(states.bfloat16(), quantised, scale.t().contiguous()).float()
    want = states @ weight.t()
    assert 0.005 < (got - want).norm() / want.norm() < 0.06


def test_float8_drifts_little(models):
    exact = compiled(models['wide']).denoise(*texts('wide'), request('wide'))
    source = ModuleWeights(models['wide'])
    backend = CompiledBackend(
        source, 'cpu', torch.bfloat16, 'w', schedule(4, 5.0), Guidance(3.0), float8=True)
    got = backend.denoise(*texts('wide'), request('wide'))
    assert got.tobytes() == backend.denoise(*texts('wide'), request('wide')).tobytes()
    assert 1e-4 < np.abs(got - exact).mean() < 0.15 * np.abs(exact).mean()


@pytest.mark.parametrize('grid', [(2, 3, 5), (9, 4, 4), (1, 1, 1)])
def test_patches_there_and_back(grid):
    pack = SequencePack(3, grid, 5)
    latents = torch.randn(1, 48, *grid)
    patches = to_patches(latents, pack)
    assert patches.shape == (pack.vision_tokens, 192)
    assert torch.equal(from_patches(patches, pack, 48), latents)
