"""What a training run is told: plain values, checked where they enter. Written as YAML by people.

Every class below is a section of the file; :mod:`settings_file` reads it.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..model.sampling import Sampling
from ..model.tiny import PRESETS
from .optimiser_settings import OptimiserSettings, TrainingError, check_choice, check_range
from .stage_settings import GeneratorSettings, LoraSettings, ReasonerSettings, VaeSettings

STAGES = ('vae', 'reasoner', 'actions', 'generator')
"""In the order in which they are trained: the reasoner's language model is the generator's understanding
tower, so it is finished, and then frozen, before the generator learns to read it."""
NEEDS: dict[str, tuple[str, ...]] = {
    'vae': (), 'reasoner': (), 'actions': ('vae', 'reasoner'), 'generator': ('vae', 'reasoner', 'actions')}
"""Stage to those whose weights it reads."""

STORAGE = ('float16', 'bfloat16', 'float32')


@dataclass(frozen=True, slots=True)
class DatasetEntry:
    """One LeRobot v3 dataset.

    :param path: Its directory; relative paths start where the command runs.
    :param weight: Share of the samples, relative to the others'.
    :param blank_cameras: Camera slots that it lacks and that are shown black.
    :param window_stride: Every how many frames a training window starts.
    :param policy: Whether the autoencoder and the generator learn from it.
    :param reasoner: Whether the reasoner does; it needs the facts of ``cosmos3 sim record``.
    """

    path: str
    weight: float = 1.0
    blank_cameras: tuple[str, ...] = ()
    window_stride: int = 1
    policy: bool = True
    reasoner: bool = True

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        check_range('data.datasets', 'weight', self.weight, 1e-6, 1e6)
        check_range('data.datasets', 'window_stride', self.window_stride, 1, 64)


@dataclass(frozen=True, slots=True)
class DataSettings:
    """What is trained on.

    :param held_out: Share of each dataset's episodes, its last ones, that are never trained on.
    :param workers: Processes that decode videos.
    """

    datasets: tuple[DatasetEntry, ...]
    held_out: float = 0.05
    workers: int = 1

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        if not self.datasets:
            raise TrainingError('data.datasets: none arrived, at least one is needed')
        check_range('data', 'held_out', self.held_out, 0.0, 0.9)
        if not self.policy_datasets and not self.reasoner_datasets:
            raise TrainingError(
                'data.datasets: each says policy: false and reasoner: false; nobody would learn')
        check_range('data', 'workers', self.workers, 1, 256)

    @property
    def policy_datasets(self) -> tuple[DatasetEntry, ...]:
        """Those that the autoencoder and the generator learn from."""
        return tuple(entry for entry in self.datasets if entry.policy)

    @property
    def reasoner_datasets(self) -> tuple[DatasetEntry, ...]:
        """Those that the reasoner learns from."""
        return tuple(entry for entry in self.datasets if entry.reasoner)


@dataclass(frozen=True, slots=True)
class StartSettings:
    """What the weights start from: exactly one of both.

    :param preset: Random weights of a shape of our own.
    :param checkpoint: Directory or Hub id.
    :param revision: Of a Hub id.
    :param contract: For a directory that does not say its contract.
    """

    preset: str | None = None
    checkpoint: str | None = None
    revision: str | None = None
    contract: str | None = None

    def __post_init__(self) -> None:
        """Refuse none or both, and unknown presets."""
        if (self.preset is None) == (self.checkpoint is None):
            raise TrainingError('start: exactly one of preset and checkpoint is needed')
        if self.preset is not None:
            check_choice('start', 'preset', self.preset, tuple(PRESETS))


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How the checkpoint asks to be sampled; what is left out is the action contract's.

    Written into its ``cosmos3_ros.json``; of no effect on the training.

    :param steps: Denoising steps.
    :param guidance: Classifier-free guidance scale; 1 is off and halves the work.
    :param guidance_interval: Timesteps between which guidance is on.
    :param shift: Flow shift of the noise levels; what the generator was trained with.
    """

    steps: int | None = None
    guidance: float | None = None
    guidance_interval: tuple[float, ...] | None = None
    shift: float | None = None

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        try:
            self.document()
        except ValueError as error:
            raise TrainingError(str(error)) from error

    def document(self) -> dict[str, Any]:
        """Return what is said, as the checkpoint's file holds it."""
        return Sampling.read(asdict(self)).document()


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How the run is carried out and written down.

    :param autocast: ``bfloat16`` on CUDA, or ``none``. Weights and optimiser are float32 in any case, unless
        ``frozen_bfloat16``.
    :param frozen_bfloat16: Keep weights that are not trained in bfloat16: Nano fits one device.
    :param compile: Let torch compile the objective.
    :param gradient_checkpointing: Of the generation tower's layers: less memory, a third more work.
    :param log_every: Steps between two entries of the log.
    :param measure_every: Steps between two looks at held-out clips and windows; 0 is never.
    :param snapshot_every_s: Seconds between two snapshots.
    :param store: Type of the weights on disk.
    """

    autocast: str = 'bfloat16'
    frozen_bfloat16: bool = False
    compile: bool = False
    gradient_checkpointing: bool = False
    log_every: int = 20
    measure_every: int = 0
    snapshot_every_s: float = 120.0
    store: str = 'float16'

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        check_choice('run', 'autocast', self.autocast, ('bfloat16', 'none'))
        check_choice('run', 'store', self.store, STORAGE)
        if self.frozen_bfloat16 and self.autocast != 'bfloat16':
            raise TrainingError('run.frozen_bfloat16: it needs autocast: bfloat16, none arrived')
        check_range('run', 'log_every', self.log_every, 1, 100_000)
        check_range('run', 'measure_every', self.measure_every, 0, 10_000_000)
        check_range('run', 'snapshot_every_s', self.snapshot_every_s, 0.0, 86_400.0)


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """A whole run. Stages that are left out keep the weights they start from.

    :param name: Of the checkpoint.
    :param seed: Of weights, samples and noise.
    :param sampling: Left out, a checkpoint that is gone on with keeps its own.
    """

    name: str
    data: DataSettings
    start: StartSettings
    seed: int = 0
    run: RunSettings = field(default_factory=RunSettings)
    vae: VaeSettings | None = None
    reasoner: ReasonerSettings | None = None
    actions: GeneratorSettings | None = None
    generator: GeneratorSettings | None = None
    sampling: SamplingSettings | None = None

    def __post_init__(self) -> None:
        """Refuse a run without stages."""
        check_range('', 'seed', self.seed, 0, 2**31 - 1)
        if not self.stages:
            raise TrainingError(f'no stage arrived, at least one of {", ".join(STAGES)} is needed')
        if self.reasoner is not None and self.reasoner.context_weight and self.start.preset is not None:
            raise TrainingError(
                f'reasoner.context_weight: {self.reasoner.context_weight:g} arrived with start.preset: no '
                'tower has learnt to read these weights; leave it out, or start from a checkpoint')
        for stage in self.stages:
            if not (self.data.reasoner_datasets if stage == 'reasoner' else self.data.policy_datasets):
                raise TrainingError(
                    f'data.datasets: none is for the stage {stage}; set '
                    f'{"reasoner" if stage == "reasoner" else "policy"}: true in one')

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that the file has, in their order."""
        return tuple(stage for stage in STAGES if getattr(self, stage) is not None)


def section_names(kind: type) -> tuple[str, ...]:
    """Return the keys that a section may have."""
    return tuple(f.name for f in fields(kind))


__all__ = [
    'STAGES', 'DataSettings', 'DatasetEntry', 'GeneratorSettings', 'LoraSettings', 'OptimiserSettings',
    'ReasonerSettings', 'RunSettings', 'SamplingSettings', 'StartSettings', 'TrainingError',
    'TrainingSettings', 'VaeSettings', 'section_names']
