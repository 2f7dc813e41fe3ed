"""What each stage of a training run is told: sections of the file, see :mod:`settings`."""

from dataclasses import dataclass, field
import math

from .optimiser_settings import OptimiserSettings, TrainingError, check_choice, check_range

TRAINABLE = ('generation', 'generation_lora', 'all')


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
    :param scene_share: Share of clips that are asked for the report of the whole scene.
    :param facts_per_clip: Yes/no questions that every clip is asked; all questions about a clip share its
        pictures, which cost most.
    :param fact_shares: How often a fact is about visual integrity, semantic alignment, physical laws and
        geometric reasoning, any numbers.
    :param fact_weight: What a token of a fact's answer counts beside one of a report: a fact has two or
        three, a report two hundred, of which the digits of its boxes alone are most of the loss. Weighed
        within one forward: with a micro_batch of 1 it says nothing.
    :param smallest_crop: Pictures are cropped at random to this share of their sides or more, and reports
        accordingly; 1: never. Those of other cameras than the first, which facts speak of, by a quarter of
        that.
    :param grounding_weight: Of :mod:`grounding`'s loss beside the answers'; 0: without it.
    :param context_weight: Of :mod:`kept_contexts`'s loss beside the answers'; 0: without it, and the tower
        of the policy has to be trained after the reasoner. With it, a tower that is there may stay.
    :param lesson_workers: Processes that draw and pack lessons ahead of the steps; 0: the training process
        does it, while its accelerator waits.
    """

    optimiser: OptimiserSettings
    cameras: tuple[str, ...] = ('wrist', 'exterior_1', 'exterior_2')
    frames: int = 8
    fps: float = 4.0
    max_frame_pixels: int = 61440
    scene_share: float = 0.6
    facts_per_clip: int = 1
    fact_shares: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    fact_weight: float = 1.0
    smallest_crop: float = 1.0
    grounding_weight: float = 0.0
    context_weight: float = 0.0
    lesson_workers: int = 0

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        check_range('reasoner', 'frames', self.frames, 2, 256)
        check_range('reasoner', 'fps', self.fps, 0.1, 60.0)
        check_range('reasoner', 'max_frame_pixels', self.max_frame_pixels, 1024, 2**24)
        check_range('reasoner', 'scene_share', self.scene_share, 0.0, 1.0)
        check_range('reasoner', 'facts_per_clip', self.facts_per_clip, 0, 64)
        shares = self.fact_shares
        if len(shares) != 4 or min(shares) < 0.0 or not 0.0 < sum(shares) < math.inf:
            raise TrainingError(
                f'reasoner.fact_shares: {list(self.fact_shares)} arrived, four numbers of 0 or more that are '
                'not all 0 are allowed')
        if not self.facts_per_clip and self.scene_share < 1.0:
            raise TrainingError(
                f'reasoner: scene_share {self.scene_share:g} with facts_per_clip 0 arrived, some clips would '
                'be asked nothing; raise one of them')
        check_range('reasoner', 'smallest_crop', self.smallest_crop, 0.3, 1.0)
        check_range('reasoner', 'grounding_weight', self.grounding_weight, 0.0, 100.0)
        check_range('reasoner', 'context_weight', self.context_weight, 0.0, 1e6)
        check_range('reasoner', 'fact_weight', self.fact_weight, 1e-3, 1000.0)
        check_range('reasoner', 'lesson_workers', self.lesson_workers, 0, 64)
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
    :param observation_share: Share of steps that see the observation alone, with the windows of the stage
        ``actions``: alternatives and glances have no future. For the stage ``generator``.
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
    observation_share: float = 0.0
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
                ('observation_noise', 0.0, 2.0), ('padding_weight', 0.0, 1.0),
                ('observation_share', 0.0, 0.9)):
            check_range('generator', name, getattr(self, name), low, high)
        if self.window_stride is not None:
            check_range('generator', 'window_stride', self.window_stride, 1, 64)
