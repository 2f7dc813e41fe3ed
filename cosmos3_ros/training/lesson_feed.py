"""Lessons made ahead, by processes of their own: drawing and packing them takes a step's time on the host."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..resources import require
from .lesson_maker import LessonBatch, LessonMaker
from .objective import Batch
from .question_tokens import change_tensors

torch = require('torch', 'model')
_AHEAD = 4
"""Batches per process that are under way or wait."""

class LessonFeed:
    """Makes the lessons of coming batches before they are asked for.

    They are the same as :meth:`LessonMaker.make` would return: functions of seed, step and part. Only their
    words and what is in their pictures stay behind: both are in the tensors, and a thousand small objects
    took a tenth of a step to unpack.

    :param maker: Sent to every process once.
    :param anchors: See :meth:`LessonMaker.make`.
    :param coming: The batches that will be asked for, in that order; may have no end.
    :param workers: Processes.
    """

    def __init__(
        self, maker: LessonMaker, anchors: Sequence[NDArray[np.int64]], smallest_crop: float,
        coming: Iterator[Batch], workers: int,
    ) -> None:
        self._coming = coming
        self._pool = ProcessPoolExecutor(
            workers, mp_context=get_context('spawn'), initializer=_begin,
            initargs=(_Work(maker, tuple(anchors), smallest_crop),))
        self._waiting: deque[tuple[Batch, Future[LessonBatch]]] = deque()
        for _ in range(_AHEAD * workers):
            self._submit()

    def take(self, batch: Batch) -> LessonBatch:
        """Return the lessons of the next batch.

        :raises ValueError: Another batch's turn it is.
        """
        expected, made = self._waiting.popleft()
        if expected != batch:
            raise ValueError(
                f'lesson feed: step {batch.step}, part {batch.part} arrived, step {expected.step}, part '
                f'{expected.part} is next')
        self._submit()
        return _change(made.result(), torch.from_numpy)

    def close(self) -> None:
        """End the processes; what they made is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self) -> None:
        batch = next(self._coming, None)
        if batch is not None:
            self._waiting.append((batch, self._pool.submit(_make, batch)))


@dataclass(frozen=True)
class _Work:
    maker: LessonMaker
    anchors: tuple[NDArray[np.int64], ...]
    smallest_crop: float


_work: list[_Work] = []


def _begin(work: _Work) -> None:
    torch.set_num_threads(1)
    _work[:] = [work]


def _make(batch: Batch) -> LessonBatch:
    work, = _work
    # As arrays: tensors would travel through shared memory, of which containers have little.
    made = work.maker.make(batch, work.anchors, work.smallest_crop)
    shown = tuple(replace(lesson, things={}, asked=()) for lesson in made.lessons)
    return _change(replace(made, lessons=shown), lambda tensor: tensor.numpy())


def _change(batch: LessonBatch, change: Any) -> LessonBatch:
    return LessonBatch(
        batch.lessons, {kind: change_tensors(asked, change) for kind, asked in batch.questions.items()},
        {slot: change_tensors(targets, change) for slot, targets in batch.targets.items()})
