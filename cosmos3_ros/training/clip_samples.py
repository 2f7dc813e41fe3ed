"""What the reasoner is trained on: clips as ``perception`` cuts them, questions and true answers."""

from collections.abc import Sequence
from dataclasses import dataclass
import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..reasoner.clip_buffer import scale_frame
from ..reasoner.questions import PromptBook, Question
from ..reasoner.trained_clips import REPORT_TOKENS
from ..reasoner.video_grid import bounded_size
from ..resources import require
from ..robots.camera import SLOTS
from .scene_facts import FrameFacts
from .scene_facts_questions import list_statements
from .scene_facts_report import list_objects, report_json
from .settings import ReasonerSettings, TrainingError

RATE_HZ = 15.0
SCENE_PROMPT, FACT_PROMPT = 'scene_report', 'fact'
YES, NO = 'Yes', 'No'
"""Answers to facts, as the model writes them."""


def clip_stride(settings: ReasonerSettings) -> int:
    """Return how many camera frames lie between two frames of a clip."""
    return max(1, round(RATE_HZ / settings.fps))


def clip_stamps_ns(settings: ReasonerSettings) -> NDArray[np.int64]:
    """Return the times of a clip's frames as the prompt states them: exactly 1 / fps apart."""
    return np.round(np.arange(settings.frames) * 1e9 / settings.fps).astype(np.int64)


def scale_like_perception(frames: NDArray[np.uint8], settings: ReasonerSettings) -> NDArray[np.uint8]:
    """Return frames as the vision tower cuts them into patches, uint8 (T, h, w, 3).

    First as ``perception``'s buffer scales what is larger than ``max_frame_pixels``, then to multiples of
    32, as the video prompt does.
    """
    torch = require('torch', 'model')
    height, width = frames.shape[1:3]
    size = (height, width)
    if height * width > settings.max_frame_pixels:
        size = bounded_size(1, height, width, max_pixels=2 * settings.max_frame_pixels)
    small = np.stack([scale_frame(frame, size) for frame in frames])
    final = bounded_size(settings.frames, *size, max_pixels=settings.frames * settings.max_frame_pixels)
    if final == size:
        return small
    tensor = torch.from_numpy(small).permute(0, 3, 1, 2)
    scaled = torch.nn.functional.interpolate(tensor, size=final, mode='bicubic', antialias=True)
    return np.ascontiguousarray(scaled.permute(0, 2, 3, 1).numpy())


@dataclass(frozen=True, slots=True, eq=False)
class ClipRecording:
    """Frames of one dataset and what is true about the clips that end at them, K kept frames.

    Every :func:`clip_stride`-th frame of each episode is kept.

    :param pictures: Camera slot to uint8 (K, h, w, 3).
    :param episode: Shape (K,), position of the frame's episode.
    :param begins: First kept frame of each episode, and K at the end.
    :param instructions: What the episode asks for, one per kept frame.
    :param reports: The true scene report, JSON, one per kept frame; see :func:`describe_clip`.
    :param statements: JSON list of the yes/no questions that the clip decides, one per kept frame.
    :param things: JSON object, camera slot to what its picture shows (label and ``bbox_2d``), one per kept
        frame.
    """

    name: str
    pictures: dict[str, NDArray[np.uint8]]
    episode: NDArray[np.int64]
    begins: NDArray[np.int64]
    instructions: tuple[str, ...]
    reports: tuple[str, ...]
    statements: tuple[str, ...]
    things: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of kept frames."""
        return len(self.episode)

    def clip_rows(self, anchor: int, frames: int) -> NDArray[np.int64]:
        """Return the kept frames of the clip that ends at ``anchor``; at the start the first is repeated."""
        first = int(self.begins[int(self.episode[anchor])])
        return np.maximum(anchor - np.arange(frames - 1, -1, -1), first)

    def anchors(self, held_out_share: float, *, held_out: bool) -> NDArray[np.int64]:
        """Return the kept frames that a clip may end at, of training or of held-out episodes.

        :raises TrainingError: There are none.
        """
        episodes = len(self.begins) - 1
        first = episodes - math.ceil(held_out_share * episodes)
        found = np.flatnonzero(self.episode >= first if held_out else self.episode < first)
        if not len(found):
            raise TrainingError(
                f'{self.name}: no {"held-out " if held_out else ""}clip among {episodes} episodes; change '
                'data.held_out')
        return found


def describe_clip(facts: Sequence[FrameFacts], settings: ReasonerSettings) -> tuple[str, str, str]:
    """Return a clip's true report, its decided questions and what its cameras show at its end, all JSON.

    Boxes are those of the first camera, as the prompt says; questions about cameras that are not shown are
    left out.

    :param facts: Of all camera frames from the clip's first to its last: what jumped, jumped between.
    """
    absent = [slot for slot in SLOTS if slot not in settings.cameras]
    kept = [s for s in list_statements(facts) if not any(slot in s.key for slot in absent)]
    things = {slot: list_objects(facts[-1], slot) for slot in settings.cameras}
    return report_json(facts, settings.cameras[:1]), json.dumps(
        [[s.key, s.dimension.value, s.question, s.answer] for s in kept]), json.dumps(things)


@dataclass(frozen=True, slots=True)
class Asked:
    """One question about one clip.

    :param answer: What the model should write.
    :param dimension: Of a yes/no question, else empty.
    :param key: Likewise.
    """

    question: Question
    answer: str
    dimension: str = ''
    key: str = ''


class Examiner:
    """Asks about clips, seeded.

    :param prompts: Where the wording comes from: the same file that ``perception`` reads.
    """

    def __init__(self, prompts: PromptBook, settings: ReasonerSettings) -> None:
        self._prompts, self._settings = prompts, settings
        self._known: dict[tuple[str, str, str, bool], Asked] = {}

    def scene(self, recording: ClipRecording, anchor: int) -> Asked:
        """Ask for the whole scene."""
        question = self._prompts.ask(
            SCENE_PROMPT, REPORT_TOKENS, cameras=', '.join(self._settings.cameras),
            instruction=recording.instructions[anchor])
        return Asked(question, recording.reports[anchor])

    def facts(self, recording: ClipRecording, anchor: int) -> list[Asked]:
        """Return every yes/no question that the clip decides."""
        return [self.fact(*entry) for entry in json.loads(recording.statements[anchor])]

    def fact(self, key: str, dimension: str, question: str, answer: bool) -> Asked:
        """Ask for a fact; there are few, so each is made once."""
        known = (key, dimension, question, answer)
        if known not in self._known:
            self._known[known] = Asked(
                self._prompts.ask(FACT_PROMPT, question=question), YES if answer else NO, dimension, key)
        return self._known[known]

    def draw_fact(
        self, recording: ClipRecording, anchor: int, rng: np.random.Generator, dimension: str = '',
    ) -> Asked | None:
        """Draw a question: first its dimension, then yes or no, then one of those; None if there is none.

        :param dimension: Instead of a drawn one.
        """
        listed = json.loads(recording.statements[anchor])
        if dimension:
            listed = [entry for entry in listed if entry[1] == dimension]
        dimensions = sorted({entry[1] for entry in listed})
        if not dimensions:
            return None
        chosen = dimensions[int(rng.integers(len(dimensions)))]
        listed = [entry for entry in listed if entry[1] == chosen]
        wanted = bool(rng.random() < 0.5)
        choices = [entry for entry in listed if bool(entry[3]) is wanted] or listed
        return self.fact(*choices[int(rng.integers(len(choices)))])


def as_clip(
    recording: ClipRecording, anchor: int, slot: str, settings: ReasonerSettings, *, blank: bool = False,
) -> Any:
    """Return a clip as the reasoner's backends take it.

    :param blank: Grey pictures of the same size instead.
    """
    from ..contracts import Clip

    rows = recording.clip_rows(anchor, settings.frames)
    frames = np.ascontiguousarray(recording.pictures[slot][rows])
    return Clip(slot, np.full_like(frames, 127) if blank else frames, clip_stamps_ns(settings))
