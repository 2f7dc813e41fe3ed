"""Record a dataset: many episodes, in several processes, resumable."""

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
import json
import multiprocessing
import os
from pathlib import Path
import shutil
from typing import Any

from .episode_settings import RecordingSettings
from .episode_worker import SUMMARY_FILE, EpisodeSummary, read_summary, record_in_process, start_process
from .lerobot_format import INFO_PATH, DatasetError
from .lerobot_writer import RECORDING_PATH, write_dataset

WORK_DIRECTORY = '.recording'
"""Finished episodes until all are there; removed with the last step."""

_SETTINGS_FILE = 'settings.json'


class EpisodeRecorder:
    """Records into ``root``. What a killed recorder finished is kept, and the next one goes on there.

    The result does not depend on the number of processes, nor on how often the recording was interrupted.

    :param root: New or empty directory, or one with a recording of the same settings.
    :raises DatasetError: ``root`` holds something else.
    """

    def __init__(self, root: Path, settings: RecordingSettings) -> None:
        self._root = root
        self._settings = settings
        self._work = root / WORK_DIRECTORY
        self._check_directory()

    @property
    def is_complete(self) -> bool:
        """True if the dataset is there already."""
        return (self._root / INFO_PATH).is_file() and not self._work.exists()

    def finished(self) -> list[EpisodeSummary]:
        """Return the summaries of the episodes recorded so far, in order."""
        if self.is_complete:
            document = json.loads((self._root / RECORDING_PATH).read_text(encoding='utf-8'))
            names = EpisodeSummary.__dataclass_fields__
            return [EpisodeSummary(**{k: v for k, v in entry.items() if k in names})
                    for entry in document['episodes']]
        parts = (self._part(index) for index in range(self._settings.episodes))
        return [read_summary(part) for part in parts if (part / SUMMARY_FILE).is_file()]

    def record(self, workers: int) -> Iterator[EpisodeSummary]:
        """Record what is missing, yield each episode as it is done, put all together at the end.

        :param workers: Processes.
        :raises DatasetError: A worker died; what is finished is kept.
        """
        if workers < 1:
            raise DatasetError(f'workers: {workers} arrived, 1 or more is allowed')
        if self.is_complete:
            return
        self._work.mkdir(parents=True, exist_ok=True)
        (self._work / _SETTINGS_FILE).write_text(self._settings.to_json())
        done = {summary.index for summary in self.finished()}
        missing = [index for index in range(self._settings.episodes) if index not in done]
        if missing:
            yield from self._run(missing, min(workers, len(missing)))
        write_dataset(self._root, [self._part(i) for i in range(self._settings.episodes)], self._settings)
        shutil.rmtree(self._work)

    def _run(self, missing: list[int], workers: int) -> Iterator[EpisodeSummary]:
        threads = max(1, (os.cpu_count() or 1) // workers)
        pool = ProcessPoolExecutor(
            workers, mp_context=multiprocessing.get_context('spawn'), initializer=start_process,
            initargs=(self._settings, threads))
        try:
            waiting: set[Future[EpisodeSummary]] = set()
            left = iter(missing)
            exhausted = False
            while waiting or not exhausted:
                # Few at a time: an interrupted recorder waits only for what has begun.
                while not exhausted and len(waiting) < workers + 1:
                    index = next(left, None)
                    exhausted = index is None
                    if index is not None:
                        waiting.add(pool.submit(record_in_process, index, self._part(index)))
                if waiting:
                    finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in finished:
                        yield future.result()
        except BrokenProcessPool as error:
            raise DatasetError(
                f'{self._root}: a worker process died (out of memory?); what is finished is kept: run the '
                'same command again, with fewer workers') from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _part(self, index: int) -> Path:
        return self._work / f'episode-{index:06d}'

    def _check_directory(self) -> None:
        if not self._root.exists() or (self._root.is_dir() and not any(self._root.iterdir())):
            return
        for path in (self._work / _SETTINGS_FILE, self._root / RECORDING_PATH):
            if path.is_file():
                self._check_settings(path)
                return
        raise DatasetError(
            f'{self._root} holds something else; a new or empty directory is needed, or one with an '
            'unfinished recording')

    def _check_settings(self, path: Path) -> None:
        try:
            document: Any = json.loads(path.read_text(encoding='utf-8'))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise DatasetError(f'{path} is no JSON: {error}') from error
        if isinstance(document, dict) and 'settings' in document:
            document = document['settings']
        found = RecordingSettings.from_document(document, str(path))
        if found != self._settings:
            different = [name for name in RecordingSettings.__dataclass_fields__
                         if getattr(found, name) != getattr(self._settings, name)]
            raise DatasetError(
                f'{self._root} holds a recording with another {", ".join(different)} '
                f'({", ".join(str(getattr(found, name)) for name in different)}); give the same, or another '
                'directory')
