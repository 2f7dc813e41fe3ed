"""Stored prompts of the gate: token ids in, torch's greedy tokens out."""

from typing import Any

from cosmos3_ros.resources import require

from .decoding import LanguageChain
from .dimensions import Dimensions, Shapes
from .modules import make_module, to_compute
from .quantization import quantise
from .runners import OnnxRunner, TorchRunner
from .segment_build import SegmentJob, reference, vectors_path
from .segments import Segment
from .vectors import load_vectors

torch = require('torch', 'model')

PROMPTS = 64
NEW_TOKENS = 8
_LONGEST = 16
_MEMORY_BYTES = 2_000_000_000

Tokens = tuple[tuple[int, ...], ...]


def fits_in_memory(segments: tuple[Segment, ...]) -> bool:
    """Whether the whole language model may be loaded in float32 to answer prompts."""
    return 2 * sum(segment.weight_bytes for segment in segments) <= _MEMORY_BYTES


def draw_prompts(count: int, dimensions: Dimensions, shapes: Shapes, seed: int) -> Tokens:
    """Return random prompts of 4 to 16 tokens."""
    stream = torch.Generator().manual_seed(seed + 1)
    longest = min(_LONGEST, shapes.max_prompt, shapes.cache - NEW_TOKENS)
    lengths = torch.randint(min(4, longest), longest + 1, (count,), generator=stream).tolist()
    return tuple(
        tuple(torch.randint(0, dimensions.vocabulary, (length,), generator=stream).tolist())
        for length in lengths)


def answer_prompts(job: SegmentJob, segments: tuple[Segment, ...], prompts: Tokens) -> Tokens:
    """Return torch's answers in the precision of ``job``: what a GPU must repeat."""
    runners = []
    for segment in segments:
        module = make_module(segment, job.dimensions, job.shapes, job.weights())
        amax: dict[str, float] = {}
        if job.precision.fp8:
            reference(module, segment, load_vectors(vectors_path(job.directory, segment))[0], amax)
        module = to_compute(module, job.precision.compute)
        if job.precision.fp8:
            quantise(module, amax)
        runners.append(TorchRunner(module, segment))
    return _answer(job, segments, runners, prompts, job.precision.compute)


def compare_answers(job: SegmentJob, segments: tuple[Segment, ...], prompts: Tokens) -> bool:
    """Whether ONNX Runtime and torch, both float32, answer every prompt with the same tokens."""
    modules = [
        TorchRunner(make_module(s, job.dimensions, job.shapes, job.weights()), s) for s in segments]
    exported = [OnnxRunner(job.directory / f'{s.name}.fp32.onnx', s) for s in segments]
    return _answer(job, segments, modules, prompts, 'float32') == _answer(
        job, segments, exported, prompts, 'float32')


def _answer(
    job: SegmentJob, segments: tuple[Segment, ...], runners: list[Any], prompts: Tokens, dtype: str,
) -> Tokens:
    d = job.dimensions
    table = job.weights().tensor('embed_tokens.weight', (d.vocabulary, d.hidden)).float()
    chain = LanguageChain(segments, runners, d, job.shapes, table, dtype)
    return tuple(tuple(chain.greedy(prompt, NEW_TOKENS)) for prompt in prompts)
