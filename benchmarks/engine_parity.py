"""Hold the exported graphs, run by torch, to the backend ``compiled``: Nano's exact shape, random weights.

Needs a GPU with 90 GB of memory; no checkpoint. Prints one line of JSON.

    PYTHONPATH=. python benchmarks/engine_parity.py
"""

from contextlib import ExitStack
import json
import sys
from typing import Any
import zlib

from diffusers import Cosmos3OmniTransformer
import numpy as np
import torch

from cosmos3_ros.engine.decoding import LanguageChain
from cosmos3_ros.engine.denoising import GenerationChain
from cosmos3_ros.engine.dimensions import NANO, Shapes
from cosmos3_ros.engine.modules import make_module
from cosmos3_ros.engine.precision import find_precision
from cosmos3_ros.engine.quantization import observed, quantise
from cosmos3_ros.engine.runners import TorchRunner
from cosmos3_ros.engine.segments import Tower, cut_tower
from cosmos3_ros.generator.compiled_backend import CompiledBackend
from cosmos3_ros.generator.denoise import Request, denoise, first_sample
from cosmos3_ros.generator.guidance import Guidance
from cosmos3_ros.generator.sampler import Schedule, schedule

DEVICE, DTYPE = 'cuda', 'bfloat16'
SHAPES = Shapes()
LATENT = (9, 33, 40)
USED = SHAPES.action_channels


class RandomNano:
    """Random weights made on the GPU, as both the engine and the compiled backend ask for them."""

    def __init__(self) -> None:
        with torch.device('meta'):
            model = Cosmos3OmniTransformer(
                action_gen=True, action_dim=NANO.action_width, num_embodiment_domains=NANO.domains,
                rope_scaling={'mrope_section': list(NANO.rope_sections), 'mrope_interleaved': True,
                              'rope_type': 'default'})
        self.config = dict(model.config)
        self._shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}

    def get(self, name: str) -> Any:
        """Return a tensor by name."""
        shape = self._shapes[name]
        if name.endswith(('bias', 'bias.weight')):
            return torch.zeros(shape, dtype=torch.bfloat16, device=DEVICE)
        if 'norm' in name:
            return torch.ones(shape, dtype=torch.bfloat16, device=DEVICE)
        stream = torch.Generator(DEVICE).manual_seed(zlib.crc32(name.encode()))
        fan_in = {'action_proj_in': NANO.action_width, 'action_proj_out': NANO.hidden}.get(
            name.partition('.')[0], shape[-1])
        scale = 1.0 if name == 'embed_tokens.weight' else 0.02 if len(shape) == 1 else fan_in ** -0.5
        return torch.randn(shape, generator=stream, dtype=torch.bfloat16, device=DEVICE) * scale

    def rows(self, name: str, indices: Any) -> Any:
        """Return rows of a matrix."""
        return self.get(name)[list(indices)]

    def tensor(self, name: str, shape: tuple[int, ...]) -> Any:
        """Return a tensor whose shape is known."""
        value = self.get(name)
        if tuple(value.shape) != shape:
            raise ValueError(f'{name}: {tuple(value.shape)}, {shape} is needed')
        return value


def make(tower: Tower, source: RandomNano) -> tuple[Any, list[Any], list[TorchRunner]]:
    """Return a tower's segments, modules and runners."""
    segments = cut_tower(tower, NANO, SHAPES)
    modules = [make_module(s, NANO, SHAPES, source, DTYPE).to(DEVICE) for s in segments]
    return segments, modules, [TorchRunner(m, s) for m, s in zip(modules, segments, strict=True)]


def cosine(a: Any, b: Any) -> float:
    """Return the cosine of two tensors as vectors."""
    return float(torch.nn.functional.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))


def compare(source: RandomNano) -> dict[str, Any]:
    """Return all measures."""
    segments, _, runners = make('language', source)
    language = LanguageChain(
        segments, runners, NANO, SHAPES, source.get('embed_tokens.weight'), DTYPE, DEVICE)
    segments, modules, runners = make('generation', source)
    generation = GenerationChain(segments, runners, NANO, SHAPES, source, DTYPE)
    text = tuple(int(i) for i in np.random.RandomState(0).randint(0, 151000, 256))
    texts = text, text[:20]
    latent = torch.randn(1, 48, 1, *LATENT[1:], generator=torch.Generator().manual_seed(1)).to(DEVICE)
    request = Request(latent, np.linspace(-1, 1, 8).astype(np.float32), LATENT[0], NANO.action_width, 0)

    def theirs(plan: Schedule, guidance: Guidance) -> CompiledBackend:
        return CompiledBackend(source, DEVICE, torch.bfloat16, 'random', plan, guidance)

    def ours(plan: Schedule, guidance: Guidance) -> Any:
        branches = [generation.branch(*language.context(ids), LATENT) for ids in texts]
        return denoise(branches[0], branches[1], request, plan, guidance)[:, :USED]

    # One step without guidance: the chunk is the noise plus a constant times the velocity.
    once, unguided = schedule(1, 5.0), Guidance(1.0)
    compiled = theirs(once, unguided)
    keys, values = language.context(text)
    context = compiled.contexts.get(text)
    found: dict[str, Any] = {}
    for name, mine, parts in (('keys', keys, context.keys), ('values', values, context.values)):
        other = torch.stack(parts).to(DEVICE).transpose(1, 2)
        found[f'context_{name}_cosine_min'] = min(cosine(a, b) for a, b in zip(mine, other, strict=True))
    noise = first_sample(request)[1][:, :USED].cpu().numpy()
    step = float(once.coefficients[0, 0])
    a, b = ((rows[1:, :USED] - noise[1:]) / step for rows in (
        ours(once, unguided), compiled.denoise(*texts, request)))
    found['velocity_cosine'] = cosine(torch.from_numpy(a), torch.from_numpy(b))
    found['velocity_deviation'] = float(np.abs(a - b).max() / np.abs(b).max())
    a, b = ours(schedule(4, 5.0), Guidance(3.0)), theirs(schedule(4, 5.0), Guidance(3.0)).denoise(
        *texts, request)[:, :USED]
    found['chunk_rms_difference'] = float(((a - b) ** 2).mean() ** 0.5)
    found['chunk_rms'] = float((b ** 2).mean() ** 0.5)
    return found | fp8_drift(language, generation, modules, request, texts)


def fp8_drift(
    language: LanguageChain, generation: GenerationChain, modules: list[Any], request: Request, texts: Any,
) -> dict[str, float]:
    """Return cosines of velocities, FP8 against bfloat16; calibrated on another text and other noise."""
    vision, action = first_sample(request)
    amax: list[dict[str, float]] = [{} for _ in modules]
    with ExitStack() as stack:
        for module, seen in zip(modules, amax, strict=True):
            stack.enter_context(observed(module, seen))
        branch = generation.branch(*language.context(texts[1]), LATENT)
        branch.velocity(vision, action, 999, want_video=False)
        branch.velocity(0.5 * vision, 0.5 * action, 624, want_video=False)
    branch = generation.branch(*language.context(texts[0]), LATENT)
    before = branch.velocity(vision, action, 937, want_video=True)
    for module, seen in zip(modules, amax, strict=True):
        quantise(module, find_precision('fp8'), seen)
        module.to(DEVICE)
    after = branch.velocity(vision, action, 937, want_video=True)
    return {f'fp8_{name}_velocity_cosine': cosine(a, b)
            for name, a, b in zip(('video', 'action'), before, after, strict=True)}


if __name__ == '__main__':
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    with torch.inference_mode():
        result = compare(RandomNano())
    sys.stdout.write(json.dumps(
        {**result, 'gpu': torch.cuda.get_device_name(), 'torch': torch.__version__}) + '\n')
