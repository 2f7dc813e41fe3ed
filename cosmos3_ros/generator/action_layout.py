"""What is given and what is asked for in a request: the shape of an action contract, and its modes.

Video and actions are denoised together; a mode only says which of them are given (clean, without a time
embedding, velocity zero) and which are noise at first. Source: ``Cosmos3OmniPipeline.prepare_latents`` of
diffusers 0.42.1 (facts sheet 2a) and cosmos-framework's plan for state rows (facts sheet 2b.3).
"""

from dataclasses import dataclass, replace

from .policy import PolicyError

VIDEO_COMPRESSION = 4
"""Video frames per latent frame, of the Wan 2.2 VAE."""
MODES = ('policy', 'forward_dynamics', 'inverse_dynamics')


@dataclass(frozen=True, slots=True)
class ActionLayout:
    """Where frames and rows of a request stand, and which of them are given.

    :param horizon: Rows that are an answer; a multiple of four.
    :param width: Channels of a row that are used.
    :param domain_id: Action head, 0..31.
    :param state_rows: Clean rows before the answer: 1 if the contract tells the model the measured state.
    :param rate_hz: Of video and rows.
    :param mode: One of :data:`MODES`.
    """

    horizon: int
    width: int
    domain_id: int
    state_rows: int = 0
    rate_hz: float = 15.0
    mode: str = 'policy'

    def __post_init__(self) -> None:
        """Refuse what the model cannot be given."""
        if self.mode not in MODES:
            raise PolicyError(f'mode: {self.mode!r} arrived, one of {", ".join(MODES)} is allowed')
        if self.horizon < VIDEO_COMPRESSION or self.horizon % VIDEO_COMPRESSION:
            raise PolicyError(
                f'horizon: {self.horizon} arrived, a multiple of {VIDEO_COMPRESSION} is allowed, since a '
                'latent '
                f'frame holds {VIDEO_COMPRESSION} video frames')
        if self.width < 1 or not 0 <= self.domain_id < 32 or self.state_rows not in (0, 1):
            raise PolicyError(
                f'layout: width {self.width}, domain {self.domain_id}, state rows {self.state_rows} arrived; '
                'at least 1, 0 to 31, and 0 or 1 are allowed')
        if not 0.0 < self.rate_hz <= 120.0:
            raise PolicyError(f'rate_hz: {self.rate_hz} arrived, above 0 to 120 is allowed')

    @property
    def rows(self) -> int:
        """Action rows of the sequence, the state included."""
        return self.horizon + self.state_rows

    @property
    def frames(self) -> int:
        """Latent frames of the sequence, the observation included."""
        return self.horizon // VIDEO_COMPRESSION + 1

    @property
    def video_frames(self) -> int:
        """Video frames that the latents stand for."""
        return self.horizon + 1

    @property
    def first_row(self) -> int:
        """Video frame of the first row: 0 for a state, 1 for the transition that leads there."""
        return 1 - self.state_rows

    @property
    def clean_frames(self) -> int:
        """Latent frames that are given."""
        return self.frames if self.mode == 'inverse_dynamics' else 1

    @property
    def clean_rows(self) -> int:
        """Action rows that are given."""
        return self.rows if self.mode == 'forward_dynamics' else self.state_rows

    @property
    def wants_video(self) -> bool:
        """Whether the video is the answer."""
        return self.mode == 'forward_dynamics'

    @property
    def step_ns(self) -> int:
        """Nanoseconds between rows."""
        return round(1e9 / self.rate_hz)

    def of_mode(self, mode: str) -> 'ActionLayout':
        """Return the same contract in another mode."""
        return replace(self, mode=mode)
