"""Writes small LeRobot v3 datasets for tests."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cosmos3_ros.evaluation.lerobot_episode import EpisodeLayout

FPS, LENGTHS = 15, (20, 12)
VIDEO = 'videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4'
DATA = 'data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet'


def write_video(path: Path, levels: list[int], fps: int = FPS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
        for level in levels:
            image = np.full((48, 64, 3), level, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format='rgb24')))
        container.mux(stream.encode())


def write_dataset(root: Path, *, joints: np.ndarray | None = None, video_fps: int = FPS) -> None:
    """Two episodes in one data file and one video file, as v3 allows."""
    layout = EpisodeLayout()
    total = sum(LENGTHS)
    if joints is None:
        joints = np.cumsum(np.full((total, 7), 0.01), axis=0)
    starts = np.concatenate([[0], np.cumsum(LENGTHS)])
    features: dict[str, Any] = {
        key: {'dtype': 'video', 'shape': [48, 64, 3]} for key in layout.cameras.values()}
    features[layout.joint_position] = {'dtype': 'float32', 'shape': [7]}
    (root / 'meta' / 'episodes' / 'chunk-000').mkdir(parents=True)
    (root / 'data' / 'chunk-000').mkdir(parents=True)
    (root / 'meta' / 'info.json').write_text(json.dumps({
        'codebase_version': 'v3.0', 'fps': FPS, 'data_path': DATA, 'video_path': VIDEO,
        'features': features}))
    rows: dict[str, Any] = {
        'episode_index': [0, 1], 'tasks': [['push the red cube'], [' |  | ']], 'length': list(LENGTHS),
        'data/chunk_index': [0, 0], 'data/file_index': [0, 0]}
    for key in layout.cameras.values():
        rows[f'videos/{key}/chunk_index'] = rows[f'videos/{key}/file_index'] = [0, 0]
        rows[f'videos/{key}/from_timestamp'] = [float(s) / FPS for s in starts[:2]]
        write_video(root / VIDEO.format(video_key=key, chunk_index=0, file_index=0),
                    [8 * i for i in range(total)], video_fps)
    pq.write_table(pa.table(rows), root / 'meta' / 'episodes' / 'chunk-000' / 'file-000.parquet')
    frames = np.concatenate([np.arange(n) for n in LENGTHS])
    pq.write_table(pa.table({
        'episode_index': np.repeat([0, 1], LENGTHS), 'frame_index': frames, 'timestamp': frames / FPS,
        layout.joint_position: list(joints), layout.gripper: np.linspace(0.0, 1.0, total),
        layout.action_position: list(joints + 0.01), layout.action_gripper: np.linspace(0.0, 1.0, total),
    }), root / 'data' / 'chunk-000' / 'file-000.parquet')
