"""The tables of a LeRobot v3 dataset as arrays, each value checked with file and row."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation.lerobot_episode import FPS_TOLERANCE
from ..resources import require
from .dataset_layout import DatasetLayout
from .lerobot_format import TASKS_PATH, DatasetError, DatasetInfo

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class VideoSpan:
    """Where an episode lies in a video file.

    :param start_s: Time of its first frame in the file.
    """

    path: Path
    start_s: float


@dataclass(frozen=True, slots=True)
class EpisodeSpan:
    """One episode: its rows in the arrays and its videos.

    :param start: First row.
    :param stop: One past the last row.
    :param videos: Camera slot to span; only slots whose file exists.
    """

    index: int
    start: int
    stop: int
    videos: Mapping[str, VideoSpan]

    @property
    def length(self) -> int:
        """Number of frames."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True, eq=False)
class DatasetTables:
    """All rows of a dataset, F in number, episode after episode.

    :param state: Shape (F, 8): seven joints in radians, gripper 0 open .. 1 closed.
    :param action: Shape (F, 8): what was commanded for the next frame, likewise.
    :param demonstration: Shape (F,), False where the action is not one to learn from.
    :param task_index: Shape (F,), indices into ``tasks``.
    :param missing: Camera slot to the reason why it has no video.
    """

    episodes: tuple[EpisodeSpan, ...]
    state: Array
    action: Array
    demonstration: NDArray[np.bool_]
    task_index: NDArray[np.int64]
    tasks: tuple[str, ...]
    missing: Mapping[str, str]


def read_tables(info: DatasetInfo, layout: DatasetLayout) -> DatasetTables:
    """Read and check all tables. Decodes no video.

    :raises DatasetError: A missing or broken file or column, a row that contradicts the format.
    """
    rows = read_episode_rows(info.root)
    if not rows:
        raise DatasetError(f'{info.root / "meta" / "episodes"}: no episodes')
    tasks = read_tasks(info.root)
    files: dict[Path, dict[str, NDArray[Any]]] = {}
    parts: list[dict[str, NDArray[Any]]] = []
    spans: list[EpisodeSpan] = []
    missing: dict[str, str] = {}
    at = 0
    for row in rows:
        path = info.data_file(int(row.get('data/chunk_index') or 0), int(row.get('data/file_index') or 0))
        if path not in files:
            files[path] = _read_data_file(path, info, layout, len(tasks))
        part = _episode_part(path, files[path], int(row['episode_index']), int(row['length']))
        _check_clock(path, part, int(row['episode_index']), info.fps)
        spans.append(EpisodeSpan(
            int(row['episode_index']), at, at + len(part['frame_index']),
            MappingProxyType(_find_videos(info, layout, row, missing))))
        at = spans[-1].stop
        parts.append(part)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for array in joined.values():
        array.setflags(write=False)
    return DatasetTables(
        episodes=tuple(spans), state=joined['state'], action=joined['action'],
        demonstration=joined['demonstration'], task_index=joined['task_index'], tasks=tasks,
        missing=MappingProxyType(missing))


def read_episode_rows(root: Path) -> list[dict[str, Any]]:
    """Return the rows of ``meta/episodes`` in order of ``episode_index``.

    :raises DatasetError: No file, a broken one, or rows without index or length.
    """
    files = sorted((root / 'meta' / 'episodes').glob('chunk-*/file-*.parquet'))
    if not files:
        raise DatasetError(f'{root / "meta" / "episodes"} holds no chunk-*/file-*.parquet')
    rows: list[dict[str, Any]] = []
    for file in files:
        table = read_parquet(file)
        for name in ('episode_index', 'length'):
            if name not in table.column_names:
                raise DatasetError(f"{file}: no column '{name}'; there are: {', '.join(table.column_names)}")
        names = [n for n in table.column_names if not n.startswith('stats/')]
        rows += table.select(names).to_pylist()
    rows.sort(key=lambda row: int(row['episode_index']))
    numbers = [int(row['episode_index']) for row in rows]
    if len(set(numbers)) != len(numbers):
        raise DatasetError(f'{root / "meta" / "episodes"}: an episode_index stands there twice')
    return rows


def read_tasks(root: Path) -> tuple[str, ...]:
    """Return the instructions in order of ``task_index``.

    :raises DatasetError: The file is missing or broken.
    """
    path = root / TASKS_PATH
    table = read_parquet(path)
    text = next((n for n in ('task', '__index_level_0__') if n in table.column_names), None)
    if text is None or 'task_index' not in table.column_names:
        raise DatasetError(f"{path}: columns 'task' and 'task_index' are needed, there are: "
                           f'{", ".join(table.column_names)}')
    pairs = sorted(zip(table['task_index'].to_pylist(), table[text].to_pylist(), strict=True))
    if [index for index, _ in pairs] != list(range(len(pairs))):
        raise DatasetError(f'{path}: task_index must count from 0 without a gap')
    return tuple(first_annotation(str(task)) for _, task in pairs)


def first_annotation(task: str) -> str:
    """Return the first non-empty annotation: DROID joins up to three with ``|``."""
    return next((text.strip() for text in task.split('|') if text.strip()), '')


def read_parquet(path: Path, columns: list[str] | None = None, row_group: int | None = None) -> Any:
    """Read a parquet file, or one of its row groups, as an arrow table.

    :raises DatasetError: It is missing or broken.
    """
    parquet, arrow = require('pyarrow.parquet', 'record'), require('pyarrow', 'record')
    try:
        with parquet.ParquetFile(path) as file:
            if row_group is not None:
                return file.read_row_group(row_group, columns=columns)
            return file.read(columns=columns)
    except FileNotFoundError:
        raise DatasetError(f'{path} does not exist') from None
    except (arrow.ArrowException, OSError) as error:
        raise DatasetError(f'{path} cannot be read, it may be truncated: {error}') from error


def _read_data_file(path: Path, info: DatasetInfo, layout: DatasetLayout, tasks: int,
                    ) -> dict[str, NDArray[Any]]:
    table = read_parquet(path)
    columns: dict[str, NDArray[Any]] = {
        'episode_index': read_numbers(path, table, 'episode_index', 1)[:, 0].astype(np.int64),
        'frame_index': read_numbers(path, table, 'frame_index', 1)[:, 0].astype(np.int64),
        'timestamp': read_numbers(path, table, 'timestamp', 1)[:, 0],
        'task_index': read_numbers(path, table, 'task_index', 1)[:, 0].astype(np.int64),
    }
    for target, joints, gripper in (
            ('state', layout.joint_position, layout.gripper),
            ('action', layout.action_position, layout.action_gripper)):
        for name in (joints, gripper):
            if name not in info.features:
                raise DatasetError(
                    f"{info.root / 'meta' / 'info.json'}: no feature '{name}'; there are: "
                    f'{", ".join(info.features)}. Name the right one in the layout')
        closed = read_numbers(path, table, gripper, 1)
        _check_range(path, gripper, closed)
        columns[target] = np.hstack([
            read_numbers(path, table, joints, layout.joints), np.clip(closed, 0.0, 1.0)])
    outside = (columns['task_index'] < 0) | (columns['task_index'] >= tasks)
    if outside.any():
        row = int(np.argmax(outside))
        raise DatasetError(f'{path}: row {row}: task_index {columns["task_index"][row]} arrived, 0 to '
                           f'{tasks - 1} stand in {TASKS_PATH}')
    columns['demonstration'] = np.ones(len(table), bool)
    if layout.demonstration in table.column_names:
        columns['demonstration'] = read_numbers(path, table, layout.demonstration, 1)[:, 0] > 0.5
    return columns


def read_numbers(path: Path, table: Any, name: str, width: int) -> Array:
    """Return a column as float64 (rows, width), finite.

    :raises DatasetError: Names file, row and what is allowed.
    """
    if name not in table.column_names:
        raise DatasetError(f"{path}: no column '{name}'; there are: {', '.join(table.column_names)}")
    arrow, compute = require('pyarrow', 'record'), require('pyarrow.compute', 'record')
    column = table[name].combine_chunks()
    types = arrow.types
    if column.null_count:
        row = int(np.argmax(np.asarray(compute.is_null(column))))
        raise DatasetError(f"{path}: row {row}: '{name}' is empty, numbers are needed")
    kind = column.type
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        lengths = np.asarray(compute.list_value_length(column))
        if (lengths != width).any():
            row = int(np.argmax(lengths != width))
            raise DatasetError(
                f"{path}: row {row}: '{name}' has {lengths[row]} numbers, {width} are allowed")
        column = column.flatten()
        kind = column.type
    elif width != 1:
        raise DatasetError(f"{path}: row 0: '{name}' has 1 number, {width} are allowed")
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
        raise DatasetError(f"{path}: '{name}' has the type {kind}, numbers are needed")
    values = np.asarray(column.to_numpy(zero_copy_only=False), np.float64).reshape(-1, width)
    if not np.isfinite(values).all():
        row, index = (int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise DatasetError(
            f"{path}: row {row}: '{name}'[{index}] is {values[row, index]}, finite numbers are allowed")
    return values


def _check_range(path: Path, name: str, closed: Array) -> None:
    # Real grippers report a little past their ends.
    wrong = (closed < -0.1) | (closed > 1.1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DatasetError(
            f"{path}: row {row}: '{name}' is {closed[row, 0]:g}, 0 (open) to 1 (closed) is allowed")


def _episode_part(path: Path, columns: Mapping[str, NDArray[Any]], index: int, length: int,
                  ) -> dict[str, NDArray[Any]]:
    found = np.flatnonzero(columns['episode_index'] == index)
    if len(found) != length:
        raise DatasetError(
            f'{path}: {len(found)} rows of episode {index}, meta/episodes says {length}')
    if not len(found):
        raise DatasetError(f'{path}: episode {index} has no rows')
    order = found[np.argsort(columns['frame_index'][found], kind='stable')]
    frames = columns['frame_index'][order]
    if (frames != np.arange(length)).any():
        at = int(np.argmax(frames != np.arange(length)))
        raise DatasetError(
            f'{path}: row {order[at]}: episode {index} has frame_index {frames[at]} where {at} is due')
    return {name: values[order] for name, values in columns.items()} | {'row': order}


def _check_clock(path: Path, part: Mapping[str, NDArray[Any]], index: int, fps: float) -> None:
    stamps = part['timestamp'] - part['timestamp'][0]
    wrong = np.abs(np.diff(stamps) - 1.0 / fps) > 0.5 / fps
    if len(stamps) > 1:
        found = 1.0 / max(float(np.median(np.diff(stamps))), 1e-9)
        if abs(found - fps) > FPS_TOLERANCE * fps:
            raise DatasetError(
                f'{path}: row {part["row"][1]}: the timestamps of episode {index} run at {found:.4g} fps, '
                f'info.json says {fps:g}; one of them is wrong')
    if wrong.any():
        at = int(np.argmax(wrong)) + 1
        raise DatasetError(
            f'{path}: row {part["row"][at]}: timestamp {part["timestamp"][at]:g} of episode {index} comes '
            f'{stamps[at] - stamps[at - 1]:g} s after the one before, 1/{fps:g} s is due')


def _find_videos(info: DatasetInfo, layout: DatasetLayout, row: Mapping[str, Any],
                 missing: dict[str, str]) -> dict[str, VideoSpan]:
    videos: dict[str, VideoSpan] = {}
    known = info.videos()
    for slot, key in layout.cameras.items():
        if key not in known:
            missing[slot] = f"info.json has no video '{key}'; its videos: {', '.join(known) or 'none'}"
            continue
        chunk, file = (int(row.get(f'videos/{key}/{name}_index') or 0) for name in ('chunk', 'file'))
        path = info.video_file(key, chunk, file)
        if not path.is_file():
            missing[slot] = (
                f'{path} does not exist, though info.json names it (episode {row["episode_index"]})')
            continue
        videos[slot] = VideoSpan(path, float(row.get(f'videos/{key}/from_timestamp') or 0.0))
    return videos
