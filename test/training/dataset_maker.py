"""Writes small LeRobot v3 datasets without a simulator, and breaks them."""

from collections.abc import Callable
import json
from pathlib import Path
import shutil
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cosmos3_ros.training.dataset_layout import DROID_LAYOUT
from cosmos3_ros.training.lerobot_video import encode_video, join_videos

FPS = 15
LENGTHS = (20, 12)
SIZE = (64, 48)
TASKS = ('push the red cube onto the white circle', 'move the gripper above the blue cube')
DATA = Path('data/chunk-000/file-000.parquet')
INFO = Path('meta/info.json')
VIDEO = 'videos/{key}/chunk-000/file-000.mp4'
EPISODES = Path('meta/episodes/chunk-000/file-000.parquet')


def level(episode: int, frame: int) -> int:
    """Grey level of a frame: tells which frame a decoded picture is."""
    return 20 + 100 * episode + 4 * frame


def joints() -> np.ndarray:
    rows = np.cumsum(np.full((sum(LENGTHS), 7), 0.01), axis=0)
    return rows.astype(np.float32)


def write_video(path: Path, lengths: tuple[int, ...] = LENGTHS, fps: int = FPS) -> None:
    width, height = SIZE
    parts = []
    path.parent.mkdir(parents=True, exist_ok=True)
    for episode, length in enumerate(lengths):
        parts.append(path.with_name(f'part-{episode}.mp4'))
        encode_video(parts[-1], [
            np.full((height, width, 3), level(episode, frame), np.uint8) for frame in range(length)], fps)
    join_videos(path, parts, fps)
    for part in parts:
        part.unlink()


def write_dataset(root: Path) -> Path:
    """Two episodes in one data file and one video file per camera, as v3 allows."""
    layout, total = DROID_LAYOUT, sum(LENGTHS)
    starts = np.concatenate([[0], np.cumsum(LENGTHS)])[:2]
    (root / DATA).parent.mkdir(parents=True)
    (root / EPISODES).parent.mkdir(parents=True)
    frames = np.concatenate([np.arange(n) for n in LENGTHS])
    demonstration = np.ones(total, bool)
    demonstration[8:11] = False
    pq.write_table(pa.table({
        layout.joint_position: list(joints()), layout.gripper: np.linspace(0.0, 1.0, total),
        layout.action_position: list(joints() + 0.01), layout.action_gripper: np.linspace(0.0, 1.0, total),
        layout.demonstration: demonstration, 'timestamp': (frames / FPS).astype(np.float32),
        'frame_index': frames, 'episode_index': np.repeat([0, 1], LENGTHS), 'index': np.arange(total),
        'task_index': np.repeat([1, 0], LENGTHS)}), root / DATA)
    pq.write_table(pa.table({'task_index': [0, 1], 'task': list(TASKS)}), root / 'meta/tasks.parquet')
    features: dict[str, Any] = {
        name: {'dtype': 'float32', 'shape': [width]} for name, width in (
            (layout.joint_position, 7), (layout.gripper, 1), (layout.action_position, 7),
            (layout.action_gripper, 1))}
    rows: dict[str, Any] = {
        'episode_index': [0, 1], 'length': list(LENGTHS), 'data/chunk_index': [0, 0],
        'data/file_index': [0, 0]}
    for key in layout.cameras.values():
        features[key] = {'dtype': 'video', 'shape': [SIZE[1], SIZE[0], 3]}
        rows[f'videos/{key}/chunk_index'] = rows[f'videos/{key}/file_index'] = [0, 0]
        rows[f'videos/{key}/from_timestamp'] = [float(start) / FPS for start in starts]
        write_video(root / VIDEO.format(key=key))
    pq.write_table(pa.table(rows), root / EPISODES)
    (root / INFO).write_text(json.dumps({
        'codebase_version': 'v3.0', 'robot_type': 'panda', 'fps': FPS, 'total_episodes': 2,
        'total_frames': total, 'features': features}))
    return root


def copy_dataset(source: Path, root: Path) -> Path:
    shutil.copytree(source, root)
    return root


def change_table(path: Path, change: Callable[[dict[str, list[Any]]], object]) -> None:
    """Rewrite a parquet file after ``change`` has worked on its columns."""
    columns = pq.read_table(path).to_pydict()
    change(columns)
    pq.write_table(pa.table(columns), path)


def change_info(root: Path, **values: Any) -> None:
    document = json.loads((root / INFO).read_text())
    document.update(values)
    (root / INFO).write_text(json.dumps(document))
