"""Hold the exported graphs of the reasoner, run by torch, to the backend ``compiled``: random weights.

Vision tower, prefill with deepstack features and decoding, token after token the ones that ``compiled``
wrote, so that both always read the same. Needs no checkpoint; Nano's shape needs a GPU with 60 GB. Prints
one line of JSON; the status is 1 if a cosine is below 0.999.

In bfloat16 the same weights are then run in float32, which tells what of a difference is rounding: ``graphs``
and ``compiled`` are both that far from float32 (1 - cosine), and ``distance_ratio_max`` says how much further
the graphs are in the worst output.

    PYTHONPATH=. python benchmarks/engine_reasoner_parity.py nano --device cuda
    PYTHONPATH=. python benchmarks/engine_reasoner_parity.py tiny --dtype float32
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
import gc
import json
import sys
from typing import Any

import torch

from cosmos3_ros.engine.decoding import LanguageChain
from cosmos3_ros.engine.dimensions import NANO, Dimensions, Shapes
from cosmos3_ros.engine.modules import make_module
from cosmos3_ros.engine.prompt_positions import prompt_positions
from cosmos3_ros.engine.runners import TorchRunner
from cosmos3_ros.engine.segments import Segment, Tower, cut_tower
from cosmos3_ros.model.tiny import PRESETS
from cosmos3_ros.reasoner.bench_timing import NANO as NANO_PRESET
from cosmos3_ros.reasoner.bench_timing import NANO_VISION, random_model, random_prompt
from cosmos3_ros.reasoner.compiled_backend import create_decoder, decoder_input

LEAST_COSINE = 0.999
GRIDS = {'nano': (4, 22, 40), 'tiny': (2, 8, 10)}
TOKENS = {'nano': 970, 'tiny': 80}
NAMES = {'to_q': 'q_proj', 'to_k': 'k_proj', 'to_v': 'v_proj', 'to_out': 'o_proj', 'norm_q': 'q_norm',
         'norm_k': 'k_norm'}


class ModelWeights:
    """The weights of a transformers model, by the names of a checkpoint's files."""

    def __init__(self, model: Any) -> None:
        self._language = dict(model.model.language_model.named_parameters())
        self._language['lm_head.weight'] = model.lm_head.weight
        self._vision = dict(model.model.visual.named_parameters())

    def tensor(self, name: str, shape: tuple[int, ...]) -> Any:
        """Return a tensor whose shape is known."""
        theirs = '.'.join(NAMES.get(part, part) for part in name.split('.'))
        value = self._language[theirs] if theirs in self._language else self._vision[name]
        # Constants of the frame grid are computed from this one, on the CPU.
        return value.detach().reshape(shape).to('cpu' if name == 'pos_embed.weight' else value.device)


def dimensions_of(model: Any) -> Dimensions:
    """Return the sizes of a model; those that only the generation tower has are Nano's."""
    text, vision = model.config.text_config, model.config.vision_config
    return replace(
        NANO, hidden=text.hidden_size, intermediate=text.intermediate_size, layers=text.num_hidden_layers,
        heads=text.num_attention_heads, kv_heads=text.num_key_value_heads, head_dim=text.head_dim,
        vocabulary=text.vocab_size, rope_sections=tuple(text.rope_parameters['mrope_section']),
        vision_hidden=vision.hidden_size, vision_intermediate=vision.intermediate_size,
        vision_layers=vision.depth, vision_heads=vision.num_heads,
        vision_positions=vision.num_position_embeddings,
        deepstack=tuple(vision.deepstack_visual_indexes))


class Graphs:
    """The modules that are exported, run by torch, over the weights of a model."""

    def __init__(self, model: Any, shapes: Shapes) -> None:
        self.dimensions, self.shapes, self._weights = dimensions_of(model), shapes, ModelWeights(model)
        self.device, self.dtype = model.device, model.dtype
        self._embedding = model.model.language_model.embed_tokens.weight
        (_, self._vision), = self._make('vision')
        segments, runners = zip(*self._make('language'), strict=True)
        self._language = LanguageChain(
            segments, runners, self.dimensions, shapes, self._embedding, self._dtype_name, str(self.device))

    @property
    def _dtype_name(self) -> str:
        return str(self.dtype).removeprefix('torch.')

    def _make(self, tower: Tower) -> list[tuple[Segment, TorchRunner]]:
        return [
            (s, TorchRunner(make_module(
                s, self.dimensions, self.shapes, self._weights, self._dtype_name).to(self.device), s))
            for s in cut_tower(tower, self.dimensions, self.shapes)]

    def run(self, prompt: Any, written: Sequence[int]) -> tuple[list[Any], dict[str, Any]]:
        """Return the logits of every step, fed with the tokens ``written``, and all outputs by name."""
        rows, columns = self.shapes.frame_grid
        patches = prompt.pixel_values_videos.reshape(self.shapes.max_frames, rows * columns, -1)
        seen = self._vision.run({'patches': patches.to(self.device, self.dtype)})
        visual = prompt.mm_token_type_ids[0] != 0
        positions, slots, following = prompt_positions(visual, prompt.video_grid_thw)
        embedded = self._embedding[prompt.input_ids[0].to(self.device)].float()
        embedded[visual.to(self.device)] = seen['tokens'].flatten(0, 1).float()
        logits = [self._language.prefill(
            embedded, positions.to(self.device), slots.to(self.device), seen['deepstack'].flatten(1, 2))]
        for i, token in enumerate(written[:-1]):
            logits.append(self._language.decode(token, following + i))
        keys, values = (
            torch.cat([cache[f'cache_{name}'] for cache in self._language._caches])
            for name in ('keys', 'values'))
        return logits, {
            'vision': seen['tokens'], 'deepstack': seen['deepstack'],
            **split(keys, values, len(embedded), len(written))}


def split(keys: Any, values: Any, length: int, new_tokens: int) -> dict[str, Any]:
    """Return the caches of prompt and answer apart, (layers, heads, tokens, width) each."""
    end = length + new_tokens - 1
    return {
        'prefill_keys': keys[:, :, :length], 'prefill_values': values[:, :, :length],
        'decode_keys': keys[:, :, length:end], 'decode_values': values[:, :, length:end]}


def cosine(a: Any, b: Any) -> float:
    """Return the cosine of two tensors as vectors."""
    return float(torch.nn.functional.cosine_similarity(
        a.double().flatten(), b.double().flatten().to(a.device), dim=0))


def compare(shape: str, device: str, dtype: str, new_tokens: int) -> dict[str, Any]:
    """Return all measures."""
    preset, vision = (NANO_PRESET, NANO_VISION) if shape == 'nano' else (PRESETS[shape], None)
    model = random_model(preset, device, getattr(torch, dtype), vision)
    prompt = random_prompt(model, GRIDS[shape], TOKENS[shape])
    frames, rows, columns = GRIDS[shape]
    shapes = Shapes(frame_grid=(rows, columns), max_frames=frames, cache=1024 + new_tokens)
    decoder, given = create_decoder(model), decoder_input(model, prompt)
    theirs = decoder.see(given)
    written = list(decoder.write(given, new_tokens))
    cache = next(iter(decoder._caches.values()))
    compiled = {
        'vision': theirs.merged, 'deepstack': torch.stack(list(theirs.levels)), **split(
            torch.stack(list(cache.keys)), torch.stack(list(cache.values)), len(prompt.input_ids[0]),
            new_tokens)}
    logits, outputs = Graphs(model, shapes).run(prompt, written)
    found: dict[str, Any] = {'vision_cosine': cosine(outputs['vision'], compiled['vision'])}
    found |= {
        f'{name}_cosine_min': min(
            cosine(mine, other) for mine, other in zip(outputs[name], compiled[name], strict=True))
        for name in outputs if name != 'vision'}
    chosen = [int(row.argmax()) for row in logits]
    # Where another word is chosen: how much less likely theirs is, in magnitudes of the largest logit.
    behind = [float((row.max() - row[token]) / row.abs().max())
              for row, token in zip(logits, written, strict=True)]
    least = min(found.values())
    found |= {
        'tokens': new_tokens, 'tokens_equal': sum(a == b for a, b in zip(chosen, written, strict=True)),
        'behind_max': max(behind), 'cosine_min': least, 'passed': least >= LEAST_COSINE}
    if dtype == 'bfloat16':
        outputs, compiled = on_host(outputs), on_host(compiled)
        weights = on_host(model.state_dict())
        # Both models together would not fit a card.
        del model, decoder, given, theirs, logits, cache
        gc.collect()
        if device != 'cpu':
            torch.cuda.empty_cache()
        model = random_model(preset, device, torch.float32, vision)
        model.load_state_dict(weights)
        _, exact = Graphs(model, shapes).run(prompt, written)
        found |= distances(outputs, compiled, on_host(exact))
    return found


def on_host(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors in host memory."""
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def distances(graphs: dict[str, Any], compiled: dict[str, Any], exact: dict[str, Any]) -> dict[str, Any]:
    """Return 1 - cosine to float32 of both, per output, and the largest ratio."""
    apart = {
        side: {name: 1.0 - cosine(values[name], exact[name]) for name in exact}
        for side, values in (('graphs', graphs), ('compiled', compiled))}
    return {
        'from_float32': apart,
        'distance_ratio_max': max(apart['graphs'][name] / apart['compiled'][name] for name in exact)}


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('shape', choices=list(GRIDS))
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--dtype', default='bfloat16', choices=('bfloat16', 'float32'))
    parser.add_argument('--tokens', type=int, default=64, help='decoded after the prompt')
    arguments = parser.parse_args()
    with torch.inference_mode():
        found = compare(arguments.shape, arguments.device, arguments.dtype, arguments.tokens)
    name = torch.cuda.get_device_name() if arguments.device != 'cpu' else 'cpu'
    sys.stdout.write(json.dumps({
        'shape': arguments.shape, 'dtype': arguments.dtype, 'device': name, 'torch': torch.__version__,
        **found}) + '\n')
    return 0 if found['passed'] else 1


if __name__ == '__main__':
    sys.exit(main())
