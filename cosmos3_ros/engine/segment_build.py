"""Export and build one segment: what runs in a process of its own, so that its memory comes back."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
import hashlib
import json
from pathlib import Path
import resource
import time
from typing import Any

from cosmos3_ros.resources import require

from .compiler import BuildOptions, Compiler
from .dimensions import Dimensions, Shapes
from .export import Exported, export_segment
from .fidelity import Fidelity, measure, require_fidelity
from .manifest import PlanEntry
from .modules import make_module
from .precision import PRECISIONS, Precision
from .quantization import convert, observed
from .runners import OnnxRunner, TorchRunner
from .segments import Segment, Tower, cut_tower
from .vectors import (
    Cases,
    cast_inputs,
    continue_decode,
    first_inputs,
    follow,
    load_vectors,
    save_vectors,
    seeded_inputs,
)
from .weights import CheckpointWeights, SeededWeights, WeightSource

torch = require('torch', 'model')

LARGEST_CHECK_BYTES = 500_000_000

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SegmentJob:
    """One segment to build.

    :param checkpoint: Directory; None takes random weights from ``seed`` for ``dimensions``.
    :param dimensions: Sizes, read from the checkpoint.
    :param directory: Where plan, vectors and result go.
    :param scales: Matrix to the largest magnitude of its input in a calibration; the stored vectors may
        raise it.
    :param with_vectors: Run the segment in torch and store what it says. Without it there is no gate.
    :param check_onnx: Export in float32 too and hold ONNX Runtime to torch, if the segment is below
        :data:`LARGEST_CHECK_BYTES`: three float32 copies are in memory then.
    :param keep_onnx: Leave the ONNX files beside the plan.
    """

    checkpoint: Path | None
    seed: int
    dimensions: Dimensions
    tower: Tower
    index: int
    shapes: Shapes
    segment_bytes: int
    precision: Precision
    flavour: str
    options: BuildOptions
    directory: Path
    rebuild: str
    scales: Mapping[str, float] = field(default_factory=dict)
    with_vectors: bool = True
    check_onnx: bool = True
    keep_onnx: bool = False

    def segments(self) -> tuple[Segment, ...]:
        """Return all segments of the tower."""
        return cut_tower(self.tower, self.dimensions, self.shapes, self.segment_bytes)

    def weights(self) -> WeightSource:
        """Open the weights."""
        return SeededWeights(self.seed) if self.checkpoint is None else CheckpointWeights(self.checkpoint)


@dataclass(frozen=True, slots=True)
class SegmentResult:
    """What became of a :class:`SegmentJob`; also the file that makes a build resumable.

    :param layers: First layer, and the one after the last.
    :param stage_seconds: Wall time per stage.
    :param cpu_seconds: Processor time of the building process so far, all threads.
    """

    plan: PlanEntry
    layers: tuple[int, int]
    excluded: tuple[str, ...]
    stage_seconds: dict[str, float]
    cpu_seconds: float


def vectors_path(directory: Path, segment: Segment) -> Path:
    """Return where a segment's stored inputs and outputs are."""
    return directory / f'{segment.name}.vectors.safetensors'


def finished_segment(job: SegmentJob) -> SegmentResult | None:
    """Return the result of an earlier build, if it serves ``job``.

    Plan and vectors must be what was written then; vectors, the check on ONNX Runtime and its files must
    be there if the job asks for them, and what was measured must be within the job's bounds. So a build
    that is asked for again after a refusal does something about it.
    """
    segment = job.segments()[job.index]
    try:
        content = json.loads((job.directory / f'{segment.name}.json').read_text(encoding='utf-8'))
        entry = PlanEntry(**{**content['plan'], 'fidelity': tuple(content['plan']['fidelity'])})
        first, last = content['layers']
        found = SegmentResult(
            entry, (first, last), tuple(content['excluded']), dict(content['stage_seconds']),
            content['cpu_seconds'])
        return found if _serves(job, segment, found) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _serves(job: SegmentJob, segment: Segment, found: SegmentResult) -> bool:
    """Whether an earlier result is what ``job`` would make.

    :raises OSError: A file is missing.
    """
    if found.layers != (segment.first, segment.last) or (
            _digest(job.directory / found.plan.file) != found.plan.sha256):
        return False
    kept = [f'{segment.name}.onnx'] * job.keep_onnx
    if job.with_vectors:
        if _digest(vectors_path(job.directory, segment)) != found.plan.vectors_sha256:
            return False
        runners = {str(row['runner']) for row in found.plan.fidelity}
        if _checks_onnx(job, segment):
            exported = job.precision.exported
            if f'onnxruntime/{exported}' not in runners:
                return False
            kept += [f'{segment.name}.{exported}.onnx'] * job.keep_onnx
        drift = [
            Fidelity(**{name: value for name, value in row.items() if name != 'runner'})
            for row in found.plan.fidelity if row['runner'] == f'torch/{job.precision.name}']
        if not drift or not all(fidelity.within(job.precision) for fidelity in drift):
            return False
    return all((job.directory / name).is_file() for name in kept)


def build_segment(job: SegmentJob, say: Say = lambda _text: None) -> SegmentResult:
    """Export, check and build one segment.

    :param say: Told the stage that begins: weights, reference, check, export, parse, build, write.
    :raises EngineError: A stage failed.
    :raises EngineRefusedError: ONNX Runtime or the precision drifts from float32 torch.
    """
    segments = job.segments()
    segment = segments[job.index]
    clock = _Stages(say)
    found: list[dict[str, Any]] = []
    amax, vectors = dict(job.scales), ''
    if job.with_vectors:
        clock.begin('weights')
        module = make_module(segment, job.dimensions, job.shapes, job.weights())
        clock.begin('reference')
        inputs, outputs = reference(module, segment, _inputs(job, segments), amax)
        save_vectors(vectors_path(job.directory, segment), inputs, outputs)
        vectors = _digest(vectors_path(job.directory, segment))
        clock.begin('check')
        if _checks_onnx(job, segment):
            found += _check_onnx(job, segment, module, amax, inputs, outputs)
        excluded = convert(module, job.precision, amax)
        drift = measure(segment, TorchRunner(module, segment), inputs, outputs, job.precision.compute)
        found += _record(f'torch/{job.precision.name}', drift)
        require_fidelity(drift, job.precision, job.rebuild)
    else:
        clock.begin('weights')
        module = make_module(segment, job.dimensions, job.shapes, job.weights(), job.precision.compute)
        excluded = convert(module, job.precision, amax)
    clock.begin('export')
    exported = export_segment(
        module, segment, job.directory / f'{segment.name}.onnx', job.precision.compute)
    del module
    plan = job.directory / f'{segment.name}.plan'
    size = Compiler(job.flavour).compile(exported.path, segment, job.options, plan, clock.begin)
    if not job.keep_onnx:
        _remove(exported)
    clock.begin('hash')
    digest = _digest(plan)
    clock.end()
    used = resource.getrusage(resource.RUSAGE_SELF)
    entry = PlanEntry(
        segment.name, plan.name, size, digest, exported.sha256, round(sum(clock.seconds.values()), 2),
        used.ru_maxrss * 1024, tuple(found), vectors)
    result = SegmentResult(
        entry, (segment.first, segment.last), excluded, {k: round(v, 2) for k, v in clock.seconds.items()},
        round(used.ru_utime + used.ru_stime, 2))
    (job.directory / f'{segment.name}.json').write_text(
        json.dumps(asdict(result), sort_keys=True, indent=2) + '\n', encoding='utf-8')
    return result


def reference(module: Any, segment: Segment, inputs: Cases, amax: dict[str, float]) -> tuple[Cases, Cases]:
    """Run float32 torch on every case; return completed inputs, and outputs.

    :param amax: Receives the largest magnitude of every matrix's input.
    """
    runner, outputs = TorchRunner(module, segment), Cases()
    inputs = dict(inputs)
    with observed(module, amax):
        # A file gives its cases in the order of the alphabet; decode goes on from a prefill.
        for case in sorted(inputs, key=lambda name: name == 'decode'):
            given = inputs[case]
            if case == 'decode':
                given = inputs[case] = continue_decode(segment, given, outputs['prefill'])
            outputs[case] = runner.run(cast_inputs(segment, given, 'float32'))
    return {case: cast_inputs(segment, given, 'float32') for case, given in inputs.items()}, outputs


def _inputs(job: SegmentJob, segments: tuple[Segment, ...]) -> Cases:
    """Return the segment's inputs: the tower's first ones, or what the segment before it left."""
    carried = job.directory / f'{job.tower}.inputs.safetensors'
    if job.index == 0 or not carried.is_file():
        cases = seeded_inputs(job.tower, job.dimensions, job.shapes, job.weights(), job.seed)
        save_vectors(carried, cases, {})
        if job.index == 0:
            return first_inputs(segments[0], cases)
    before = segments[job.index - 1]
    _, outputs = load_vectors(vectors_path(job.directory, before))
    return follow(load_vectors(carried)[0], outputs, segments[job.index])


def _checks_onnx(job: SegmentJob, segment: Segment) -> bool:
    return job.check_onnx and segment.weight_bytes <= LARGEST_CHECK_BYTES


def _check_onnx(
    job: SegmentJob, segment: Segment, module: Any, amax: dict[str, float], inputs: Cases, outputs: Cases,
) -> list[dict[str, Any]]:
    """Hold ONNX Runtime to torch on float32 exports of the same module."""
    found = []
    for name in dict.fromkeys(('fp32', job.precision.exported)):
        precision = PRECISIONS[name]
        if precision.matrices != 'plain':
            module = make_module(segment, job.dimensions, job.shapes, job.weights())
            convert(module, precision, amax)
        path = job.directory / f'{segment.name}.{precision.name}.onnx'
        exported = export_segment(module, segment, path, 'float32')
        seen = measure(segment, OnnxRunner(path, segment), inputs, outputs, 'float32')
        require_fidelity(seen, precision, job.rebuild)
        found += _record(f'onnxruntime/{precision.name}', seen)
        if not job.keep_onnx and not (job.tower == 'language' and precision.name == 'fp32'):
            _remove(exported)
    return found


def _record(runner: str, found: list[Fidelity]) -> list[dict[str, Any]]:
    return [{'runner': runner, **asdict(fidelity)} for fidelity in found]


def _remove(exported: Exported) -> None:
    exported.path.unlink(missing_ok=True)
    exported.path.with_name(f'{exported.path.name}.data').unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


class _Stages:
    """Seconds per stage. Durations are reported, no decision depends on them."""

    def __init__(self, say: Say) -> None:
        self.seconds: dict[str, float] = {}
        self._say, self._stage, self._begin_s = say, '', 0.0

    def begin(self, stage: str) -> None:
        self.end()
        self._stage, self._begin_s = stage, time.perf_counter()
        self._say(stage)

    def end(self) -> None:
        if self._stage:
            spent = time.perf_counter() - self._begin_s
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + spent
        self._stage = ''
