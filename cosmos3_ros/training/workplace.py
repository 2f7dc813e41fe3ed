"""What all stages of a training run share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..generator.composed_view import View
from ..model.checkpoint import Checkpoint
from .draws import WeightedDraws
from .output_checkpoint import OutputCheckpoint
from .preparation import prepare_recording
from .recording import Recording
from .settings import DatasetEntry, TrainingSettings
from .settings_file import settings_digest
from .training_loop import TrainingLoop

Say = Callable[[str], None]


@dataclass
class Workplace:
    """What all stages of a run share.

    :param accelerator: ``accelerate.Accelerator``.
    :param say: Takes lines for people.
    :param note: Takes entries of the log.
    :param remaining_s: Seconds that this piece may still take.
    :param fit_s: Seconds until the stage should be done, see ``TrainingLoop.run``; None: as many steps as the
        settings say.
    """

    settings: TrainingSettings
    output: OutputCheckpoint
    accelerator: Any
    say: Say
    note: Callable[[dict[str, Any]], None]
    remaining_s: Callable[[], float]
    fit_s: Callable[[], float] | None = None

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint as it was when the run began: sizes and configs, which do not change."""
        return Checkpoint.open(self.output.directory)

    @property
    def device(self) -> Any:
        """Where training happens."""
        return self.accelerator.device

    @cached_property
    def view(self) -> View:
        """The composed camera view."""
        return View.of(*self.checkpoint.view)

    @cached_property
    def recordings(self) -> list[Recording]:
        """Composed views of the policy's datasets, prepared on first use."""
        data = self.settings.data
        return [
            prepare_recording(entry, self.view, self.prepared, data.workers, self.progress)
            for entry in data.policy_datasets]

    def recordings_of(self, stage: str) -> list[tuple[Recording, DatasetEntry]]:
        """Return what a stage of the policy reads: glances are for ``actions``, which asks for no future."""
        pairs = list(zip(self.recordings, self.settings.data.policy_datasets, strict=True))
        return pairs if stage == 'actions' else [pair for pair in pairs if not pair[0].is_glances]

    @property
    def looks_at_held_out(self) -> bool:
        """Whether losses of held-out data are wanted, and there are such data."""
        return self.settings.run.measure_every > 0 and self.settings.data.held_out > 0.0

    @property
    def prepared(self) -> Path:
        """Where decoded pictures are kept."""
        return self.output.run_directory / 'prepared'

    def progress(self, what: str, done: int, total: int) -> None:
        """Say how far something is, ten times."""
        if done == total or done * 10 // total != (done - 1) * 10 // total:
            self.say(f'{what}: {done} of {total}')

    def draws(
        self, sizes: Sequence[int], batch: int, stream: int, entries: Sequence[DatasetEntry] | None = None,
    ) -> WeightedDraws:
        """Return which samples each step takes, of several datasets with their weights.

        :param sizes: Samples of each.
        :param entries: The datasets; None: the policy's.
        """
        chosen = self.settings.data.policy_datasets if entries is None else entries
        return WeightedDraws(
            sizes, [entry.weight for entry in chosen], batch, self.settings.seed * 16 + stream)

    def loop(self, stage: str, objective: Any, draw: Callable[[int], Any]) -> TrainingLoop:
        """Return the loop of a stage, resumed if it was begun before."""
        section = getattr(self.settings, stage)
        loop = TrainingLoop(
            stage, objective, draw, section.optimiser, self.settings.run, self.accelerator,
            self.output.run_directory, settings_digest(self.settings, stage))
        if loop.resume():
            self.say(f'{stage}: goes on at step {loop.step}')
        return loop
