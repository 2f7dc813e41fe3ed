"""The checkpoint that a run writes: complete from the start, and better after every stage.

Layout, names and loaders are those of ``cosmos3 checkpoint init``. Weights are written in one storage type
after each stage, and the next stage starts from what was written: the generator is trained on the
understanding tower exactly as it will be read.
"""

from collections.abc import Mapping
import json
import os
from pathlib import Path
import shutil
from typing import Any

from ..model.checkpoint import Checkpoint
from ..model.checkpoint_init import METADATA_FILE, init_checkpoint
from ..model.tower_hash import understanding_hash
from ..resources import require
from .settings import TrainingError, TrainingSettings
from .weight_files import replace_tensors, total_bytes, update_json

RUN_SUFFIX = '.run'


class OutputCheckpoint:
    """A run's result on disk.

    :param directory: ``--out``.
    """

    def __init__(self, directory: Path, settings: TrainingSettings) -> None:
        self.directory, self._settings = directory, settings

    @property
    def run_directory(self) -> Path:
        """Where snapshots, logs and prepared pictures lie: beside the checkpoint, not in it."""
        return self.directory.with_name(self.directory.name + RUN_SUFFIX)

    def begin(self, *, resume: bool) -> Checkpoint:
        """Write the starting weights, or find what an earlier piece wrote.

        :raises TrainingError: There is something already and ``resume`` is off, or nothing and it is on.
        """
        metadata = self.directory / METADATA_FILE
        if resume:
            if not metadata.is_file():
                raise TrainingError(
                    f'--resume: {self.directory} holds no checkpoint of an earlier piece; leave --resume out')
            return Checkpoint.open(self.directory)
        if self.directory.exists() and any(self.directory.iterdir()):
            raise TrainingError(
                f'--out: {self.directory} is not empty; name a new directory, or go on with --resume')
        if self.run_directory.exists():
            raise TrainingError(
                f'--out: {self.run_directory} is left of an earlier run; delete it, or name another --out')
        start = self._settings.start
        if start.preset is not None:
            init_checkpoint(self.directory, start.preset, self._settings.seed)
        else:
            base = Checkpoint.open(
                str(start.checkpoint), revision=start.revision, contract=start.contract)
            copy_checkpoint(base.directory, self.directory)
            update_json(metadata, {
                'format': 1, 'contract': base.contract, 'view': list(base.view),
                'prompt_variant': base.prompt_variant, 'base': base.label})
        # Apart from this run's own, which later pieces do not train again.
        before = {**self.metadata().get('base_stages', {}), **self.stages()}
        kept = {name: facts for name, facts in before.items() if name not in self._settings.stages}
        update_json(metadata, {
            'name': self._settings.name, 'trained': False, 'stages': {}, **self._sampling(),
            **({'base_stages': kept} if before else {})})
        return Checkpoint.open(self.directory)

    def stages(self) -> dict[str, Any]:
        """Return what was written about finished stages."""
        found: dict[str, Any] = self.metadata().get('stages', {})
        return found

    def metadata(self) -> dict[str, Any]:
        """Return the checkpoint's own description."""
        content: dict[str, Any] = json.loads((self.directory / METADATA_FILE).read_text(encoding='utf-8'))
        return content

    def write_weights(self, folder: str, tensors: Mapping[str, Any]) -> None:
        """Replace tensors of one folder.

        Weights of our own are stored in the run's type, each file as a whole; a published checkpoint's keep
        theirs.
        """
        torch = require('torch', 'model')
        own = self._settings.start.preset is not None
        replace_tensors(
            self.directory / folder, tensors, getattr(torch, self._settings.run.store) if own else None)

    def finish_stage(self, stage: str, facts: Mapping[str, Any]) -> None:
        """Note that a stage is done; with the last one the checkpoint calls itself trained."""
        stages = {**self.stages(), stage: dict(facts)}
        update_json(self.directory / METADATA_FILE, {
            'stages': stages, 'trained': set(self._settings.stages) <= set(stages),
            'understanding_hash': understanding_hash(self.directory), **self._sampling()})

    def _sampling(self) -> dict[str, Any]:
        settings = self._settings.sampling
        return {} if settings is None else {'sampling': settings.document()}

    def size_bytes(self) -> int:
        """Return the size of the whole checkpoint."""
        return total_bytes(self.directory)


def copy_checkpoint(source: Path, target: Path) -> None:
    """Copy a checkpoint; weight files are linked where the file system can: trained ones are replaced as
    whole files later, so the original is never written to.
    """
    for path in sorted(source.rglob('*')):
        if not path.is_file() or path.relative_to(source).parts[0] == 'sound_tokenizer':
            continue
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == '.safetensors':
            try:
                os.link(path.resolve(), place)
                continue
            except OSError:
                pass
        shutil.copyfile(path, place)
