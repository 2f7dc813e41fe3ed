"""What ``--checkpoint`` names: a checkpoint, or one of the shapes that are filled with random weights."""

from dataclasses import dataclass
from pathlib import Path

from cosmos3_ros.model.checkpoint import Checkpoint, CheckpointError

from .dimensions import RANDOM, Dimensions
from .errors import EngineError
from .weights import CheckpointWeights, SeededWeights, WeightSource


@dataclass(frozen=True, slots=True)
class EngineSource:
    """Weights that engines are built from, and held to.

    :param name: What the user called it.
    :param directory: Of the checkpoint; None for random weights.
    :param content_hash: Of the weights.
    :param label: Name and hash, for people.
    :param seed: Of random weights.
    :param view: Height and width of the checkpoint's composed camera view; None for random weights.
    """

    name: str
    directory: Path | None
    content_hash: str
    label: str
    dimensions: Dimensions
    seed: int = 0
    view: tuple[int, int] | None = None

    @classmethod
    def open(cls, name: str, seed: int = 0) -> 'EngineSource':
        """Find a checkpoint, or one of :data:`dimensions.RANDOM`.

        :raises EngineError: There is no such checkpoint, or its towers are not of Nano's kind.
        """
        if name in RANDOM:
            label = f'{name}-{seed}'
            return cls(name, None, label, label, RANDOM[name], seed)
        try:
            opened = Checkpoint.open(name, parts=('reasoner',))
        except CheckpointError as error:
            raise EngineError(str(error)) from error
        return cls.of_checkpoint(opened, name)

    @classmethod
    def of_checkpoint(cls, opened: Checkpoint, name: str = '') -> 'EngineSource':
        """Take a checkpoint that is open.

        :raises EngineError: Its towers are not of Nano's kind.
        """
        return cls(
            name or str(opened.directory), opened.directory, opened.content_hash, opened.label,
            Dimensions.read(opened.directory), view=opened.view)

    @classmethod
    def of_label(cls, name: str, label: str) -> 'EngineSource':
        """Find again what a manifest says it was built from.

        :param name: ``Manifest.source``.
        :param label: ``Manifest.checkpoint_label``; of random weights it ends in the seed.
        :raises EngineError: See :meth:`open`.
        """
        seed = label.rpartition('-')[2] if name in RANDOM else ''
        return cls.open(name, int(seed) if seed.isdecimal() else 0)

    def weights(self) -> WeightSource:
        """Open the weights."""
        return SeededWeights(self.seed) if self.directory is None else CheckpointWeights(self.directory)
