"""Does the compiled reasoner write what transformers writes, and compute what the generator reads?"""

from collections.abc import Sequence
from typing import Any

from ..model.tiny import PRESETS, Preset
from ..resources import require
from .bench_timing import compiled_decoders, random_model, random_prompt, reference_inputs
from .compiled_backend import decoder_input
from .static_decoder import StaticDecoder
from .video_prompt import VideoPrompt

SHAPES = {
    'tiny': PRESETS['tiny'],
    # As many key heads as query heads; and one key head for all.
    'narrow': Preset(
        vocabulary=640, hidden=64, intermediate=160, layers=5, heads=4, kv_heads=4, rope_sections=(4, 2, 2),
        vision_hidden=48, vision_layers=4, vision_heads=3, vision_positions=64, vae_base=8, view=(54, 64)),
    'shallow': Preset(
        vocabulary=1024, hidden=128, intermediate=256, layers=2, heads=8, kv_heads=1, rope_sections=(8, 4, 4),
        vision_hidden=64, vision_layers=3, vision_heads=2, vision_positions=100, vae_base=8, view=(54, 64)),
}
"""Shapes of the comparison."""

_GRIDS = ((1, 4, 4), (2, 6, 4), (3, 2, 8), (2, 8, 8))


def count_matches(shape: str, device: str, prompts: int, tokens: int) -> tuple[int, int]:
    """Return how many tokens were written and how many of them are those of ``transformers.generate``.

    float32, greedy, random weights. A prompt counts up to its first other token.

    :param shape: Name in :data:`SHAPES`.
    """
    torch = require('torch', 'model')
    with torch.inference_mode():
        model = random_model(SHAPES[shape], device, torch.float32)
        (decoder,) = compiled_decoders(model, (0.0,))
        asked = [varied_prompt(model, seed) for seed in range(prompts)]
        return prompts * tokens, sum(matching_tokens(model, decoder, prompt, tokens) for prompt in asked)


def varied_prompt(model: Any, seed: int) -> VideoPrompt:
    """Return one of many prompts of different lengths and grids."""
    frames, height, width = _GRIDS[seed % len(_GRIDS)]
    least = frames * (height * width // model.config.vision_config.spatial_merge_size ** 2 + 9) + 4
    return random_prompt(model, (frames, height, width), least + (37 * seed) % 90, seed)


def matching_tokens(model: Any, decoder: StaticDecoder, prompt: VideoPrompt, tokens: int) -> int:
    """Return how many leading tokens equal those of ``transformers.generate``, greedy."""
    inputs = reference_inputs(model, prompt)
    theirs = model.generate(
        **inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0)
    expected = theirs[0, inputs['input_ids'].shape[1]:].tolist()
    ours = decoder.write(decoder_input(model, prompt), tokens)
    same = [a == b for a, b in zip(ours, expected, strict=True)]
    return same.index(False) if False in same else len(same)


def decoder_stack(directory: Any, ids: Sequence[int]) -> list[tuple[Any, Any]]:
    """Return the text's keys and values that diffusers' generation tower attends to, layer by layer.

    Runs diffusers' own forward of a small checkpoint, float32, on the CPU.

    :param directory: A complete checkpoint.
    :param ids: Token ids of the text.
    """
    torch, diffusers = require('torch', 'model'), require('diffusers', 'model')
    from ..model.sequence_pack import SequencePack

    model = diffusers.Cosmos3OmniTransformer.from_pretrained(
        directory, subfolder='transformer', dtype=torch.float32).eval()
    module: Any = require('diffusers.models.transformers.transformer_cosmos3', 'model')
    seen, dispatch = [], module.dispatch_attention_fn

    def spy(query: Any, key: Any, value: Any, **options: Any) -> Any:
        if not options.get('is_causal'):
            seen.append((key[0, :len(ids)].clone(), value[0, :len(ids)].clone()))
        return dispatch(query, key, value, **options)

    pack = SequencePack(text_length=len(ids), latent_shape=(2, 3, 4), action_rows=5)
    draw = torch.Generator().manual_seed(0)
    module.dispatch_attention_fn = spy
    try:
        with torch.inference_mode():
            model(
                **pack.forward_arguments(torch.tensor(list(ids)), 8),
                vision_tokens=[torch.randn((1, 48, 2, 3, 4), generator=draw)],
                vision_timesteps=torch.full((4,), 900.0),
                action_tokens=[torch.randn((5, 64), generator=draw)],
                action_timesteps=torch.full((4,), 900.0), return_dict=False)
    finally:
        module.dispatch_attention_fn = dispatch
    return seen


def context_difference(directory: Any, ids: Sequence[int]) -> float:
    """Return the largest difference between the resident tower's context and :func:`decoder_stack`."""
    from .compiled_backend import CompiledBackend

    backend = CompiledBackend(directory, dtype='float32', threads=None)
    (context,) = backend.contexts([list(ids)])
    backend.close()
    return max(
        float((ours - theirs).abs().max())
        for layer, key, value in zip(decoder_stack(directory, ids), context.keys, context.values, strict=True)
        for theirs, ours in zip(layer, (key, value), strict=True))
