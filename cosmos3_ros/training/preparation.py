"""Datasets on disk into the arrays that training reads, decoded once, by several processes.

What is made is kept as ``.npy`` files in the run's directory and mapped into memory: a run that is done in
pieces decodes its videos once.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
import hashlib
import json
from multiprocessing import get_context
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..generator.composed_view import View, compose_view
from ..generator.droid_joint import ARM_JOINTS, CAMERA_SLOTS
from .clip_samples import ClipRecording, clip_stride, describe_clip, scale_like_perception
from .dataset_alternatives import read_alternatives
from .dataset_reader import Dataset
from .recording import Recording
from .scene_facts import FrameFacts
from .settings import DatasetEntry, ReasonerSettings, TrainingError

Progress = Callable[[str, int, int], None]


def prepare_recording(
    entry: DatasetEntry, view: View, directory: Path, workers: int, report: Progress | None = None,
) -> Recording:
    """Return a dataset's composed views, states and actions.

    :param directory: Where prepared pictures are kept.
    :raises lerobot_format.DatasetError: The dataset cannot be used; names file and row.
    """
    dataset = Dataset.open(Path(entry.path), blank_cameras=entry.blank_cameras, width=view.width)
    tables = dataset.tables
    file = directory / f'view-{dataset_key(entry, view.height, view.width)}.npy'
    if not file.is_file():
        pictures = _create(file, (dataset.frame_count, view.height, view.width, 3))
        jobs = [(entry, view.height, view.width, i) for i in range(len(tables.episodes))]
        for i, part in _in_order(_compose_episode, jobs, workers, report, dataset.name):
            pictures[tables.episodes[i].start:tables.episodes[i].stop] = part
        _finish(pictures, file)
    alternatives = read_alternatives(dataset.info.root, tables.episodes)
    if alternatives is not None:
        alternatives = replace(alternatives, action=_model_rows(alternatives.action))
    return Recording(
        name=dataset.name, pictures=np.load(file, mmap_mode='r'),
        state=_model_rows(tables.state), action=_model_rows(tables.action),
        ends=dataset.demonstration_ends, demonstration=tables.demonstration,
        episode=np.concatenate([np.full(s.length, i, np.int64) for i, s in enumerate(tables.episodes)]),
        text_index=tables.task_index, texts=tables.tasks, alternatives=alternatives)


def prepare_clips(
    entry: DatasetEntry, settings: ReasonerSettings, directory: Path, workers: int,
    report: Progress | None = None,
) -> ClipRecording:
    """Return a dataset's clips for the reasoner, with what is true about each.

    :raises lerobot_format.DatasetError: The dataset cannot be used.
    :raises TrainingError: It has no facts.
    """
    dataset = Dataset.open(Path(entry.path), blank_cameras=entry.blank_cameras)
    stride, spans = clip_stride(settings), dataset.tables.episodes
    counts = [-(-span.length // stride) for span in spans]
    begins = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    key = dataset_key(entry, stride, settings.max_frame_pixels, settings.frames, *settings.cameras)
    words = directory / f'clips-{key}-words.json'
    files = {slot: directory / f'clips-{key}-{slot}.npy' for slot in settings.cameras}
    if not words.is_file():
        if dataset.facts(0, 0) is None:
            raise TrainingError(
                f'{entry.path}: it has no facts, which the reasoner is trained on; record it with '
                '"cosmos3 sim record", or leave the stage reasoner out')
        arrays: dict[str, Any] = {}
        texts: list[list[str]] = [[], [], [], []]
        jobs = [(entry, settings, i) for i in range(len(spans))]
        for i, (pictures, said) in _in_order(_cut_episode, jobs, workers, report, dataset.name):
            for slot, part in pictures.items():
                if slot not in arrays:
                    arrays[slot] = _create(files[slot], (int(begins[-1]), *part.shape[1:]))
                arrays[slot][begins[i]:begins[i + 1]] = part
            for held, new in zip(texts, said, strict=True):
                held += new
        for slot, array in arrays.items():
            _finish(array, files[slot])
        words.write_text(json.dumps(texts), encoding='utf-8')
    instructions, reports, statements, things = json.loads(words.read_text(encoding='utf-8'))
    return ClipRecording(
        name=dataset.name, pictures={slot: np.load(file, mmap_mode='r') for slot, file in files.items()},
        episode=np.concatenate([np.full(n, i, np.int64) for i, n in enumerate(counts)]), begins=begins,
        instructions=tuple(instructions), reports=tuple(reports), statements=tuple(statements),
        things=tuple(things))


def _model_rows(values: NDArray[Any]) -> NDArray[np.float32]:
    """Turn the dataset's gripper (0 open .. 1 closed) into the model's 1 - closed."""
    rows = values.astype(np.float32)
    rows[..., ARM_JOINTS] = 1.0 - rows[..., ARM_JOINTS]
    return rows


_opened: dict[tuple[str, int | None], Dataset] = {}


def _dataset(entry: DatasetEntry, width: int | None) -> Dataset:
    """Open a dataset once per process; it keeps no more than the episode at hand."""
    key = (entry.path, width)
    if key not in _opened:
        _opened[key] = Dataset.open(
            Path(entry.path), blank_cameras=entry.blank_cameras, width=width, memory_bytes=1)
    return _opened[key]


def _compose_episode(job: tuple[DatasetEntry, int, int, int]) -> NDArray[np.uint8]:
    entry, height, width, episode = job
    view = View.of(height, width)
    dataset = _dataset(entry, width)
    pictures = {slot: dataset.pictures(episode, slot) for slot in CAMERA_SLOTS}
    return np.stack([
        compose_view({slot: frames[i] for slot, frames in pictures.items()}, view)
        for i in range(dataset.tables.episodes[episode].length)])


def _cut_episode(
    job: tuple[DatasetEntry, ReasonerSettings, int],
) -> tuple[dict[str, NDArray[np.uint8]], tuple[list[str], ...]]:
    entry, settings, episode = job
    dataset = _dataset(entry, None)
    span, stride = dataset.tables.episodes[episode], clip_stride(settings)
    pictures = {
        slot: scale_like_perception(dataset.pictures(episode, slot)[::stride], settings)
        for slot in settings.cameras}
    facts = [FrameFacts.from_json(dataset.facts(episode, i) or '') for i in range(span.length)]
    instructions, reports, statements, things = [], [], [], []
    for anchor in range(0, span.length, stride):
        first = max(0, anchor - (settings.frames - 1) * stride)
        report, listed, shown = describe_clip(facts[first:anchor + 1], settings)
        instructions.append(facts[anchor].instruction)
        reports.append(report)
        statements.append(listed)
        things.append(shown)
    return pictures, (instructions, reports, statements, things)


def _in_order(
    work: Callable[[Any], Any], jobs: Sequence[Any], workers: int, report: Progress | None, name: str,
) -> Iterator[tuple[int, Any]]:
    """Yield results in the order of the jobs, a few of them under way at a time."""
    workers = max(1, min(workers, len(os.sched_getaffinity(0)), len(jobs)))
    if workers == 1:
        for i, job in enumerate(jobs):
            yield i, work(job)
            if report is not None:
                report(name, i + 1, len(jobs))
        return
    # Forking a process that holds CUDA or threads is not safe.
    with ProcessPoolExecutor(workers, mp_context=get_context('spawn')) as pool:
        waiting: list[Any] = []
        submitted = 0
        for i in range(len(jobs)):
            while submitted < len(jobs) and len(waiting) < 2 * workers:
                waiting.append(pool.submit(work, jobs[submitted]))
                submitted += 1
            yield i, waiting.pop(0).result()
            if report is not None:
                report(name, i + 1, len(jobs))


def dataset_key(entry: DatasetEntry, *more: object) -> str:
    """Return a name for what is prepared from a dataset: of its tables and of whatever else decides."""
    root = Path(entry.path)
    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns)
              for path in sorted(root.glob('meta/**/*')) if path.is_file()]
    text = json.dumps([str(root.resolve()), stamps, list(entry.blank_cameras), [str(m) for m in more]])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _create(path: Path, shape: tuple[int, ...]) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(path.with_suffix('.part'), mode='w+', dtype=np.uint8, shape=shape)


def _finish(array: Any, path: Path) -> None:
    array.flush()
    path.with_suffix('.part').replace(path)
