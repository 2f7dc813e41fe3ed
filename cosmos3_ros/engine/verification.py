"""Verify and time plans on the GPU of this machine: what a user runs and reports back.

Not executed by us; see :mod:`runtime`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
import statistics
from typing import Any

from cosmos3_ros.model.checkpoint import Checkpoint
from cosmos3_ros.resources import require

from .cache import find_engine
from .compiler import Compiler
from .decoding import LanguageChain
from .dimensions import Dimensions
from .errors import EngineError
from .fidelity import require_tokens
from .manifest import Manifest
from .precision import find_precision
from .prompts import NEW_TOKENS
from .runtime import RUNTIME_CACHE, find_machine, load_engine, pass_gate
from .segments import Segment, usual_passes
from .weights import CheckpointWeights

torch = require('torch', 'model')

WARM_UP = 5


@dataclass(frozen=True, slots=True)
class Verification:
    """A tower that passed the gate on this GPU.

    :param cosine_min: Smallest cosine over segments, cases and outputs.
    :param tokens_identical: Whether every stored prompt was answered with torch's tokens; None if the
        manifest stores no prompts.
    """

    tower: str
    gpu: str
    target: str
    outputs: int
    cosine_min: float
    deviation_max: float
    tokens_identical: bool | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            'gpu': self.gpu, 'target': self.target, 'outputs': self.outputs, 'cosine_min': self.cosine_min,
            'deviation_max': self.deviation_max, 'tokens_identical': self.tokens_identical}


def verify_tower(
    root: Path, tower: str, precision: str, checkpoint: Checkpoint, flavour: str = 'rtx',
) -> Verification:
    """Run every stored vector and prompt through a tower's plans, and note in the manifest that it passed.

    :param root: What ``--out`` was.
    :raises EngineRefusedError: The plans are not for this machine, or drifted.
    """
    directory, manifest, segments, runners = _load(root, tower, precision, checkpoint, flavour)
    found = pass_gate(directory, manifest, segments, runners)
    identical = None
    if manifest.prompts:
        answers = _answers(manifest, segments, runners, checkpoint)
        require_tokens([list(a) for a in manifest.answers], answers, manifest.rebuild_command)
        identical = True
    for segment, runner in zip(segments, runners, strict=True):
        # The next start need not compile kernels for this GPU again.
        (directory / f'{segment.name}.{RUNTIME_CACHE}').write_bytes(runner.kernels())
    replace(manifest, executed=True).write(directory)
    major, minor = torch.cuda.get_device_capability()
    return Verification(
        tower, torch.cuda.get_device_name(), f'sm{major}{minor}', len(found), min(f.cosine for f in found),
        max(f.deviation for f in found), identical)


def measure_tower(
    root: Path, tower: str, precision: str, checkpoint: Checkpoint, flavour: str = 'rtx',
    repetitions: int = 50,
) -> list[dict[str, Any]]:
    """Verify a tower, then time the passes that a node makes over all its segments.

    Times are between CUDA events on the stream that does the work.

    :raises EngineRefusedError: As :func:`verify_tower`.
    """
    verified = verify_tower(root, tower, precision, checkpoint, flavour)
    _, manifest, segments, runners = _load(root, tower, precision, checkpoint, flavour)
    rows = []
    for name, sizes in usual_passes(segments[0].tower, manifest.key.shapes).items():
        prepared = [
            (runner, _blank(segment, sizes)) for segment, runner in zip(segments, runners, strict=True)]
        times_ms = _time_ms(prepared, repetitions)
        rows.append({
            'tower': tower, 'pass': name, 'sizes': sizes, 'precision': precision,
            'gpu': verified.gpu, 'tensorrt': f'{manifest.key.flavour} {manifest.key.version}',
            'median_ms': round(statistics.median(times_ms), 3), 'p99_ms': round(_quantile(times_ms, 0.99), 3),
            'cosine_min': round(verified.cosine_min, 6)})
    return rows


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return a table that can be pasted into an issue."""
    lines = ['| GPU | TensorRT | tower | pass | precision | median ms | p99 ms | cosine ≥ |',
             '|---|---|---|---|---|---:|---:|---:|']
    lines += [
        f'| {r["gpu"]} | {r["tensorrt"]} | {r["tower"]} | {r["pass"]} | {r["precision"]} | {r["median_ms"]} '
        f'| {r["p99_ms"]} | {r["cosine_min"]} |' for r in rows]
    return '\n'.join(lines)


def _load(
    root: Path, tower: str, precision: str, checkpoint: Checkpoint, flavour: str,
) -> tuple[Path, Manifest, tuple[Segment, ...], tuple[Any, ...]]:
    compiler = Compiler(flavour)
    machine = find_machine(compiler)
    directory, manifest = find_engine(root, tower, precision, checkpoint.content_hash, machine)
    segments, runners = load_engine(
        directory, manifest, Dimensions.read(checkpoint.directory), checkpoint.content_hash, compiler)
    return directory, manifest, segments, runners


def _answers(
    manifest: Manifest, segments: tuple[Segment, ...], runners: tuple[Any, ...], checkpoint: Checkpoint,
) -> list[list[int]]:
    dimensions = Dimensions.read(checkpoint.directory)
    table = CheckpointWeights(checkpoint.directory).tensor(
        'embed_tokens.weight', (dimensions.vocabulary, dimensions.hidden))
    chain = LanguageChain(
        segments, runners, dimensions, manifest.key.shapes, table.float(),
        find_precision(manifest.key.precision).compute, 'cuda')
    return [chain.greedy(prompt, NEW_TOKENS) for prompt in manifest.prompts]


def _blank(segment: Segment, sizes: dict[str, int]) -> dict[str, Any]:
    kinds = {'compute': torch.bfloat16, 'float32': torch.float32, 'int64': torch.int64, 'bool': torch.bool}
    blank = {
        port.name: torch.zeros(port.sizes(sizes), dtype=kinds[port.kind], device='cuda')
        for port in segment.inputs}
    if 'mask' in blank:
        blank['mask'][:] = True
    return blank


def _time_ms(prepared: list[tuple[Any, dict[str, Any]]], repetitions: int) -> list[float]:
    if repetitions < 1:
        raise EngineError(f'repetitions: {repetitions} arrived, at least 1 is allowed')
    times = []
    for i in range(WARM_UP + repetitions):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for runner, inputs in prepared:
            runner.run(inputs)
        end.record()
        end.synchronize()
        if i >= WARM_UP:
            times.append(float(begin.elapsed_time(end)))
    return times


def _quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]
