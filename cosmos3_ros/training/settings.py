"""What a training run is told: plain values, checked where they enter. Written as YAML by people.

Every class below is a section of the file; :mod:`settings_file` reads it.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..model.sampling import Sampling
from ..model.tiny import PRESETS
from .optimiser_settings import OptimiserSettings, TrainingError, check_choice, check_range

STAGES = ('vae', 'reasoner', 'actions', 'generator')
"""In the order in which they are trained: the reasoner's language model is the generator's understanding
tower, so it is finished, and then frozen, before the generator learns to read it."""
NEEDS: dict[str, tuple[str, ...]] = {
    'vae': (), 'reasoner': (), 'actions': ('vae', 'reasoner'), 'generator': ('vae', 'reasoner', 'actions')}
"""Stage to those whose weights it reads."""

TRAINABLE = ('generation', 'generation_lora', 'all')
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
class VaeSettings:
    """The autoencoder: reconstruction of short clips of the composed view.

    :param frames: Video frames of a clip, 1 + a multiple of 4.
    :param kl_weight: Of the Kullback-Leibler term, per latent value.
    :param square_weight: Of the squared error beside the absolute one: it minds small things that move.
    :param colour_weight: Added to a pixel's weight 1, times how far its colour (without brightness, -1..1) is
        from that of its surroundings: a small coloured thing is a hundredth of a picture and all of the task.
    :param statistics_clips: Clips that mean and deviation of the latents are measured on.
    """

    optimiser: OptimiserSettings
    frames: int = 5
    kl_weight: float = 1e-6
    square_weight: float = 10.0
    colour_weight: float = 0.0
    statistics_clips: int = 256

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        check_range('vae', 'frames', self.frames, 1, 257)
        if self.frames % 4 != 1:
            raise TrainingError(f'vae.frames: {self.frames} arrived, 1 + a multiple of 4 is allowed')
        check_range('vae', 'kl_weight', self.kl_weight, 0.0, 1.0)
        check_range('vae', 'square_weight', self.square_weight, 0.0, 1000.0)
        check_range('vae', 'colour_weight', self.colour_weight, 0.0, 10_000.0)
        check_range('vae', 'statistics_clips', self.statistics_clips, 2, 1_000_000)


@dataclass(frozen=True, slots=True)
class ReasonerSettings:
    """The reasoner: clip and question in, answer out; the loss is on the answer's tokens.

    :param cameras: Whose clips are shown, in the order in which ``perception`` shows them.
    :param frames: Frames of a clip.
    :param fps: Frames per second of a clip.
    :param max_frame_pixels: Larger frames are scaled down, as ``perception`` does with its parameter.
    :param scene_share: Share of samples that ask for the whole scene; the others ask for facts.
    :param anchor_stride: Every how many frames of an episode a clip may end.
    """

    optimiser: OptimiserSettings
    cameras: tuple[str, ...] = ('wrist', 'exterior_1', 'exterior_2')
    frames: int = 8
    fps: float = 4.0
    max_frame_pixels: int = 61440
    scene_share: float = 0.6
    anchor_stride: int = 4

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        check_range('reasoner', 'frames', self.frames, 2, 256)
        check_range('reasoner', 'fps', self.fps, 0.1, 60.0)
        check_range('reasoner', 'max_frame_pixels', self.max_frame_pixels, 1024, 2**24)
        check_range('reasoner', 'scene_share', self.scene_share, 0.0, 1.0)
        check_range('reasoner', 'anchor_stride', self.anchor_stride, 1, 64)
        if self.frames % 2 or not self.cameras:
            raise TrainingError(
                f'reasoner: frames {self.frames}, cameras {list(self.cameras)} arrived; an even number of '
                'frames and at least one camera are needed')


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Adapters on the generation tower's matrices (peft); merged when the checkpoint is written."""

    rank: int = 32
    alpha: float = 64.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        check_range('generator.lora', 'rank', self.rank, 1, 1024)
        check_range('generator.lora', 'alpha', self.alpha, 0.1, 4096.0)
        check_range('generator.lora', 'dropout', self.dropout, 0.0, 0.9)


@dataclass(frozen=True, slots=True)
class GeneratorSettings:
    """Flow matching in the DROID contract; defaults are NVIDIA's recipe for it (facts sheet 8).

    :param trainable: ``generation`` (tower, heads, time embedder; the understanding tower is frozen),
        ``generation_lora`` (adapters on that tower, heads in full) or ``all``.
    :param head_learning_rate: Factor on the learning rate of the action heads.
    :param action_weight: Of the actions' loss against the video's.
    :param loss_scale: Of both.
    :param shift: Flow shift of the noise levels; what the policy samples with.
    :param timestep_mean: Of the logit-normal noise levels.
    :param timestep_std: Likewise.
    :param uniform_share: Share of samples whose level is uniform before the shift. The sampler starts at
        0.9998, which logit-normal levels almost never reach.
    :param text_dropout: Share of samples without a text, for classifier-free guidance.
    :param picture_jitter: Each training window is shown with brightness, contrast and saturation changed by
        factors of up to 1 +- this: the look of a scene must not give away its demonstration.
    :param observation_noise: Standard deviation of noise on the observation's latents (which have 1), up to
        this, drawn per sample: likewise.
    :param padding_weight: Of action rows after the demonstration's end, where the last one is repeated.
    :param reinitialise_heads: Start the action heads anew, as NVIDIA does for a new robot.
    :param copy_understanding: Start the generation tower from the understanding tower's weights, layer by
        layer: its queries then already meet the keys of texts.
    :param pass_noise: Start the action heads so that a row's noise passes through and copying it need not be
        learned; for random weights.
    :param window_stride: Every how many frames a window starts, instead of what the datasets say.
    :param latents: Where encoded windows are kept: ``device`` or ``host``.
    :param lora: Only with ``generation_lora``.
    """

    optimiser: OptimiserSettings
    trainable: str = 'generation'
    head_learning_rate: float = 5.0
    action_weight: float = 10.0
    loss_scale: float = 10.0
    shift: float = 5.0
    timestep_mean: float = 0.0
    timestep_std: float = 1.0
    uniform_share: float = 0.0
    text_dropout: float = 0.1
    picture_jitter: float = 0.0
    observation_noise: float = 0.0
    padding_weight: float = 1.0
    reinitialise_heads: bool = False
    copy_understanding: bool = False
    pass_noise: bool = False
    window_stride: int | None = None
    latents: str = 'device'
    lora: LoraSettings = field(default_factory=LoraSettings)

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        check_choice('generator', 'trainable', self.trainable, TRAINABLE)
        check_choice('generator', 'latents', self.latents, ('device', 'host'))
        for name, low, high in (
                ('head_learning_rate', 0.0, 100.0), ('action_weight', 0.0, 1000.0), ('loss_scale', 1e-3, 1e3),
                ('shift', 0.1, 100.0), ('timestep_mean', -5.0, 5.0), ('timestep_std', 0.01, 5.0),
                ('uniform_share', 0.0, 1.0), ('text_dropout', 0.0, 1.0), ('picture_jitter', 0.0, 0.9),
                ('observation_noise', 0.0, 2.0), ('padding_weight', 0.0, 1.0)):
            check_range('generator', name, getattr(self, name), low, high)
        if self.window_stride is not None:
            check_range('generator', 'window_stride', self.window_stride, 1, 64)


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
    :param measure_every: Steps between two looks at held-out windows (generator); 0 is never.
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
