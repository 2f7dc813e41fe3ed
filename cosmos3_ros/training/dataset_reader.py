"""Samples for a trainer out of a LeRobot v3 dataset: pictures, state and the actions that follow.

Typical use::

    dataset = Dataset.open(Path('episodes'))
    sample = dataset.sample(0, horizon=32, future_frames=32, with_facts=True)
    picture = compose_view(sample.images, view)            # generator.composed_view
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from .dataset_facts import FactStore
from .dataset_layout import DROID_LAYOUT, DatasetLayout
from .dataset_tables import DatasetTables, EpisodeSpan, read_tables
from .dataset_videos import FrameStore, probe_video
from .lerobot_format import DatasetError, DatasetInfo, read_info

HORIZON = 32
RATE_HZ = 15.0
"""Rows per second of the ``droid_joint`` contract."""

DEFAULT_MEMORY_BYTES = 2 * 1024**3


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What a policy would have seen in one frame, and what was done from there on.

    :param images: Camera slot to uint8 (H, W, 3) RGB, as stored; blank slots are black.
    :param state: Shape (8,): seven joints in radians, gripper 0 open .. 1 closed.
    :param actions: Shape (horizon, 8), likewise; row i is due at (i + 1) / fps after this frame.
    :param is_pad: Shape (horizon,), True where the demonstration is over and the last row is repeated.
    :param instruction: Empty where the dataset has none.
    :param future: Camera slot to uint8 (future_frames, H, W, 3): the frames after this one; empty if not
        asked for. The last is repeated where the demonstration is over.
    :param future_is_pad: Shape (future_frames,).
    :param facts: JSON of ``scene_facts.FrameFacts``, or None.
    """

    dataset: str
    episode: int
    frame: int
    images: Mapping[str, NDArray[np.uint8]]
    state: NDArray[np.float64]
    actions: NDArray[np.float64]
    is_pad: NDArray[np.bool_]
    instruction: str
    future: Mapping[str, NDArray[np.uint8]]
    future_is_pad: NDArray[np.bool_]
    facts: str | None


class Dataset:
    """One dataset, opened with :meth:`open`. Its samples are the frames that show what to do.

    :param tables: All rows.
    :param blank: Camera slots that have no video and are shown black, because that was asked for.
    :param store: Where decoded frames are kept.
    """

    def __init__(self, name: str, info: DatasetInfo, layout: DatasetLayout, tables: DatasetTables,
                 blank: Sequence[str], store: FrameStore) -> None:
        self.name = name
        self.info = info
        self.layout = layout
        self.tables = tables
        self.blank_cameras = tuple(blank)
        self._store = store
        self._facts = FactStore(info.root)
        self._end = _demonstration_ends(tables)
        self._starts = np.flatnonzero(tables.demonstration)
        self._episode_of = np.concatenate([
            np.full(span.length, i) for i, span in enumerate(tables.episodes)])

    @classmethod
    def open(cls, root: Path, *, layout: DatasetLayout = DROID_LAYOUT, blank_cameras: Sequence[str] = (),
             fps: float = RATE_HZ, width: int | None = None, memory_bytes: int = DEFAULT_MEMORY_BYTES,
             ) -> 'Dataset':
        """Open a dataset: all tables are read and checked, videos are only looked at.

        ``dataset_validation.check_dataset`` checks the pictures too.

        :param blank_cameras: Slots that may be without video; they are shown black.
        :param fps: What the dataset must run at.
        :param width: Wider pictures are scaled down to this many pixels when they are decoded; give the
            width of the composed view, whose result stays the same.
        :param memory_bytes: For decoded frames.
        :raises DatasetError: Names file, row and what is allowed.
        """
        info = read_info(root)
        where = root / 'meta' / 'info.json'
        if info.robot_type not in layout.robot_types:
            raise DatasetError(
                f"{where}: robot_type '{info.robot_type}' arrived, one of {', '.join(layout.robot_types)} is "
                'allowed; name others in the layout if their joints mean the same')
        if info.fps != fps:
            raise DatasetError(f'{where}: fps {info.fps:g} arrived, {fps:g} is needed')
        tables = read_tables(info, layout)
        absent = {slot: why for slot, why in tables.missing.items() if slot not in blank_cameras}
        if absent:
            raise DatasetError(
                f'{root}: camera {"; camera ".join(f"{slot}: {why}" for slot, why in absent.items())}. Name '
                'them in blank_cameras to go on without')
        for path in {v.path for span in tables.episodes for v in span.videos.values()}:
            probe_video(path, fps)
        blank = tuple(slot for slot in layout.cameras if slot in tables.missing)
        if len(blank) == len(layout.cameras):
            raise DatasetError(f'{root}: no camera has a video')
        return cls(root.name, info, layout, tables, blank, FrameStore(memory_bytes, width))

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._starts)

    @property
    def frame_count(self) -> int:
        """Number of all frames, those that are no samples included."""
        return len(self.tables.state)

    @property
    def demonstration_ends(self) -> NDArray[np.int64]:
        """Shape (frames,): for each row the row after the demonstration that it belongs to."""
        return self._end

    def place(self, index: int) -> tuple[int, int]:
        """Return episode (position in ``tables.episodes``) and frame of a sample.

        :raises IndexError: No such sample.
        """
        if not 0 <= index < len(self):
            raise IndexError(f'{self.name}: sample {index} arrived, 0 to {len(self) - 1} are there')
        row = int(self._starts[index])
        episode = int(self._episode_of[row])
        return episode, row - self.tables.episodes[episode].start

    def sample(self, index: int, *, horizon: int = HORIZON, future_frames: int = 0,
               with_facts: bool = False) -> Sample:
        """Return a sample.

        :param future_frames: Frames after this one to decode too, for co-denoising of video.
        :raises IndexError: No such sample.
        :raises DatasetError: A video cannot be decoded.
        """
        return self.sample_at(
            *self.place(index), horizon=horizon, future_frames=future_frames, with_facts=with_facts)

    def sample_at(self, episode: int, frame: int, *, horizon: int = HORIZON, future_frames: int = 0,
                  with_facts: bool = False) -> Sample:
        """Return the sample of any frame, whether it is a demonstration or not.

        :param episode: Position in ``tables.episodes``.
        """
        span = self._span(episode, frame)
        row = span.start + frame
        rows, is_pad = _rows_ahead(row, horizon, int(self._end[row]), first=0)
        later, future_is_pad = _rows_ahead(row, future_frames, int(self._end[row]), first=1)
        images, future = {}, {}
        for slot in self.layout.cameras:
            pictures = self.pictures(episode, slot)
            images[slot] = pictures[frame]
            if future_frames:
                future[slot] = pictures[later - span.start]
        tables = self.tables
        return Sample(
            dataset=self.name, episode=span.index, frame=frame, images=MappingProxyType(images),
            state=tables.state[row], actions=tables.action[rows], is_pad=is_pad,
            instruction=tables.tasks[int(tables.task_index[row])], future=MappingProxyType(future),
            future_is_pad=future_is_pad, facts=self.facts(episode, frame) if with_facts else None)

    def pictures(self, episode: int, slot: str) -> NDArray[np.uint8]:
        """Return all frames of a camera in an episode, uint8 (T, H, W, 3), read-only; black if blank.

        :raises DatasetError: Unknown slot, or the video cannot be decoded.
        """
        span = self._span(episode, 0)
        if slot not in self.layout.cameras:
            raise DatasetError(f'camera {slot!r} arrived, {", ".join(self.layout.cameras)} are allowed')
        if slot in span.videos:
            video = span.videos[slot]
            return self._store.frames(video.path, video.start_s, span.length, self.info.fps)
        other = next(iter(span.videos.values()), None)
        if other is None:
            raise DatasetError(f'{self.info.root}: episode {span.index} has no video at all')
        shape = self._store.frames(other.path, other.start_s, span.length, self.info.fps).shape
        # One frame seen T times: black costs no memory.
        return np.broadcast_to(np.zeros((1, *shape[1:]), np.uint8), shape)

    def facts(self, episode: int, frame: int) -> str | None:
        """Return the facts of a frame as JSON, or None where the dataset has none.

        :raises DatasetError: The facts cannot be read or lack the frame.
        """
        return self._facts.find(self._span(episode, frame).index, frame)

    def _span(self, episode: int, frame: int) -> EpisodeSpan:
        if not 0 <= episode < len(self.tables.episodes):
            raise IndexError(
                f'{self.name}: episode {episode} arrived, 0 to {len(self.tables.episodes) - 1} are there')
        span = self.tables.episodes[episode]
        if not 0 <= frame < span.length:
            raise IndexError(
                f'{self.name}: frame {frame} arrived, episode {span.index} has 0 to {span.length - 1}')
        return span


def _demonstration_ends(tables: DatasetTables) -> NDArray[np.int64]:
    """Return for each row the first later row that is no demonstration any more, or the episode's end."""
    ends = np.empty(len(tables.state), np.int64)
    for span in tables.episodes:
        end = span.stop
        for row in range(span.stop - 1, span.start - 1, -1):
            if not tables.demonstration[row]:
                end = row
            ends[row] = max(end, row + 1)
    return ends


def _rows_ahead(row: int, count: int, end: int, *, first: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    wanted = row + first + np.arange(count)
    return np.minimum(wanted, end - 1), wanted >= end
