"""Hold plans to torch on this machine and time them: what a user runs and pastes into an issue.

With the executor ``tensorrt`` not executed by us; see :mod:`runtime`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .cache import read_plan
from .errors import EngineError, EngineRefusedError
from .executors import Executor, PlanExecutor, time_pass
from .loaded_tower import LoadedTower, check_answers, load_tower
from .manifest import MANIFEST, Manifest
from .runtime import RUNTIME_CACHE, pass_gate
from .segments import usual_passes
from .sources import EngineSource

STEPS = ('manifest', 'plan files', 'machine', 'loading', 'stored vectors', 'stored prompts', 'timing')


@dataclass(frozen=True, slots=True)
class PassTime:
    """A pass over all segments of a tower.

    :param sizes: Of what varies.
    """

    name: str
    sizes: dict[str, int]
    median_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Verification:
    """How far one set of plans came.

    :param reached: The last of :data:`STEPS` that was passed; empty if the first one failed.
    :param refusal: Why it went no further; empty if everything passed.
    :param outputs: Outputs compared with stored vectors; ``cosine_min`` and ``deviation_max`` over them.
    :param tokens_identical: Whether every stored prompt was answered with torch's tokens; None if the
        manifest stores none, or it was not reached.
    """

    directory: str
    tower: str
    precision: str
    runs_on: str
    tensorrt: str
    plan_bytes: int
    reached: str
    refusal: str = ''
    outputs: int = 0
    cosine_min: float | None = None
    deviation_max: float | None = None
    tokens_identical: bool | None = None
    passes: tuple[PassTime, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """Whether a node may use the plans here."""
        return not self.refusal

    @property
    def loaded(self) -> bool:
        """Whether it came so far that something ran."""
        return self.reached in STEPS[STEPS.index('loading'):]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), 'passed': self.passed}


def find_sets(root: Path, towers: Sequence[str] = (), precisions: Sequence[str] = ()) -> tuple[Path, ...]:
    """Return the directories of plans below ``root``, or ``root`` itself if it is one.

    :param towers: Only these; empty is all. ``precisions`` alike.
    :raises EngineRefusedError: None.
    """
    candidates = [root] if (root / MANIFEST).is_file() else sorted(root.glob(f'*/{MANIFEST}'))
    found = tuple(
        path if path.is_dir() else path.parent for path in candidates
        if _wanted((path if path.is_dir() else path.parent).name, towers, precisions))
    if not found:
        asked = ', '.join([*towers, *precisions]) or 'any tower'
        raise EngineRefusedError(
            f'engine: {root} holds no finished plans of {asked}; build them with '
            f'"cosmos3 engine build --out {root}"')
    return found


def _wanted(name: str, towers: Sequence[str], precisions: Sequence[str]) -> bool:
    tower, precision, *_ = [*name.split('-'), '', '']
    return (not towers or tower in towers) and (not precisions or precision in precisions)


def verify_set(
    directory: Path, make_executor: Callable[[str], Executor], checkpoint: str | None = None,
    repetitions: int = 50, on_step: Callable[[str], None] = lambda _step: None,
) -> Verification:
    """Check one set of plans step by step; what refuses it ends up in the result.

    :param make_executor: Makes what runs a flavour's plans.
    :param checkpoint: Where the weights are; None is what the plans were built from.
    :param repetitions: Timed passes.
    :param on_step: Told the step that begins.
    """
    found = _Progress(directory)
    try:
        for step in _steps(found, make_executor, checkpoint, repetitions):
            on_step(step)
            found.begin(step)
        found.begin('')
    except EngineError as error:
        return replace(found.result, refusal=str(error))
    return found.result


class _Progress:
    """Collects a :class:`Verification`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.result = Verification(directory.name, '?', '?', '?', '?', 0, '')
        self._under_way = ''

    def begin(self, step: str) -> None:
        """Note that the step before passed."""
        self.result = replace(self.result, reached=self._under_way)
        self._under_way = step

    def note(self, **found: Any) -> None:
        """Add what was found."""
        self.result = replace(self.result, **found)


def _steps(
    found: _Progress, make_executor: Callable[[str], Executor], checkpoint: str | None, repetitions: int,
) -> Iterator[str]:
    """Do one step after another, each after its name was yielded."""
    directory = found.directory
    yield STEPS[0]
    manifest = Manifest.read(directory)
    key = manifest.key
    found.note(tower=key.tower, precision=key.precision, tensorrt=f'{key.flavour} {key.version}',
               plan_bytes=sum(plan.size_bytes for plan in manifest.plans))
    source = (
        EngineSource.of_label(manifest.source, manifest.checkpoint_label) if checkpoint is None
        else EngineSource.open(checkpoint))
    yield STEPS[1]
    for plan in manifest.plans:
        read_plan(directory, plan, manifest)
    yield STEPS[2]
    executor = make_executor(key.flavour)
    found.note(runs_on=executor.label)
    yield STEPS[3]
    loaded = load_tower(directory, manifest, source, executor)
    yield STEPS[4]
    compared = pass_gate(
        directory, manifest, loaded.segments, loaded.runners, executor.bounds(manifest.precision))
    found.note(outputs=len(compared), cosine_min=min(f.cosine for f in compared),
               deviation_max=max(f.deviation for f in compared))
    yield STEPS[5]
    found.note(tokens_identical=check_answers(loaded, source, executor.device))
    if isinstance(executor, PlanExecutor):
        _keep_kernels(loaded)
    yield STEPS[6]
    found.note(passes=tuple(
        PassTime(name, sizes, *time_pass(executor, loaded.segments, loaded.runners, sizes, repetitions))
        for name, sizes in usual_passes(loaded.segments[0].tower, key.shapes).items()))


def _keep_kernels(loaded: LoadedTower) -> None:
    """Note that a GPU ran the plans, and spare the next start compiling kernels for it."""
    for segment, runner in zip(loaded.segments, loaded.runners, strict=True):
        kernels = runner.kernels()  # type: ignore[attr-defined]
        (loaded.directory / f'{segment.name}.{RUNTIME_CACHE}').write_bytes(kernels)
    replace(loaded.manifest, executed=True).write(loaded.directory)


def markdown_table(found: Sequence[Verification]) -> str:
    """Return a table that can be pasted into an issue, refusals below it."""
    lines = ['| runs on | TensorRT | tower | precision | plans GB | verdict | cosine ≥ | deviation ≤ | '
             'tokens | pass | median ms | p99 ms |',
             '|---|---|---|---|---:|---|---:|---:|---|---|---:|---:|']
    for one in found:
        verdict = 'passed' if one.passed else f'refused after: {one.reached or "nothing"}'
        head = [one.runs_on, one.tensorrt, one.tower, one.precision, f'{one.plan_bytes / 1e9:.3f}', verdict,
                _number(one.cosine_min, '.6f'), _number(one.deviation_max, '.1e'),
                {None: '–', True: 'identical', False: 'differ'}[one.tokens_identical]]
        tails = [[p.name, f'{p.median_ms:.3f}', f'{p.p99_ms:.3f}'] for p in one.passes] or [['–', '–', '–']]
        lines += [f'| {" | ".join([*head, *tail])} |' for tail in tails]
    lines += ['', *(f'* {one.directory}: {one.refusal}' for one in found if one.refusal)]
    return '\n'.join(lines).rstrip()


def _number(value: float | None, form: str) -> str:
    return '–' if value is None else format(value, form)
