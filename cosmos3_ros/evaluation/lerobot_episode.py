"""Read one episode of a LeRobot v3 dataset: table, videos, instruction.

The format (``meta/info.json`` with path templates; ``meta/episodes`` with one row per episode that says which
data and video file it lies in and from when to when; several episodes per file): LeRobot, dataset v3.0.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contracts.arrays import ContractError, frozen_array
from ..resources import require

Array = NDArray[np.float64]
Frame = NDArray[np.uint8]

SMALL_PIXELS = 640 * 480
"""Up to so many, a picture is decoded by one thread."""

FPS_TOLERANCE = 0.01
"""Relative; 30000/1001 is often written as 30."""


class EpisodeError(ValueError):
    """A dataset that cannot be read. The text names the file or column and what is expected."""


@dataclass(frozen=True, slots=True)
class EpisodeLayout:
    """Which columns mean what. The defaults are those of DROID in LeRobot form.

    :param cameras: Camera slot to video feature.
    """

    joint_position: str = 'observation.state.joint_positions'
    gripper: str = 'observation.state.gripper_position'
    action_position: str = 'action.joint_position'
    action_gripper: str = 'action.gripper_position'
    cameras: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({
        'wrist': 'observation.image.wrist_image_left',
        'exterior_1': 'observation.image.exterior_image_1_left',
        'exterior_2': 'observation.image.exterior_image_2_left',
    }))


@dataclass(frozen=True, slots=True)
class EpisodeVideo:
    """The part of a video file that belongs to the episode.

    :param start_s: Time of the episode's first frame in the file.
    """

    path: Path
    start_s: float
    frames: int
    fps: float


@dataclass(frozen=True, slots=True, eq=False)
class Episode:
    """One episode. All arrays have T rows, one per frame.

    :param stamps_s: Seconds from the first frame.
    :param joint_position: Shape (T, N), radians, measured.
    :param gripper: Shape (T,), 0 open .. 1 closed.
    :param action_position: Shape (T, N), radians, commanded; None where the dataset has no actions.
    :param videos: Camera slot to video.
    :param missing: Camera slot named by the dataset to the reason why its video is not there.
    """

    root: Path
    index: int
    fps: float
    instruction: str
    stamps_s: Array
    joint_position: Array
    gripper: Array
    action_position: Array | None
    action_gripper: Array | None
    videos: Mapping[str, EpisodeVideo]
    missing: Mapping[str, str]

    @property
    def duration_s(self) -> float:
        """Seconds from the first to the last frame."""
        return float(self.stamps_s[-1])


def read_episode(root: Path, index: int = 0, layout: EpisodeLayout | None = None) -> Episode:
    """Read the table of an episode and find its videos; decodes nothing.

    :param root: Directory with ``meta``, ``data`` and ``videos``.
    :raises EpisodeError: Not a v3 dataset, no such episode, a broken file, or data that contradict
        each other.
    """
    layout = layout if layout is not None else EpisodeLayout()
    info = _read_info(root)
    fps = float(info['fps'])
    row = _episode_row(root, index)
    table = _read_rows(root, info, row, index)
    length = int(row['length'])
    if len(table['timestamp']) != length:
        raise EpisodeError(
            f'{root}: episode {index} has {len(table["timestamp"])} rows of data, its metadata say {length}')
    stamps = _column(table, 'timestamp', root, width=None)
    stamps = stamps - stamps[0]
    _check_rate(stamps, fps, root)
    joints = _column(table, layout.joint_position, root, width=0)
    videos, missing = _find_videos(root, info, row, layout, fps, length)
    return Episode(
        root=root, index=index, fps=fps, instruction=_instruction(row), stamps_s=frozen_array(
            'stamps_s', stamps, shape=(length,)),
        joint_position=joints, gripper=np.clip(_column(table, layout.gripper, root, width=None), 0.0, 1.0),
        action_position=_optional(table, layout.action_position, root, width=joints.shape[1]),
        action_gripper=_optional(table, layout.action_gripper, root, width=None),
        videos=MappingProxyType(videos), missing=MappingProxyType(missing))


def decode_frames(video: EpisodeVideo) -> Iterator[Frame]:
    """Yield the episode's frames in order, uint8 RGB of shape (H, W, 3).

    :raises EpisodeError: The file cannot be decoded or ends early.
    """
    av, reformatter = require('av', 'record'), require('av.video.reformatter', 'record')
    count = 0
    try:
        with av.open(str(video.path)) as container:
            stream = container.streams.video[0]
            # Several processes decode side by side; a small picture is done sooner than a thread is started,
            # and a scaler of each frame's own would start one per processor.
            small = stream.width * stream.height <= SMALL_PIXELS
            stream.thread_type = 'SLICE' if small else 'AUTO'
            stream.codec_context.thread_count = 1 if small else 0
            scaler = reformatter.VideoReformatter()
            if video.start_s > 0.0:
                container.seek(int(video.start_s / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                # Half a frame of slack: stamps in the container are rounded to its time base.
                if frame.time is None or frame.time < video.start_s - 0.5 / video.fps:
                    continue
                yield scaler.reformat(frame, format='rgb24', threads=1).to_ndarray()
                count += 1
                if count == video.frames:
                    return
    except av.FFmpegError as error:
        raise EpisodeError(f'{video.path}: cannot be decoded after {count} frames: {error}') from error
    raise EpisodeError(f'{video.path}: ended after {count} frames, the episode has {video.frames}')


def _read_info(root: Path) -> dict[str, Any]:
    path = root / 'meta' / 'info.json'
    try:
        info = json.loads(path.read_text())
    except FileNotFoundError:
        raise EpisodeError(
            f'{path} does not exist; the directory of a LeRobot v3 dataset is needed') from None
    except json.JSONDecodeError as error:
        raise EpisodeError(f'{path} is no JSON: {error}') from error
    version = str(info.get('codebase_version', 'none'))
    if not version.startswith('v3'):
        raise EpisodeError(f"{path}: codebase_version '{version}' arrived, v3.x is allowed")
    fps = info.get('fps')
    if not isinstance(fps, int | float) or not 0.1 <= fps <= 1000:
        raise EpisodeError(f'{path}: fps {fps!r} arrived, a number from 0.1 to 1000 is allowed')
    for key in ('data_path', 'features'):
        if key not in info:
            raise EpisodeError(f"{path} lacks '{key}'")
    return dict(info)


def _read_parquet(path: Path, filters: Any = None) -> dict[str, list[Any]]:
    parquet = require('pyarrow.parquet', 'record')
    arrow = require('pyarrow', 'record')
    try:
        table = parquet.read_table(path, filters=filters)
    except FileNotFoundError:
        raise EpisodeError(f'{path} does not exist') from None
    except (arrow.ArrowInvalid, arrow.ArrowException, OSError) as error:
        raise EpisodeError(f'{path} cannot be read, it may be truncated: {error}') from error
    return dict(table.to_pydict())


def _episode_row(root: Path, index: int) -> dict[str, Any]:
    files = sorted((root / 'meta' / 'episodes').glob('chunk-*/file-*.parquet'))
    if not files:
        raise EpisodeError(f'{root / "meta" / "episodes"} holds no chunk-*/file-*.parquet')
    known: list[int] = []
    for file in files:
        rows = _read_parquet(file)
        numbers = rows.get('episode_index', [])
        if index in numbers:
            at = numbers.index(index)
            return {key: values[at] for key, values in rows.items()}
        known += numbers
    raise EpisodeError(
        f'{root}: episode {index} arrived, {min(known)} to {max(known)} are allowed' if known
        else f'{root}: no episodes')


def _read_rows(root: Path, info: dict[str, Any], row: dict[str, Any], index: int) -> dict[str, list[Any]]:
    path = root / str(info['data_path']).format(
        chunk_index=int(row['data/chunk_index']), file_index=int(row['data/file_index']))
    table = _read_parquet(path, filters=[('episode_index', '==', index)])
    if not table.get('timestamp'):
        raise EpisodeError(f"{path}: no rows of episode {index}, or no column 'timestamp'")
    order = np.argsort(table['frame_index'], kind='stable') if 'frame_index' in table else None
    if order is not None:
        table = {key: [values[i] for i in order] for key, values in table.items()}
    return table


def _column(table: dict[str, list[Any]], name: str, root: Path, width: int | None) -> Array:
    """Return a column as (T,) for width None, else (T, width), any width for 0."""
    if name not in table:
        raise EpisodeError(f"{root}: no column '{name}'; there are: {', '.join(sorted(table))}")
    values = table[name]
    if width is None and values and isinstance(values[0], Sequence):
        values = [value[0] for value in values]
    shape = (len(values),) if width is None else (len(values), width or None)
    try:
        return frozen_array(name, values, shape=shape)
    except ContractError as error:
        raise EpisodeError(f'{root}: {error}') from error


def _optional(table: dict[str, list[Any]], name: str, root: Path, width: int | None) -> Array | None:
    return _column(table, name, root, width) if name in table else None


def _check_rate(stamps: Array, fps: float, root: Path) -> None:
    steps = np.diff(stamps)
    if len(steps) == 0:
        raise EpisodeError(f'{root}: the episode has one frame, at least 2 are needed')
    if (steps <= 0.0).any():
        raise EpisodeError(f'{root}: timestamps do not increase at row {int(np.argmin(steps)) + 1}')
    found = 1.0 / float(np.median(steps))
    if abs(found - fps) > FPS_TOLERANCE * fps:
        raise EpisodeError(
            f'{root}: info.json says fps {fps:g}, the timestamps say {found:g}; one of them is wrong')


def _instruction(row: dict[str, Any]) -> str:
    tasks = row.get('tasks') or []
    # DROID joins up to three annotations with "|"; empty ones leave only the separators.
    texts = [text.strip() for task in tasks for text in str(task).split('|') if text.strip()]
    return texts[0] if texts else ''


def _find_videos(
    root: Path, info: dict[str, Any], row: dict[str, Any], layout: EpisodeLayout, fps: float, length: int,
) -> tuple[dict[str, EpisodeVideo], dict[str, str]]:
    videos: dict[str, EpisodeVideo] = {}
    missing: dict[str, str] = {}
    features = info['features']
    for slot, key in layout.cameras.items():
        if features.get(key, {}).get('dtype') != 'video':
            names = ', '.join(name for name, f in features.items() if f.get('dtype') == 'video') or 'none'
            missing[slot] = f"info.json has no video '{key}'; its videos: {names}"
            continue
        chunk, file = row.get(f'videos/{key}/chunk_index'), row.get(f'videos/{key}/file_index')
        if chunk is None or file is None or 'video_path' not in info:
            missing[slot] = f"the episode's metadata do not say where video '{key}' lies"
            continue
        path = root / str(info['video_path']).format(
            video_key=key, chunk_index=int(chunk), file_index=int(file))
        if not path.is_file():
            missing[slot] = f'{path.relative_to(root)} does not exist, though info.json names it'
            continue
        _check_video(path, fps)
        start_s = float(row.get(f'videos/{key}/from_timestamp') or 0.0)
        videos[slot] = EpisodeVideo(path, start_s, length, fps)
    return videos, missing


def _check_video(path: Path, fps: float) -> None:
    av = require('av', 'record')
    try:
        with av.open(str(path)) as container:
            rate = container.streams.video[0].average_rate
    except (av.FFmpegError, IndexError) as error:
        raise EpisodeError(f'{path} is no readable video: {error}') from error
    if rate is not None and abs(float(rate) - fps) > FPS_TOLERANCE * fps:
        raise EpisodeError(f'{path}: the video has {float(rate):g} fps, info.json says {fps:g}')
