"""Lessons as tensors on the host: all that a step of the reasoner needs beside pictures and weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..reasoner.video_prompt import VideoSettings
from .clip_lessons import Lesson, LessonPlan
from .clip_samples import ClipRecording, Examiner
from .grounding import Targets
from .objective import Batch
from .question_tokens import QuestionTokens, Sequences
from .settings import ReasonerSettings

KINDS = ('report', 'fact')


@dataclass(frozen=True, slots=True, eq=False)
class LessonBatch:
    """Lessons and what they ask.

    :param questions: Reports and facts apart, whichever there are: facts of one clip share its pictures.
    :param targets: Camera slot to what is where; empty without grounding.
    """

    lessons: tuple[Lesson, ...]
    questions: Mapping[str, Sequences]
    targets: Mapping[str, Targets]

    def change(self, change: Callable[[Any], Any]) -> 'LessonBatch':
        """Return it with another tensor for each of its tensors (or arrays)."""
        return LessonBatch(
            self.lessons, {kind: change_tensors(asked, change) for kind, asked in self.questions.items()},
            {slot: change_tensors(targets, change) for slot, targets in self.targets.items()})


Record = TypeVar('Record')


def change_tensors(record: Record, change: Callable[[Any], Any]) -> Record:
    """Return a dataclass with another tensor for each of its tensors (or arrays); the rest stays."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}  # type: ignore[arg-type]
    changed: Record = replace(record, **{  # type: ignore[type-var]
        name: change(value) for name, value in values.items() if hasattr(value, 'dtype')})
    return changed


class LessonMaker:
    """Draws lessons and turns them into tensors. Holds neither weights nor pictures: other processes get it.

    :param model: ``Cosmos3OmniForConditionalGeneration``; sizes and rotary positions are read.
    :param recordings: One per dataset.
    :param video: How frames become patches.
    :param seed: Of the questions and crops.
    """

    def __init__(
        self, model: Any, tokenizer: Any, recordings: Sequence[ClipRecording], examiner: Examiner,
        video: VideoSettings, settings: ReasonerSettings, seed: int,
    ) -> None:
        # One frame of each says how large all are.
        words = [replace(recording, pictures={
            slot: np.array(pictures[:1]) for slot, pictures in recording.pictures.items()})
            for recording in recordings]
        self.plan = LessonPlan(words, examiner, settings, seed)
        self.tokens = QuestionTokens(model, tokenizer, words[0], video, settings)
        self._grounds = bool(settings.grounding_weight)
        side = video.patch_size * video.merge_size
        shapes = {slot: words[0].pictures[slot].shape for slot in settings.cameras}
        self.grids = {slot: (shape[1] // side, shape[2] // side) for slot, shape in shapes.items()}
        """Camera slot to rows and columns of a picture's features."""

    def make(
        self, batch: Batch, anchors: Sequence[NDArray[np.int64]], smallest_crop: float,
    ) -> LessonBatch:
        """Return a batch's lessons, see :meth:`clip_lessons.LessonPlan.draw`."""
        return self.pack(self.plan.draw(batch, anchors, smallest_crop))

    def pack(self, lessons: Sequence[Lesson]) -> LessonBatch:
        """Return lessons as tensors."""
        questions = {}
        for kind in KINDS:
            groups = {i: [a for a in lesson.asked if bool(a.dimension) == (kind == 'fact')]
                      for i, lesson in enumerate(lessons)}
            owners = [i for i, group in groups.items() if group]
            if owners:
                questions[kind] = self.tokens.pack([groups[i] for i in owners], owners)
        targets = {
            slot: Targets.of([lesson.things[slot] for lesson in lessons], *grid)
            for slot, grid in self.grids.items()} if self._grounds else {}
        return LessonBatch(tuple(lessons), questions, targets)
