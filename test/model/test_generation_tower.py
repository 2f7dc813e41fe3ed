"""The generation tower alone computes what the whole transformer does, in float32 to 1e-5."""

import diffusers
import pytest
import torch

from cosmos3_ros.model.generation_tower import GenerationTower
from cosmos3_ros.model.random_weights import random_state
from cosmos3_ros.model.reasoner_context import compute_context
from cosmos3_ros.model.sequence_pack import SequencePack

# Hidden, intermediate, layers, heads, kv heads, rope sections; latents; text. Odd and even latents.
SHAPES = {
    'micro': ((32, 64, 2, 4, 2, (4, 2, 2)), (9, 3, 4), 12),
    'wide': ((96, 160, 3, 6, 1, (8, 6, 2)), (3, 5, 7), 40),
    'deep': ((64, 128, 8, 4, 4, (4, 2, 2)), (5, 4, 2), 3),
}


def build(shape):
    hidden, intermediate, layers, heads, kv_heads, sections = shape
    model = diffusers.Cosmos3OmniTransformer(
        hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=2 * sum(sections), vocab_size=320,
        rope_scaling={'mrope_section': list(sections)}, action_gen=True, action_dim=64)
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    state = {name: t.float() for name, t in random_state(shapes, 5).items()}
    generator = torch.Generator().manual_seed(0)
    for name, tensor in state.items():  # norms of one and biases of zero would hide a mistake
        if 'norm' in name or name.endswith(('bias', 'bias.weight', 'embed')):
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def reference(model, ids, latent_shape, vision, action, timestep, domain):
    pack = SequencePack(text_length=len(ids), latent_shape=latent_shape, action_rows=len(action))
    noisy = (latent_shape[0] - 1) * pack.patches_per_frame
    with torch.inference_mode():
        visions, _, actions = model(
            **pack.forward_arguments(torch.tensor(ids), domain), vision_tokens=[vision],
            vision_timesteps=torch.full((noisy,), float(timestep)), action_tokens=[action],
            action_timesteps=torch.full((len(action) - 1,), float(timestep)), return_dict=False)
    return visions[0], actions[0]


@pytest.mark.parametrize('name', SHAPES)
def test_velocities_agree(name):
    shape, latent_shape, text = SHAPES[name]
    model = build(shape)
    ids = [(11 * i) % 320 for i in range(text)]
    torch.manual_seed(1)
    vision = torch.randn(1, 48, *latent_shape)
    action = torch.randn(4 * (latent_shape[0] - 1) + 1, 64)
    action[:, 8:] = 0.0
    bound = GenerationTower(model, 8, 8).bind(
        compute_context(model, ids, 'w'), latent_shape, len(action))
    for timestep in (999, 624, 1):
        want_vision, want_action = reference(model, ids, latent_shape, vision, action, timestep, 8)
        got_vision, got_action = bound.velocity(vision, action, timestep, want_video=True)
        assert (got_vision - want_vision).abs().max() <= 1e-5
        assert (got_action[:, :8] - want_action[:, :8]).abs().max() <= 1e-5
        assert not got_action[:, 8:].any() and not got_action[0].any() and not got_vision[:, :, 0].any()
        assert want_action[1:, :8].abs().max() > 0.1
        _, alone = bound.velocity(vision, action, timestep, want_video=False)
        assert (alone[:, :8] - want_action[:, :8]).abs().max() <= 1e-5


def test_each_domain_has_its_own_head():
    model = build(SHAPES['micro'][0])
    ids, latent_shape = [1, 2, 3], (2, 2, 2)
    torch.manual_seed(2)
    vision, action = torch.randn(1, 48, 2, 2, 2), torch.randn(5, 64)
    action[:, 8:] = 0.0
    answers = []
    for domain in (8, 7):
        bound = GenerationTower(model, domain, 8).bind(compute_context(model, ids, 'w'), latent_shape, 5)
        _, got = bound.velocity(vision, action, 500, want_video=False)
        _, want = reference(model, ids, latent_shape, vision, action, 500, domain)
        assert (got[:, :8] - want[:, :8]).abs().max() <= 1e-5
        answers.append(got)
    assert (answers[0] - answers[1]).abs().max() > 0.1


def test_edge_layers_are_refused():
    model = diffusers.Cosmos3OmniTransformer(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, vocab_size=64, rope_axes_dim=(4, 2, 2), action_gen=True,
        action_dim=64, hidden_act='relu2', qk_norm_for_text=False, use_und_k_norm_for_gen=True)
    with pytest.raises(ValueError, match='hidden_act relu2 arrived, silu is allowed'):
        GenerationTower(model, 8, 8)
