"""Put recorded episodes together as one LeRobotDataset v3."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
import json
from pathlib import Path
import shutil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..resources import require
from .dataset_layout import DROID_LAYOUT
from .episode_settings import RATE_HZ, RecordingSettings
from .episode_worker import ALTERNATIVES_FILE, DATA_FILE, FACTS_FILE, SUMMARY_FILE
from .lerobot_format import (
    ALTERNATIVES_PATH,
    CHUNKS_SIZE,
    CODEBASE_VERSION,
    DATA_FILE_MB,
    DATA_PATH,
    DEFAULT_FEATURES,
    EPISODES_PATH,
    FACTS_PATH,
    INFO_PATH,
    STATS_PATH,
    TASKS_PATH,
    VIDEO_FILE_MB,
    VIDEO_PATH,
    DatasetError,
)
from .lerobot_stats import number_statistics, picture_statistics
from .lerobot_video import describe_video, join_videos

ROBOT_TYPE = 'panda'
RECORDING_PATH = 'meta/recording.json'
"""Ours: the settings, and of each episode all that was drawn."""

_MEBI = 1024**2


@dataclass(frozen=True, slots=True)
class _Place:
    """The file that an episode goes into, and where it begins there."""

    chunk: int
    file: int
    start_s: float = 0.0
    end_s: float = 0.0


def write_dataset(root: Path, parts: Sequence[Path], settings: RecordingSettings, *,
                  data_file_mb: int = DATA_FILE_MB, video_file_mb: int = VIDEO_FILE_MB) -> None:
    """Write a dataset's directories from finished episodes; ``info.json`` last.

    :param parts: Directories that ``episode_worker`` wrote, in order of the episodes.
    :raises DatasetError: No episode, or one that cannot be read.
    """
    if not parts:
        raise DatasetError(f'{root}: 0 episodes arrived, at least 1 is needed')
    for name in ('meta', 'data', 'videos', 'facts', 'alternatives'):
        shutil.rmtree(root / name, ignore_errors=True)
    documents = [json.loads((part / SUMMARY_FILE).read_text()) for part in parts]
    lengths = [int(document['summary']['frames']) for document in documents]
    tasks = list(dict.fromkeys(str(document['summary']['instruction']) for document in documents))
    episode_tasks = [tasks.index(document['summary']['instruction']) for document in documents]
    data_places, columns = _write_data(root, parts, lengths, episode_tasks, data_file_mb * _MEBI)
    _write_beside(root, parts, data_places, FACTS_FILE, FACTS_PATH)
    _write_beside(root, parts, data_places, ALTERNATIVES_FILE, ALTERNATIVES_PATH)
    videos: dict[str, list[_Place]] = {}
    for slot, key in DROID_LAYOUT.cameras.items():
        videos[key] = _write_videos(
            root, key, [part / f'{slot}.mp4' for part in parts], lengths, video_file_mb * _MEBI)
    _write_tasks(root, tasks)
    _write_episodes(root, lengths, [tasks[i] for i in episode_tasks], data_places, videos)
    statistics = {name: number_statistics(values) for name, values in columns.items()}
    for slot, key in DROID_LAYOUT.cameras.items():
        statistics[key] = picture_statistics(
            np.sum([document['histograms'][slot] for document in documents], axis=0))
    _write_json(root / STATS_PATH, statistics)
    _write_json(root / RECORDING_PATH, {
        'settings': json.loads(settings.to_json()),
        'episodes': [_without_times(d['summary']) | {'target': d['target'], 'plan': d['plan']}
                     for d in documents]})
    _write_json(root / INFO_PATH, _describe(root, lengths, len(tasks)))


def _write_data(root: Path, parts: Sequence[Path], lengths: Sequence[int], episode_tasks: Sequence[int],
                file_bytes: int) -> tuple[list[_Place], dict[str, NDArray[np.float64]]]:
    arrow: Any = require('pyarrow', 'record')
    parquet: Any = require('pyarrow.parquet', 'record')
    collected: dict[str, list[NDArray[np.float64]]] = {}
    places: list[_Place] = []
    first = np.concatenate([[0], np.cumsum(lengths)])
    for chunk, file, numbers in _divide([part / DATA_FILE for part in parts], file_bytes):
        path = root / DATA_PATH.format(chunk_index=chunk, file_index=file)
        path.parent.mkdir(parents=True, exist_ok=True)
        writer: Any = None
        for number in numbers:
            table = parquet.read_table(parts[number] / DATA_FILE)
            count = lengths[number]
            added = {
                'episode_index': np.full(count, number, np.int64),
                'index': np.arange(first[number], first[number] + count, dtype=np.int64),
                'task_index': np.full(count, episode_tasks[number], np.int64)}
            for name, values in added.items():
                table = table.append_column(name, arrow.array(values))
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
            places.append(_Place(chunk, file))
            for name in table.column_names:
                flat = table[name].combine_chunks()
                flat = flat.flatten() if arrow.types.is_fixed_size_list(flat.type) else flat
                numbers_of = np.asarray(flat.to_numpy(zero_copy_only=False), np.float64)
                collected.setdefault(name, []).append(numbers_of.reshape(count, -1))
        writer.close()
    return places, {name: np.concatenate(values) for name, values in collected.items()}


def _write_beside(
    root: Path, parts: Sequence[Path], places: Sequence[_Place], name: str, form: str,
) -> None:
    """Write facts or alternatives, if there are any, in files that correspond to the data files."""
    if not all((part / name).is_file() for part in parts):
        return
    arrow: Any = require('pyarrow', 'record')
    parquet: Any = require('pyarrow.parquet', 'record')
    writers: dict[Path, Any] = {}
    for number, (part, place) in enumerate(zip(parts, places, strict=True)):
        path = root / form.format(chunk_index=place.chunk, file_index=place.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        table = parquet.read_table(part / name)
        table = table.add_column(
            0, 'episode_index', arrow.array(np.full(table.num_rows, number, np.int64)))
        if path not in writers:
            writers[path] = parquet.ParquetWriter(path, table.schema, compression='zstd')
        writers[path].write_table(table)
    for writer in writers.values():
        writer.close()


def _write_videos(root: Path, key: str, parts: Sequence[Path], lengths: Sequence[int], file_bytes: int,
                  ) -> list[_Place]:
    places: list[_Place] = []
    for chunk, file, numbers in _divide(parts, file_bytes):
        path = root / VIDEO_PATH.format(video_key=key, chunk_index=chunk, file_index=file)
        starts = join_videos(path, [parts[number] for number in numbers], RATE_HZ)
        places += [
            _Place(chunk, file, start, start + lengths[number] / RATE_HZ)
            for start, number in zip(starts, numbers, strict=True)]
    return places


def _divide(parts: Sequence[Path], file_bytes: int) -> Iterator[tuple[int, int, list[int]]]:
    """Yield chunk, file and which episodes go into it; a file ends before it would grow too large."""
    group: list[int] = []
    held, number = 0, 0
    for index, part in enumerate(parts):
        size = part.stat().st_size
        if group and held + size > file_bytes:
            yield *divmod(number, CHUNKS_SIZE), group
            group, held, number = [], 0, number + 1
        group.append(index)
        held += size
    yield *divmod(number, CHUNKS_SIZE), group


def _write_tasks(root: Path, tasks: Sequence[str]) -> None:
    """Write the tasks as pandas would write a frame whose index is the text; LeRobot reads it so."""
    arrow: Any = require('pyarrow', 'record')
    parquet: Any = require('pyarrow.parquet', 'record')
    table = arrow.table({'task_index': arrow.array(range(len(tasks)), arrow.int64()), 'task': list(tasks)})

    def column(name: str, kind: str) -> dict[str, Any]:
        return {'name': name, 'field_name': name, 'pandas_type': 'unicode' if kind == 'object' else kind,
                'numpy_type': kind, 'metadata': None}

    pandas = {
        'index_columns': ['task'], 'columns': [column('task_index', 'int64'), column('task', 'object')],
        'column_indexes': [{'name': None, 'field_name': None, 'pandas_type': 'unicode',
                            'numpy_type': 'object', 'metadata': {'encoding': 'UTF-8'}}],
        'creator': {'library': 'pyarrow', 'version': arrow.__version__}, 'pandas_version': '2.0.0'}
    (root / TASKS_PATH).parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table.replace_schema_metadata({'pandas': json.dumps(pandas)}), root / TASKS_PATH)


def _write_episodes(root: Path, lengths: Sequence[int], tasks: Sequence[str], places: Sequence[_Place],
                    videos: Mapping[str, Sequence[_Place]]) -> None:
    arrow: Any = require('pyarrow', 'record')
    parquet: Any = require('pyarrow.parquet', 'record')
    ends = np.cumsum(lengths)
    columns: dict[str, Any] = {
        'episode_index': np.arange(len(lengths)), 'tasks': [[task] for task in tasks],
        'length': np.asarray(lengths), 'dataset_from_index': ends - lengths, 'dataset_to_index': ends,
        'data/chunk_index': [place.chunk for place in places],
        'data/file_index': [place.file for place in places]}
    for key, spans in videos.items():
        columns |= {
            f'videos/{key}/chunk_index': [span.chunk for span in spans],
            f'videos/{key}/file_index': [span.file for span in spans],
            f'videos/{key}/from_timestamp': [span.start_s for span in spans],
            f'videos/{key}/to_timestamp': [span.end_s for span in spans]}
    zeros = np.zeros(len(lengths), np.int64)
    columns |= {'meta/episodes/chunk_index': zeros, 'meta/episodes/file_index': zeros}
    path = root / EPISODES_PATH.format(chunk_index=0, file_index=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.table(columns), path)


def _describe(root: Path, lengths: Sequence[int], tasks: int) -> dict[str, Any]:
    """Return ``info.json``."""
    layout = DROID_LAYOUT

    def numbers(width: int, dtype: str = 'float32') -> dict[str, Any]:
        return {'dtype': dtype, 'shape': [width], 'names': None}

    features: dict[str, Any] = {
        layout.joint_position: numbers(layout.joints), layout.gripper: numbers(1),
        layout.action_position: numbers(layout.joints), layout.action_gripper: numbers(1),
        layout.demonstration: numbers(1, 'bool')}
    for key in layout.cameras.values():
        info = describe_video(root / VIDEO_PATH.format(video_key=key, chunk_index=0, file_index=0))
        features[key] = {
            'dtype': 'video', 'shape': [info['video.height'], info['video.width'], 3],
            'names': ['height', 'width', 'channels'], 'info': info}
    features |= {name: dict(feature) for name, feature in DEFAULT_FEATURES.items()}
    return {
        'codebase_version': CODEBASE_VERSION, 'robot_type': ROBOT_TYPE, 'total_episodes': len(lengths),
        'total_frames': sum(lengths), 'total_tasks': tasks, 'chunks_size': CHUNKS_SIZE,
        'data_files_size_in_mb': DATA_FILE_MB, 'video_files_size_in_mb': VIDEO_FILE_MB, 'fps': RATE_HZ,
        'splits': {'train': f'0:{len(lengths)}'}, 'data_path': DATA_PATH, 'video_path': VIDEO_PATH,
        'features': features}


def _without_times(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is the same whenever the episode is recorded."""
    return {name: value for name, value in summary.items() if not name.endswith('_s')}


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix('.partial')
    partial.write_text(json.dumps(document, indent=4), encoding='utf-8')
    partial.rename(path)
