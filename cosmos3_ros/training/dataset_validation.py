"""Check a dataset as thoroughly as it will be used: every row, every picture, every fact."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.lerobot_episode import EpisodeError, EpisodeVideo, decode_frames
from .dataset_alternatives import read_alternatives
from .dataset_layout import DROID_LAYOUT, DatasetLayout
from .dataset_reader import RATE_HZ, Dataset
from .dataset_tables import EpisodeSpan
from .lerobot_format import DatasetError
from .scene_facts import FrameFacts

Progress = Callable[[int, int], None]
"""Called with episodes done and episodes in all."""


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """What a sound dataset holds.

    :param samples: Frames that a policy can learn from.
    :param missing_cameras: Slots without video that were allowed to be.
    :param facts: Frames with facts.
    :param alternatives: Chunks that follow other instructions than their episodes'.
    """

    episodes: int
    frames: int
    samples: int
    seconds: float
    tasks: int
    cameras: dict[str, str]
    missing_cameras: tuple[str, ...]
    facts: int
    alternatives: int


def check_dataset(root: Path, *, layout: DatasetLayout = DROID_LAYOUT, blank_cameras: Sequence[str] = (),
                  fps: float = RATE_HZ, progress: Progress | None = None) -> DatasetReport:
    """Read everything once.

    :param blank_cameras: Slots that may be without video.
    :raises DatasetError: The first thing that is wrong: file, row or frame, and what is allowed.
    """
    dataset = Dataset.open(root, layout=layout, blank_cameras=blank_cameras, fps=fps)
    _check_counts(dataset)
    spans = dataset.tables.episodes
    facts = 0
    for number, span in enumerate(spans):
        for slot, video in span.videos.items():
            _check_pictures(dataset, span, slot, video.path, video.start_s)
        facts += _check_facts(dataset, number, span)
        if progress is not None:
            progress(number + 1, len(spans))
    alternatives = read_alternatives(root, spans)
    features = dataset.info.features
    sizes = {slot: features[layout.cameras[slot]].get('shape', []) for slot in layout.cameras
             if slot not in dataset.blank_cameras}
    return DatasetReport(
        episodes=len(spans), frames=dataset.frame_count, samples=len(dataset),
        seconds=round(dataset.frame_count / dataset.info.fps, 1), tasks=len(dataset.tables.tasks),
        cameras={slot: f'{shape[1]}x{shape[0]}' if len(shape) == 3 else '?' for slot, shape in sizes.items()},
        missing_cameras=dataset.blank_cameras, facts=facts,
        alternatives=0 if alternatives is None else len(alternatives))


def _check_counts(dataset: Dataset) -> None:
    info, where = dataset.info, dataset.info.root / 'meta' / 'info.json'
    episodes = len(dataset.tables.episodes)
    if info.total_episodes != episodes or info.total_frames != dataset.frame_count:
        raise DatasetError(
            f'{where}: total_episodes {info.total_episodes} and total_frames {info.total_frames} arrived, '
            f'the tables hold {episodes} and {dataset.frame_count}')


def _check_pictures(dataset: Dataset, span: EpisodeSpan, slot: str, path: Path, start_s: float) -> None:
    """Decode an episode of a camera; one picture at a time, so that long episodes fit in memory."""
    shape = tuple(dataset.info.features[dataset.layout.cameras[slot]].get('shape') or ())
    try:
        for number, picture in enumerate(decode_frames(
                EpisodeVideo(path, start_s, span.length, dataset.info.fps))):
            if shape and picture.shape != shape:
                raise DatasetError(
                    f'{path}: frame {number} of episode {span.index} is {_size(picture.shape)}, info.json '
                    f'says {_size(shape)}')
    except DatasetError:
        raise
    except EpisodeError as error:
        raise DatasetError(f'episode {span.index}: {error}') from error


def _check_facts(dataset: Dataset, number: int, span: EpisodeSpan) -> int:
    if dataset.facts(number, 0) is None:
        return 0
    for frame in range(span.length):
        try:
            found = FrameFacts.from_json(str(dataset.facts(number, frame)))
        except DatasetError as error:
            raise DatasetError(
                f'{dataset.info.root / "facts"}: episode {span.index}, frame {frame}: {error}') from error
        boxes = np.array([thing.box for thing in found.objects]).reshape(-1, 4)
        if ((boxes < 0.0) | (boxes > 1.0)).any() or (boxes[:, :2] > boxes[:, 2:]).any():
            raise DatasetError(
                f'{dataset.info.root / "facts"}: episode {span.index}, frame {frame}: a box outside the '
                'picture or turned inside out')
    return span.length


def _size(shape: Sequence[Any]) -> str:
    return 'x'.join(str(n) for n in shape)
