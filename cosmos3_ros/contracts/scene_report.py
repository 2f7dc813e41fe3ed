"""What the reasoner says about a clip."""

from dataclasses import dataclass
from enum import IntEnum

from .arrays import ContractError
from .identity import ModelIdentity


class TaskState(IntEnum):
    """How the instructed task stands. Values as in msg/SceneReport."""

    UNKNOWN = 0
    IN_PROGRESS = 1
    DONE = 2
    FAILED = 3


class Plausibility(IntEnum):
    """Whether what a clip shows is physically possible. Values as in msg/SceneReport."""

    UNKNOWN = 0
    POSSIBLE = 1
    IMPOSSIBLE = 2


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One located object.

    :param label: Free text.
    :param camera: Camera slot whose image the boxes refer to.
    :param box_px: x1, y1, x2, y2 in pixels, origin top left.
    :param box_normalized: The same as fractions of width and height, 0..1.
    """

    label: str
    camera: str
    box_px: tuple[float, float, float, float]
    box_normalized: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        """Refuse boxes outside the image or turned inside out."""
        x1, y1, x2, y2 = self.box_normalized
        if not (0.0 <= x1 <= x2 <= 1.0 and 0.0 <= y1 <= y2 <= 1.0):
            raise ContractError(
                f'box_normalized: {self.box_normalized} arrived, 0 <= x1 <= x2 <= 1 and '
                '0 <= y1 <= y2 <= 1 is allowed')


@dataclass(frozen=True, slots=True)
class SceneReport:
    """The reasoner's answer to one clip.

    :param stamp_ns: Newest frame of the clip.
    :param clip_start_ns: Oldest frame of the clip.
    :param parsed: False if ``raw_text`` held no usable answer; ``reason`` says why.
    :param latency_s: Seconds from taking the clip up to the answer.
    """

    stamp_ns: int
    clip_start_ns: int
    clip_frames: int
    cameras: tuple[str, ...]
    instruction: str
    caption: str
    objects: tuple[SceneObject, ...]
    next_action: str
    task_state: TaskState
    hazards: tuple[str, ...]
    plausibility: Plausibility
    parsed: bool
    reason: str
    raw_text: str
    identity: ModelIdentity
    latency_s: float
