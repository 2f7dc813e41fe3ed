"""Stored prompts of the gate: token ids in, torch's greedy tokens out.

Only decisive prompts are stored: where two words are nearly as likely, rounding decides, and a GPU adds
numbers in another order than a CPU does.
"""

from collections.abc import Iterator
from typing import Any

from cosmos3_ros.resources import require

from .decoding import LanguageChain
from .dimensions import Dimensions, Shapes
from .errors import EngineError
from .modules import make_module
from .precision import Precision, find_precision
from .quantization import convert
from .runners import OnnxRunner, TorchRunner
from .segment_build import SegmentJob, reference, vectors_path
from .segments import Segment
from .vectors import load_vectors

torch = require('torch', 'model')

PROMPTS = 64
NEW_TOKENS = 8
MARGIN = 0.03
"""Least distance of the likeliest word from the next, in magnitudes of the largest logit: twice what
bfloat16 took away from one of Nano's layers (benchmarks/engine.md), for each of the two."""
_LONGEST = 16
_DRAWS = 16
_CALIBRATED_DRAWS = 64
MEMORY_BYTES = 2_000_000_000

Tokens = tuple[tuple[int, ...], ...]


def memory_bytes(segments: tuple[Segment, ...], precision: Precision) -> int:
    """Return the memory of the whole language model, loaded to answer prompts.

    FP8 is loaded twice, and each time in float32 first.
    """
    return sum(segment.weight_bytes for segment in segments) * (3 if precision.calibrated else 1)


def draw_prompts(dimensions: Dimensions, shapes: Shapes, seed: int) -> Iterator[tuple[int, ...]]:
    """Yield random prompts of 4 to 16 tokens, without end."""
    stream = torch.Generator().manual_seed(seed + 1)
    longest = min(_LONGEST, shapes.max_prompt, shapes.cache - NEW_TOKENS)
    while True:
        length = int(torch.randint(min(4, longest), longest + 1, (), generator=stream))
        yield tuple(torch.randint(0, dimensions.vocabulary, (length,), generator=stream).tolist())


def store_prompts(job: SegmentJob, segments: tuple[Segment, ...], count: int) -> tuple[Tokens, Tokens]:
    """Return decisive prompts, and torch's answers in the precision of ``job``: what a GPU must repeat.

    In FP8 a rounding before a matrix can move its input by a whole step of e4m3. So torch must give the
    same decisive answer twice there: with bfloat16 and with float32 around the matrices.

    :raises EngineError: Hardly any prompt is decisive: the model says everything alike.
    """
    ways = [job.precision]
    if job.precision.calibrated:
        ways.append(find_precision(job.precision.exported))
    chains = [
        _chain(job, segments, [_runner(job, segment, way) for segment in segments], way.compute)
        for way in ways]
    prompts, answers = [], []
    drawn = draw_prompts(job.dimensions, job.shapes, job.seed)
    # Of few prompts none may be decisive by chance.
    most = max(count, 16) * (_CALIBRATED_DRAWS if job.precision.calibrated else _DRAWS)
    for _ in range(most):
        prompt = next(drawn)
        answer = decisive_answer(chains[0], prompt)
        if answer is not None and all(decisive_answer(chain, prompt) == answer for chain in chains[1:]):
            prompts.append(prompt)
            answers.append(answer)
        if len(prompts) == count:
            return tuple(prompts), tuple(answers)
    raise EngineError(
        f'prompts: {len(prompts)} of {most} random prompts have an answer that does not hang on '
        f'rounding, {count} are wanted; choose a smaller --prompts')


def _runner(job: SegmentJob, segment: Segment, precision: Precision) -> TorchRunner:
    """Return torch in ``precision``, with the scales that the plan has."""
    kind = 'float32' if precision.calibrated else precision.compute
    module = make_module(segment, job.dimensions, job.shapes, job.weights(), kind)
    amax = dict(job.scales)
    if precision.calibrated:
        reference(module, segment, load_vectors(vectors_path(job.directory, segment))[0], amax)
    convert(module, precision, amax)
    return TorchRunner(module, segment)


def decisive_answer(chain: LanguageChain, prompt: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the greedy answer, or None once a word is chosen by less than :data:`MARGIN`."""
    logits, answer = chain.read(prompt), []
    while True:
        (first, second), (best, _) = torch.topk(logits, 2)
        if first - second < MARGIN * logits.abs().max():
            return None
        answer.append(int(best))
        if len(answer) == NEW_TOKENS:
            return tuple(answer)
        logits = chain.decode(answer[-1], len(prompt) + len(answer) - 1)


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
    chain = _chain(job, segments, runners, dtype)
    return tuple(tuple(chain.greedy(prompt, NEW_TOKENS)) for prompt in prompts)


def _chain(
    job: SegmentJob, segments: tuple[Segment, ...], runners: list[Any], dtype: str,
) -> LanguageChain:
    d = job.dimensions
    table = job.weights().tensor('embed_tokens.weight', (d.vocabulary, d.hidden)).float()
    return LanguageChain(segments, runners, d, job.shapes, table, dtype)
