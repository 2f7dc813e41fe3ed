"""Build the plans of a checkpoint: segment by segment, resumable, each in its own process."""

from collections.abc import Callable
from dataclasses import dataclass
import logging
import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from .compiler import BuildOptions, Compiler, named_targets
from .dimensions import Dimensions, Shapes
from .errors import EngineError, EngineRefusedError
from .manifest import EngineKey, Manifest, PlanEntry, rebuild_command
from .precision import PLANS, find_precision
from .prompts import MEMORY_BYTES, PROMPTS, compare_answers, memory_bytes, store_prompts
from .scales import Scales
from .segment_build import LARGEST_CHECK_BYTES, SegmentJob, SegmentResult, build_segment, finished_segment
from .segments import DEFAULT_SEGMENT_BYTES, Segment, Tower, cut_tower

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build.

    :param checkpoint: Directory of the checkpoint; None takes random weights for ``dimensions``.
    :param checkpoint_hash: Content hash of its weights.
    :param label: Its name and hash, for people.
    :param source: What the user named it by, for the command to rebuild.
    :param out: Directory that holds all sets of plans.
    :param scales: A calibration, for precisions that have one.
    :param least_cosine: Bound of the gate; None is the precision's. ``most_deviation`` alike.
    :param prompts: Stored prompts of the gate; 0 leaves the token check out.
    :param prompt_memory_bytes: They are stored if the language model's weights fit into this.
    """

    checkpoint: Path | None
    checkpoint_hash: str
    label: str
    source: str
    dimensions: Dimensions
    shapes: Shapes
    towers: tuple[Tower, ...]
    precision: str
    options: BuildOptions
    out: Path
    flavour: str = 'rtx'
    segment_bytes: int = DEFAULT_SEGMENT_BYTES
    seed: int = 0
    scales: Scales | None = None
    least_cosine: float | None = None
    most_deviation: float | None = None
    with_vectors: bool = True
    check_onnx: bool = True
    keep_onnx: bool = False
    prompts: int = PROMPTS
    prompt_memory_bytes: int = MEMORY_BYTES
    isolate: bool = True

    def __post_init__(self) -> None:
        """Check what does not need the checkpoint."""
        if find_precision(self.precision).name not in PLANS:
            raise EngineError(
                f'precision: {self.precision!r} arrived, one of {", ".join(PLANS)} is allowed for plans')
        find_precision(self.precision).bounded(self.least_cosine, self.most_deviation).check_targets(
            named_targets(self.options.targets))
        if self.scales is not None:
            self.scales.require_checkpoint(self.checkpoint_hash)
        if not self.towers:
            raise EngineError('tower: none arrived, at least one of vision, language, generation is needed')
        if self.prompts < 0:
            raise EngineError(f'prompts: {self.prompts} arrived, 0 or more is allowed')


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a build is: ``index`` of ``count`` segments, and the stage that begins."""

    index: int
    count: int
    segment: str
    stage: str


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What was built.

    :param engines: Directory and manifest per tower.
    :param peak_rss_bytes: Largest resident memory of any process.
    :param fidelity_cosine_min: Smallest cosine against float32 torch; None without vectors.
    :param tokens_identical: Whether ONNX Runtime answered the stored prompts with torch's tokens;
        None if it was not asked.
    """

    engines: tuple[tuple[Path, Manifest], ...]
    seconds: float
    peak_rss_bytes: int
    fidelity_cosine_min: float | None
    tokens_identical: bool | None

    @property
    def plan_bytes(self) -> int:
        """All plans together."""
        return sum(plan.size_bytes for _, manifest in self.engines for plan in manifest.plans)


def build(request: BuildRequest, report: Callable[[Progress], None] = lambda _progress: None) -> BuildResult:
    """Build every tower of ``request``; segments that an earlier run finished are kept.

    :raises EngineError: A segment cannot be exported or built.
    :raises EngineRefusedError: A segment drifts from torch.
    """
    compiler = Compiler(request.flavour)
    compiler.check(request.options)
    jobs = [_job(request, compiler.version, tower, i)
            for tower in request.towers for i in range(len(cut_request(request, tower)))]
    results: dict[str, list[SegmentResult]] = {tower: [] for tower in request.towers}
    peak = 0
    for i, job in enumerate(jobs):
        segment = job.segments()[job.index]

        def say(stage: str, place: int = i, name: str = segment.name) -> None:
            report(Progress(place, len(jobs), name, stage))

        job.directory.mkdir(parents=True, exist_ok=True)
        result = finished_segment(job)
        if result is None:
            result = _run(job, say, isolate=request.isolate)
        else:
            say('kept')
        results[job.tower].append(result)
        peak = max(peak, result.plan.peak_rss_bytes)
    engines = []
    for tower in request.towers:
        job = next(job for job in jobs if job.tower == tower)
        engines.append((job.directory, _finish(request, compiler.version, job, results[tower])))
    plans = [plan for _, manifest in engines for plan in manifest.plans]
    cosines = [float(f['cosine']) for plan in plans for f in plan.fidelity]
    identical = [m.tokens_identical for _, m in engines if m.tokens_identical is not None]
    return BuildResult(
        tuple(engines), sum(plan.seconds for plan in plans), peak, min(cosines, default=None),
        all(identical) if identical else None)


def engine_key(request: BuildRequest, version: str, tower: Tower) -> EngineKey:
    """Return the key of one tower's plans."""
    return EngineKey(
        request.checkpoint_hash, tower, request.shapes, request.precision, request.flavour, version,
        named_targets(request.options.targets), request.options.weight_streaming, request.options.refittable,
        '' if request.scales is None else request.scales.digest)


def cut_request(request: BuildRequest, tower: Tower) -> tuple[Segment, ...]:
    """Return the segments of one tower of a request."""
    return cut_tower(tower, request.dimensions, request.shapes, request.segment_bytes)


def _job(request: BuildRequest, version: str, tower: Tower, index: int) -> SegmentJob:
    key = engine_key(request, version, tower)
    return SegmentJob(
        request.checkpoint, request.seed, request.dimensions, tower, index, request.shapes,
        request.segment_bytes,
        find_precision(request.precision).bounded(request.least_cosine, request.most_deviation),
        request.flavour, request.options,
        request.out / key.directory, rebuild_command(request.source, key),
        {} if request.scales is None else request.scales.amax.get(tower, {}),
        request.with_vectors, request.check_onnx, request.keep_onnx)


def _finish(request: BuildRequest, version: str, job: SegmentJob, results: list[SegmentResult]) -> Manifest:
    """Write the manifest, with the gate's prompts and answers if the language model fits in memory.

    A manifest of the same plans, bounds and prompts stays as it is.

    :raises EngineRefusedError: ONNX Runtime answers a prompt with other tokens than torch.
    """
    plans = tuple(result.plan for result in results)
    segments = job.segments()
    needed = memory_bytes(segments, job.precision)
    asked = request.prompts if job.tower == 'language' and request.with_vectors else 0
    stored = asked if needed <= request.prompt_memory_bytes else 0
    compared = request.check_onnx and all(s.weight_bytes <= LARGEST_CHECK_BYTES for s in segments)
    kept = _kept_manifest(request, job, plans, stored, compared=compared)
    if kept is not None:
        return kept
    prompts: tuple[tuple[int, ...], ...] = ()
    answers: tuple[tuple[int, ...], ...] = ()
    identical, notes = None, []
    if stored:
        prompts, answers = store_prompts(job, segments, stored)
        if compared:
            identical = compare_answers(job, segments, prompts)
            if not identical:
                raise EngineRefusedError(
                    'engine: ONNX Runtime answers the stored prompts with other tokens than torch does')
    elif asked:
        notes.append(
            f'no stored prompts: the language model takes {needed / 1e9:.1f} GB, '
            f'{request.prompt_memory_bytes / 1e9:.1f} are set aside (--prompt-memory-gb)')
    manifest = Manifest(
        engine_key(request, version, job.tower), request.source, request.label, request.segment_bytes, plans,
        tuple(name for result in results for name in result.excluded), prompts, answers, identical,
        notes=tuple(notes), least_cosine=request.least_cosine, most_deviation=request.most_deviation)
    manifest.write(job.directory)
    return manifest


def _kept_manifest(
    request: BuildRequest, job: SegmentJob, plans: tuple[PlanEntry, ...], stored: int, *, compared: bool,
) -> Manifest | None:
    """Return the manifest of an earlier build, if this one would write the same."""
    try:
        kept = Manifest.read(job.directory)
    except EngineRefusedError:
        return None  # missing, or edited since: it is written again
    same = (
        kept.plans == plans and kept.segment_bytes == request.segment_bytes
        and (kept.least_cosine, kept.most_deviation) == (request.least_cosine, request.most_deviation))
    if request.with_vectors:
        same &= len(kept.prompts) == stored and (kept.tokens_identical is True or not (stored and compared))
    return kept if same else None


def _run(job: SegmentJob, say: Callable[[str], None], *, isolate: bool) -> SegmentResult:
    if not isolate:
        return build_segment(job, say)
    context = multiprocessing.get_context('spawn')
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(job, theirs), name='cosmos3-engine-build')
    child.start()
    theirs.close()
    result: Any = None
    try:
        while not isinstance(result, SegmentResult | EngineError):
            result = ours.recv()
            if isinstance(result, str):
                say(result)
    except EOFError:
        child.join()
        raise EngineError(
            f'{job.segments()[job.index].name}: the building process ended with status {child.exitcode}; '
            'if it was killed, memory ran out: choose a smaller --segment-bytes') from None
    finally:
        child.join()
    if isinstance(result, EngineError):
        raise result
    return result


def _child(job: SegmentJob, theirs: Connection) -> None:
    try:
        theirs.send(build_segment(job, theirs.send))
    except EngineError as error:
        theirs.send(error)
