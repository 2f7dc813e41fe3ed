"""LeRobotDataset v3 on disk: paths, ``meta/info.json`` and the columns that every dataset has.

Source of the format: LeRobot 0.4.4, ``datasets/utils.py`` and ``datasets/lerobot_dataset.py``; compared field
by field with the DROID, Bridge and UMI episodes that NVIDIA publishes in this form.
"""

from collections.abc import Mapping
from dataclasses import dataclass
import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..evaluation.lerobot_episode import EpisodeError

CODEBASE_VERSION = 'v3.0'
CHUNKS_SIZE = 1000
DATA_FILE_MB = 100
VIDEO_FILE_MB = 200

INFO_PATH = 'meta/info.json'
STATS_PATH = 'meta/stats.json'
TASKS_PATH = 'meta/tasks.parquet'
EPISODES_PATH = 'meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet'
DATA_PATH = 'data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet'
VIDEO_PATH = 'videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4'
FACTS_PATH = 'facts/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet'
"""Ours: what is true in each frame. Beside the dataset, where LeRobot's reader does not look."""
ALTERNATIVES_PATH = 'alternatives/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet'
"""Ours, likewise: what would have been done had something else been asked for."""

DEFAULT_FEATURES: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    'timestamp': {'dtype': 'float32', 'shape': [1], 'names': None},
    'frame_index': {'dtype': 'int64', 'shape': [1], 'names': None},
    'episode_index': {'dtype': 'int64', 'shape': [1], 'names': None},
    'index': {'dtype': 'int64', 'shape': [1], 'names': None},
    'task_index': {'dtype': 'int64', 'shape': [1], 'names': None},
})
"""Columns that LeRobot adds to every dataset."""

DROID_ROBOT_TYPES = ('panda', 'franka', 'fr3')
"""Values of ``robot_type`` whose seven joints the action head ``droid_lerobot`` was trained on."""


class DatasetError(EpisodeError):
    """A dataset that cannot be used. The text names the file, the row, and what is allowed."""


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What ``meta/info.json`` says.

    :param robot_type: Empty where the file has null.
    :param features: Column to ``{dtype, shape, names, info}``.
    """

    root: Path
    fps: float
    robot_type: str
    features: Mapping[str, Mapping[str, Any]]
    data_path: str
    video_path: str
    total_episodes: int
    total_frames: int

    def data_file(self, chunk: int, file: int) -> Path:
        """Return the path of a data file."""
        return self.root / self.data_path.format(
            chunk_index=chunk, file_index=file, episode_chunk=chunk, episode_file=file)

    def video_file(self, key: str, chunk: int, file: int) -> Path:
        """Return the path of a video file."""
        return self.root / self.video_path.format(
            video_key=key, chunk_index=chunk, file_index=file, episode_chunk=chunk, episode_file=file)

    def videos(self) -> tuple[str, ...]:
        """Return the names of the video features."""
        return tuple(name for name, feature in self.features.items() if feature.get('dtype') == 'video')


def read_info(root: Path) -> DatasetInfo:
    """Read ``meta/info.json``.

    :raises DatasetError: It is missing, no JSON, of another version, or lacks something.
    """
    path = root / INFO_PATH
    try:
        info = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise DatasetError(
            f'{path} does not exist; the directory of a LeRobot v3 dataset is needed') from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatasetError(f'{path} is no JSON: {error}') from error
    if not isinstance(info, dict):
        raise DatasetError(f'{path}: {type(info).__name__} arrived, a JSON object is needed')
    version = str(info.get('codebase_version', 'none'))
    if not version.startswith('v3'):
        raise DatasetError(f"{path}: codebase_version '{version}' arrived, v3.x is allowed")
    fps = info.get('fps')
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0.1 <= fps <= 1000:
        raise DatasetError(f'{path}: fps {fps!r} arrived, a number from 0.1 to 1000 is allowed')
    features = info.get('features')
    if not isinstance(features, dict) or not all(isinstance(f, dict) for f in features.values()):
        raise DatasetError(f"{path}: 'features' must be an object of objects")
    for key in ('data_path', 'video_path'):
        if not isinstance(info.get(key, ''), str | None):
            raise DatasetError(f'{path}: {key} {info[key]!r} arrived, a path template is needed')
    return DatasetInfo(
        root=root, fps=float(fps), robot_type=str(info.get('robot_type') or ''),
        features=MappingProxyType({str(k): MappingProxyType(v) for k, v in features.items()}),
        data_path=info.get('data_path') or DATA_PATH, video_path=info.get('video_path') or VIDEO_PATH,
        total_episodes=_count(path, info, 'total_episodes'), total_frames=_count(path, info, 'total_frames'))


def _count(path: Path, info: Mapping[str, Any], key: str) -> int:
    value = info.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DatasetError(f'{path}: {key} {value!r} arrived, a count is needed')
    return value
