"""A backend that answers from a script: what Reasoner is tested against."""

from collections.abc import Sequence
import itertools

import numpy as np

from cosmos3_ros.contracts import Clip, ModelIdentity
from cosmos3_ros.reasoner import Answer, Deadline, Question


class ScriptedBackend:
    """Answers with the given texts in turn and remembers what it was asked."""

    def __init__(self, *texts: str, finish: str = 'stop') -> None:
        self._texts = itertools.cycle(texts)
        self._finish = finish
        self.asked: list[tuple[tuple[str, ...], Question]] = []
        self.prepared: list[tuple[tuple[tuple[int, ...], ...], Question]] = []
        self.deadlines: list[Deadline | None] = []

    @property
    def identity(self) -> ModelIdentity:
        return ModelIdentity('scripted@0', 'scripted', trained=False)

    def warm_up(self) -> None:
        pass

    def prepare(self, clips: Sequence[Clip], question: Question) -> None:
        self.prepared.append((tuple(clip.frames.shape for clip in clips), question))

    def answer(
        self, clips: Sequence[Clip], question: Question, deadline: Deadline | None = None,
    ) -> Answer:
        self.deadlines.append(deadline)
        self.asked.append((tuple(clip.camera for clip in clips), question))
        text = next(self._texts)
        return Answer(text, 10, len(text), self._finish, 0.0, 0.0, 0.0)

    def close(self) -> None:
        pass


def make_clip(camera='wrist', frames=4, height=64, width=96, *, fps=4.0, seed=0, start_ns=10**9):
    pixels = np.random.RandomState(seed).randint(0, 256, (frames, height, width, 3), dtype=np.uint8)
    stamps = start_ns + np.round(np.arange(frames) * 1e9 / fps).astype(np.int64)
    return Clip(camera, pixels, stamps)
