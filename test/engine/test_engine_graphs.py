"""The export-friendly modules equal the published classes, in float32, to 1e-5."""

from diffusers import Cosmos3OmniTransformer
from micro_engine import SHAPES
import pytest
import torch
from transformers import Cosmos3OmniForConditionalGeneration

from cosmos3_ros.engine.graphs.blocks import rotary_table
from cosmos3_ros.engine.modules import make_module, time_embedding
from cosmos3_ros.engine.segments import cut_tower
from cosmos3_ros.engine.vectors import cast_inputs, seeded_inputs
from cosmos3_ros.model.sequence_pack import SequencePack

TOLERANCE = 1e-5


@pytest.fixture(scope='module')
def reasoner(checkpoint):
    return Cosmos3OmniForConditionalGeneration.from_pretrained(
        checkpoint.directory, dtype=torch.float32).eval()


@pytest.fixture(scope='module')
def transformer(checkpoint):
    return Cosmos3OmniTransformer.from_pretrained(
        checkpoint.directory, subfolder='transformer', dtype=torch.float32).eval()


def modules(checkpoint, tower, max_bytes):
    segments = cut_tower(tower, checkpoint.dimensions, SHAPES, max_bytes)
    return [
        (s, make_module(s, checkpoint.dimensions, SHAPES, checkpoint.weights)) for s in segments]


@torch.inference_mode()
def test_vision_tower_equals_transformers(checkpoint, reasoner):
    (_, tower), = modules(checkpoint, 'vision', 10**9)
    d, (rows, columns) = checkpoint.dimensions, SHAPES.frame_grid
    patches = torch.randn(2, rows * columns, d.patch_values, generator=torch.Generator().manual_seed(1))
    expected = reasoner.model.visual(patches.flatten(0, 1), torch.tensor([[2, rows, columns]]))
    tokens, deepstack = tower(patches)
    torch.testing.assert_close(
        tokens.flatten(0, 1), expected.pooler_output, atol=TOLERANCE, rtol=TOLERANCE)
    for mine, theirs in zip(deepstack, expected.deepstack_features, strict=True):
        torch.testing.assert_close(mine.flatten(0, 1), theirs, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize('max_bytes', [1, 10**9], ids=['one layer per segment', 'one segment'])
@torch.inference_mode()
def test_prefill_and_decode_equal_transformers(checkpoint, reasoner, max_bytes):
    d, tokens, stream = checkpoint.dimensions, 20, torch.Generator().manual_seed(2)
    embedded = torch.randn(tokens + 1, d.hidden, generator=stream)
    positions = torch.arange(tokens + 1).expand(3, -1).clone()
    positions[1:, 4:10] += torch.arange(6) % 3
    features = torch.randn(len(d.deepstack), 6, d.hidden, generator=stream)
    visual = torch.zeros(1, tokens, dtype=torch.bool)
    visual[:, 4:10] = True
    expected = reasoner.model.language_model(
        inputs_embeds=embedded[None, :-1], position_ids=positions[:, None, :-1], visual_pos_masks=visual,
        deepstack_visual_embeds=list(features), use_cache=True)
    first = reasoner.lm_head(expected.last_hidden_state[0, -1:])
    following = reasoner.model.language_model(
        inputs_embeds=embedded[None, -1:], position_ids=positions[:, None, -1:], use_cache=True,
        past_key_values=expected.past_key_values)
    second = reasoner.lm_head(following.last_hidden_state[0])

    cos, sin = rotary_table(d, positions)
    slot = torch.full((tokens,), -1)
    slot[4:10] = torch.arange(6)
    seen = torch.zeros(tokens, tokens + 1, dtype=torch.bool)
    seen[:, 1:] = torch.ones(tokens, tokens).tril().bool()
    room = tokens + 5
    step = torch.zeros(1, room + 1, dtype=torch.bool)
    step[:, :tokens] = step[:, -1:] = True
    hidden, last = embedded[:-1], embedded[-1:]
    for segment, module in modules(checkpoint, 'language', max_bytes):
        cache = torch.zeros(segment.last - segment.first, d.kv_heads, 1, d.head_dim)
        prefill = cast_inputs(segment, {
            'hidden': hidden, 'cos': cos[:-1], 'sin': sin[:-1], 'mask': seen, 'slot': slot,
            'deepstack': features, 'pick': torch.eye(tokens)[-1:], 'cache_keys': cache,
            'cache_values': cache}, 'float32')
        hidden, keys, values = module(*prefill.values())
        # What lies in unused slots must not matter.
        filled = [
            torch.nn.functional.pad(part, (0, 0, 0, room - tokens), value=7.0) for part in (keys, values)]
        decode = cast_inputs(segment, {
            'hidden': last, 'cos': cos[-1:], 'sin': sin[-1:], 'mask': step, 'slot': torch.tensor([-1]),
            'deepstack': features[:, :1], 'pick': torch.ones(1, 1), 'cache_keys': filled[0],
            'cache_values': filled[1]}, 'float32')
        last, _, _ = module(*decode.values())
        for i in range(segment.first, segment.last):
            torch.testing.assert_close(
                keys[i - segment.first], expected.past_key_values.layers[i].keys[0, :, :tokens],
                atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(hidden, first, atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(last, second, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize('max_bytes', [1, 10**9], ids=['one layer per segment', 'one segment'])
@torch.inference_mode()
def test_denoise_step_equals_diffusers(checkpoint, transformer, max_bytes):
    d, stream = checkpoint.dimensions, torch.Generator().manual_seed(3)
    frames, rows, columns = SHAPES.latent_grid
    ids = torch.randint(0, d.vocabulary, (11,), generator=stream)
    pack = SequencePack(
        text_length=len(ids), latent_shape=(frames, 2 * rows, 2 * columns), action_rows=SHAPES.action_rows)
    latents = torch.randn(1, 48, *pack.latent_shape, generator=stream)
    action = torch.zeros(SHAPES.action_rows, d.action_width)
    action[:, :SHAPES.action_channels] = torch.randn(
        SHAPES.action_rows, SHAPES.action_channels, generator=stream)
    timestep = 937.0
    noisy = pack.vision_tokens - pack.patches_per_frame
    expected = transformer(
        **pack.forward_arguments(ids, SHAPES.domain), vision_tokens=[latents], action_tokens=[action],
        vision_timesteps=torch.full((noisy,), timestep),
        action_timesteps=torch.full((SHAPES.action_rows - 1,), timestep))

    def patches(video):
        return transformer._patchify_and_pack_latents([video])[0]

    # The reasoner's prefill over the text is the generation tower's context.
    (language, prefill), = modules(checkpoint, 'language', 10**9)
    text = len(ids)
    cos, sin = rotary_table(d, pack.text_positions)
    seen = torch.zeros(text, text + 1, dtype=torch.bool)
    seen[:, 1:] = torch.ones(text, text).tril().bool()
    empty = torch.zeros(d.layers, d.kv_heads, 1, d.head_dim)
    embedded = checkpoint.weights.tensor('embed_tokens.weight', (d.vocabulary, d.hidden)).float()[ids]
    _, keys, values = prefill(*cast_inputs(language, {
        'hidden': embedded, 'cos': cos, 'sin': sin, 'mask': seen, 'slot': torch.full((text,), -1),
        'deepstack': torch.zeros(len(d.deepstack), 1, d.hidden), 'pick': torch.eye(text)[-1:],
        'cache_keys': empty, 'cache_values': empty}, 'float32').values())
    table = rotary_table(d, pack.generated_positions)
    time = time_embedding(d, checkpoint.weights, timestep)
    result = (patches(latents), action[:, :SHAPES.action_channels], time)
    for segment, module in modules(checkpoint, 'generation', max_bytes):
        layers = slice(segment.first, segment.last)
        result = module(*result, *table, keys[layers], values[layers])
        result = result if isinstance(result, tuple) else (result,)
    video_velocity, rows_velocity = result
    torch.testing.assert_close(
        video_velocity, patches(expected.sample[0])[pack.patches_per_frame:], atol=TOLERANCE,
        rtol=TOLERANCE)
    torch.testing.assert_close(
        rows_velocity, expected.action[0][1:, :SHAPES.action_channels], atol=TOLERANCE, rtol=TOLERANCE)


@torch.inference_mode()
def test_time_embedding_equals_diffusers(checkpoint, transformer):
    for timestep in (999.0, 937.0, 833.0, 624.0):
        scaled = torch.tensor([timestep]) * transformer.config.timestep_scale
        expected = transformer.time_embedder(transformer.time_proj(scaled))
        torch.testing.assert_close(
            time_embedding(checkpoint.dimensions, checkpoint.weights, timestep), expected, atol=TOLERANCE,
            rtol=TOLERANCE)


@torch.inference_mode()
def test_rotary_table_equals_diffusers_far_from_the_origin(checkpoint, transformer):
    positions = torch.tensor([[0.0, 15000.0, 15012.8], [0.0, 3.0, 16.0], [0.0, 5.0, 19.0]])
    cos, sin = transformer.rotary_emb(position_ids=positions[:, None], device='cpu', dtype=torch.float32)
    mine = rotary_table(checkpoint.dimensions, positions)
    # One unit in the last place of an angle of 15000 is 0.001.
    torch.testing.assert_close(mine[0], cos[0], atol=2e-3, rtol=0)
    torch.testing.assert_close(mine[1], sin[0], atol=2e-3, rtol=0)


def test_seeded_inputs_are_the_same_twice_and_fit_bfloat16(checkpoint):
    for tower in ('vision', 'language', 'generation'):
        once, twice = (
            seeded_inputs(tower, checkpoint.dimensions, SHAPES, checkpoint.weights, 5) for _ in range(2))
        for case, given in once.items():
            for name, tensor in given.items():
                assert torch.equal(tensor, twice[case][name])
                if name in ('hidden', 'patches', 'action', 'deepstack', 'time'):
                    assert torch.equal(tensor, tensor.to(torch.bfloat16).float())
