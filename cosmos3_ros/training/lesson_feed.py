"""Lessons made ahead, by processes of their own: drawing and packing them takes a step's time on the host."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..resources import require
from .lesson_maker import LessonBatch, LessonMaker
from .objective import Batch
from .parent_watch import end_with_parent
from .settings import TrainingError

torch = require('torch', 'model')
loading = require('torch.utils.data', 'model')
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
    :param workers: Processes. They end with this one, however it ends.
    """

    def __init__(
        self, maker: LessonMaker, anchors: Sequence[NDArray[np.int64]], smallest_crop: float,
        coming: Iterator[Batch], workers: int,
    ) -> None:
        self._made: Iterator[tuple[Batch, LessonBatch]] | None = iter(loading.DataLoader(
            _Lessons(maker, tuple(anchors), smallest_crop), sampler=coming, batch_size=None,
            num_workers=workers, prefetch_factor=_AHEAD, multiprocessing_context='spawn',
            collate_fn=_leave, worker_init_fn=_begin))

    def take(self, batch: Batch) -> LessonBatch:
        """Return the lessons of the next batch.

        :raises ValueError: It is not this one's turn.
        :raises TrainingError: A process has ended.
        """
        if self._made is None:
            raise ValueError('lesson feed: it is closed')
        with explained():
            found = next(self._made, None)
        if found is None:
            raise ValueError(f'lesson feed: step {batch.step} arrived after the last one')
        expected, made = found
        if expected != batch:
            raise ValueError(
                f'lesson feed: step {batch.step}, part {batch.part} arrived, step {expected.step}, part '
                f'{expected.part} is next')
        return made.change(torch.from_numpy)

    def close(self) -> None:
        """End the processes; what they made is dropped."""
        self._made = None  # the loader's iterator ends its processes as it goes


@contextmanager
def explained() -> Iterator[None]:
    """Say clearly what torch says, at any moment, of a process that has ended.

    :raises TrainingError: One has.
    """
    try:
        yield
    except RuntimeError as error:
        if 'DataLoader worker' not in str(error):
            raise
        raise TrainingError(
            'reasoner.lesson_workers: a process that makes lessons has ended, perhaps for want of memory '
            f'({error}); go on with --resume, and with fewer of them or with 0') from error


class _Lessons(loading.Dataset):  # type: ignore[misc, name-defined]
    """What a process makes of a batch."""

    def __init__(
        self, maker: LessonMaker, anchors: tuple[NDArray[np.int64], ...], smallest_crop: float,
    ) -> None:
        self._maker, self._anchors, self._smallest_crop = maker, anchors, smallest_crop

    def __getitem__(self, batch: Batch) -> tuple[Batch, LessonBatch]:
        made = self._maker.make(batch, self._anchors, self._smallest_crop)
        shown = tuple(replace(lesson, things={}, asked=()) for lesson in made.lessons)
        # As arrays: tensors would travel through shared memory, of which containers have little.
        return batch, replace(made, lessons=shown).change(lambda tensor: tensor.numpy())


def _leave(made: Any) -> Any:
    return made


def _begin(_: int) -> None:
    # torch's own watch looks between two pieces of work, and does not see that nobody takes what is made.
    end_with_parent()
