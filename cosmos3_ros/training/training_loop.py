"""The loop that all stages share: optimiser, clipping, averaging, log, snapshots, a limit on time."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
import itertools
import json
import math
from pathlib import Path
from time import perf_counter
from typing import Any

from ..resources import require
from .averaging import AveragedWeights
from .objective import Batch, Objective, PreparedObjective, decays
from .settings import OptimiserSettings, RunSettings, TrainingError
from .snapshots import load_snapshot, restore_generators, save_snapshot

torch = require('torch', 'model')

Report = Callable[[dict[str, Any]], None]

_ASK_EVERY = 10
"""Steps between two questions of several processes whether time is up."""

_TIMED_STEPS = 101

FIT_FROM, FIT_EVERY, FIT_UNTIL = 100, 200, 0.9
"""From which step on, every how many and to which share of them it is measured how many fit: the first ones
compile, others share the machine with what ends before they do."""


@dataclass(frozen=True, slots=True)
class StageResult:
    """How a stage ended.

    :param done: False if time ran out first.
    :param step_s: Median seconds of this piece's last steps.
    :param seconds: All pieces together.
    :param log: One entry per ``log_every`` steps: step and means since the one before.
    """

    stage: str
    done: bool
    steps: int
    step_s: float
    seconds: float
    log: tuple[dict[str, float], ...]


class TrainingLoop:
    """Trains one objective.

    :param stage: Names files and messages.
    :param objective: What is minimised.
    :param draw: Step to all draws of that step, over all processes.
    :param accelerator: ``accelerate.Accelerator``.
    :param directory: Where the snapshot and the log of this stage lie.
    :param digest: Of the settings, kept in the snapshot.
    :param clock_s: Monotonic seconds, for durations only.
    """

    def __init__(
        self, stage: str, objective: Objective, draw: Callable[[int], tuple[tuple[int, int], ...]],
        optimiser: OptimiserSettings, run: RunSettings, accelerator: Any, directory: Path, digest: str, *,
        clock_s: Callable[[], float] = perf_counter,
    ) -> None:
        self._stage, self._draw, self._settings, self._run = stage, draw, optimiser, run
        self._accelerator, self._directory, self._digest = accelerator, directory, digest
        self._clock_s = clock_s
        self._most_steps = optimiser.steps
        self._parameters = objective.trained()
        if not self._parameters:
            raise TrainingError(f'stage {stage}: nothing is trained; change its setting trainable')
        objective.train()  # type: ignore[attr-defined]  # adapters may drop out
        groups: dict[tuple[float, bool], list[Any]] = {}
        for name, parameter in self._parameters.items():
            key = (objective.learning_rate_factor(name), decays(name, parameter))
            groups.setdefault(key, []).append(parameter)
        self._factors = [factor for factor, _ in groups]
        if run.compile:
            objective.compile_layers()
        self._bare, self._objective = objective, accelerator.prepare(objective)
        self._optimiser = accelerator.prepare(torch.optim.AdamW(
            [{'params': parameters, 'weight_decay': optimiser.weight_decay if decay else 0.0}
             for (_, decay), parameters in groups.items()],
            lr=optimiser.learning_rate, betas=(optimiser.beta1, optimiser.beta2), eps=optimiser.epsilon,
            fused=accelerator.device.type == 'cuda' or None))
        self.average = AveragedWeights(self._parameters, optimiser.ema_decay)
        self.step = 0
        # Of each scalar: not every step need have all of them.
        self._sums: dict[str, Any] = {}
        self._times: dict[str, int] = {}
        self._since = 0
        self._log: list[dict[str, float]] = []
        self._seconds = 0.0

    @property
    def snapshot_path(self) -> Path:
        """Where the snapshot lies."""
        return self._directory / f'{self._stage}.snapshot.pt'

    def resume(self) -> bool:
        """Go on from the snapshot, if there is one.

        :raises TrainingError: It is broken or of other settings.
        """
        content = load_snapshot(self.snapshot_path, self._digest)
        if content is None:
            return False
        if set(content['weights']) != set(self._parameters):
            raise TrainingError(f'snapshot {self.snapshot_path}: it is of another model')
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(content['weights'][name])
        self._optimiser.load_state_dict(content['optimiser'])
        self.average.restore(content['average'])
        restore_generators(content['generators'])
        self.step, self._seconds = int(content['step']), float(content['seconds'])
        self._settings = replace(self._settings, steps=int(content['steps']))
        self._log = list(content['log'])
        device = self._accelerator.device
        self._sums = {name: value.to(device) for name, value in content['sums'].items()}
        self._times, self._since = dict(content['times']), int(content['since'])
        return True

    def save(self) -> None:
        """Write the snapshot."""
        if self._accelerator.is_main_process:
            save_snapshot(self.snapshot_path, {
                'digest': self._digest, 'step': self.step, 'seconds': self._seconds, 'log': self._log,
                'weights': {name: p.detach() for name, p in self._parameters.items()},
                'sums': self._sums, 'times': self._times, 'since': self._since, 'steps': self._settings.steps,
                'optimiser': self._optimiser.state_dict(), 'average': self.average.state()})
            (self._directory / f'{self._stage}.log.jsonl').write_text(
                ''.join(json.dumps(entry) + '\n' for entry in self._log), encoding='utf-8')

    def run(
        self, remaining_s: Callable[[], float], report: Report | None = None,
        measure: Callable[[], dict[str, float]] | None = None, fit_s: Callable[[], float] | None = None,
    ) -> StageResult:
        """Train until the stage is done or time runs out; either way a snapshot is left.

        :param remaining_s: Seconds that may still be spent; may be infinite.
        :param report: Takes every entry of the log as it is made.
        :param measure: What held-out data says of the weights as they are, asked every ``measure_every``
            steps.
        :param fit_s: Seconds until the stage should be done. Their number is set to what fits, at most
            the settings', again and again (:data:`FIT_EVERY`); the learning rate falls accordingly.
        :raises TrainingError: The loss or the norm of its gradient is no number any more.
        """
        bare = self._bare
        with bare.ahead(self._coming()) if isinstance(bare, PreparedObjective) else nullcontext():
            return self._run_steps(remaining_s, report, measure, fit_s)

    def _run_steps(
        self, remaining_s: Callable[[], float], report: Report | None,
        measure: Callable[[], dict[str, float]] | None, fit_s: Callable[[], float] | None,
    ) -> StageResult:
        fit_from: float | None = None
        # Of the last steps only: the median is asked for before every step.
        durations: deque[float] = deque(maxlen=_TIMED_STEPS)
        saved_at = self._clock_s()
        while self.step < self._settings.steps:
            if fit_s is not None and self._is_time_to_fit():
                now = self._synchronised_s()
                if fit_from is not None:
                    self._fit((now - fit_from) / FIT_EVERY, fit_s())
                fit_from = now
            began = self._clock_s()
            if self._is_time_up(remaining_s, durations):
                break
            for name, value in self._take_step().items():
                self._sums[name] = self._sums.get(name, 0.0) + value
                self._times[name] = self._times.get(name, 0) + 1
            self._since += 1
            self.step += 1
            if self._since == self._run.log_every or self.step == self._settings.steps:
                self._check_finite()
                self._write_log(report, measure)
            took = self._clock_s() - began
            durations.append(took)
            self._seconds += took
            if self._clock_s() - saved_at > self._run.snapshot_every_s:
                self._check_finite()
                self.save()
                saved_at = self._clock_s()
        self._check_finite()
        self.save()
        return StageResult(
            self._stage, self.step >= self._settings.steps, self.step, _median(durations), self._seconds,
            tuple(self._log))

    def _is_time_to_fit(self) -> bool:
        since = self.step - FIT_FROM
        return since >= 0 and since % FIT_EVERY == 0 and self.step < FIT_UNTIL * self._settings.steps

    def _synchronised_s(self) -> float:
        if self._accelerator.device.type == 'cuda':
            torch.cuda.synchronize(self._accelerator.device)
        return self._clock_s()

    def _fit(self, step_s: float, left_s: float) -> None:
        """Set the number of steps, the same in all processes."""
        times = torch.tensor([step_s, left_s], dtype=torch.float64, device=self._accelerator.device)
        step_s, left_s = self._accelerator.reduce(times, reduction='mean').tolist()
        least = max(self.step, self._settings.warmup_steps) + 1
        fitting = self.step + int(left_s / max(step_s, 1e-9))
        self._settings = replace(
            self._settings, steps=min(self._most_steps, max(least, fitting)))

    def _is_time_up(self, remaining_s: Callable[[], float], durations: deque[float]) -> bool:
        several = self._accelerator.num_processes > 1
        # Clocks differ: processes must stop at the same step, or those that go on wait for ever. They ask
        # each other rarely, because every answer waits for the device.
        if several and self.step % _ASK_EVERY:
            return False
        # The last step must not outlast the limit: twice the usual step is kept free.
        left = remaining_s()
        late = left < (2.0 + (_ASK_EVERY if several else 0)) * _median(durations)
        if not several or math.isinf(left):
            return late
        flag = torch.tensor(float(late), device=self._accelerator.device)
        return bool(self._accelerator.reduce(flag, reduction='sum') > 0)

    def _take_step(self) -> dict[str, Any]:
        """Return the step's mean values, still on the device."""
        settings, accelerator = self._settings, self._accelerator
        for group, factor in zip(self._optimiser.param_groups, self._factors, strict=True):
            group['lr'] = settings.learning_rate_at(self.step) * factor
        draws, world = self._draw(self.step), accelerator.num_processes
        mine = self._mine(self.step, draws)
        values: dict[str, Any] = {}
        shares: dict[str, float] = {}
        for number, batch in enumerate(mine):
            share = len(batch.draws) * world / len(draws)
            last = number + 1 == len(mine)
            with _sync(accelerator, self._objective, last):
                found = self._objective(batch)
                accelerator.backward(found['loss'] * share)
            for name, value in found.items():
                values[name] = values.get(name, 0.0) + value.detach().float() * share
                shares[name] = shares.get(name, 0.0) + share
        values = {name: value / shares[name] for name, value in values.items()}
        norm = accelerator.clip_grad_norm_(list(self._parameters.values()), settings.gradient_norm)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self.average.update()
        return {**values, 'gradient_norm': norm.detach().float()}

    def _mine(self, step: int, draws: tuple[tuple[int, int], ...]) -> list[Batch]:
        """Return this process's forwards of a step."""
        world, rank = self._accelerator.num_processes, self._accelerator.process_index
        size = self._settings.forward_size(world)
        parts = [draws[i:i + size] for i in range(0, len(draws), size)]
        return [Batch(step, i, tuple(part)) for i, part in enumerate(parts) if i % world == rank]

    def _coming(self) -> Iterator[Batch]:
        """Return all forwards of this process from the present step on, without an end."""
        for step in itertools.count(self.step):
            yield from self._mine(step, self._draw(step))

    def _check_finite(self) -> None:
        """Refuse to go on, or to keep anything, after a step without a number; asks the device."""
        for name in ('loss', 'gradient_norm'):
            value = float(self._sums.get(name, 0.0))
            if not math.isfinite(value):
                raise TrainingError(
                    f'stage {self._stage}: {name} is {value} by step {self.step}; lower learning_rate, '
                    'or check the data')

    def _write_log(
        self, report: Report | None, measure: Callable[[], dict[str, float]] | None,
    ) -> None:
        entry = {name: float(value) / self._times[name] for name, value in self._sums.items()}
        entry |= {'step': float(self.step), 'learning_rate': self._settings.learning_rate_at(self.step - 1)}
        every, before = self._run.measure_every, len(self._log) * self._run.log_every
        due = every > 0 and (self.step // every > before // every or self.step == self._settings.steps)
        if measure is not None and due:
            with self._accelerator.autocast():
                entry |= {f'held_out_{name}': value for name, value in measure().items()}
        self._log.append(entry)
        self._sums, self._times, self._since = {}, {}, 0
        if report is not None and self._accelerator.is_main_process:
            report({'stage': self._stage, **entry})


def _median(values: deque[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0


def _sync(accelerator: Any, objective: Any, last: bool) -> Any:
    """Exchange gradients between processes with the last forward of a step only."""
    return nullcontext() if last else accelerator.no_sync(objective)
