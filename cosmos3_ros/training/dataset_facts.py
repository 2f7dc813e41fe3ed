"""The facts beside a dataset, read episode by episode: all of a large recording would fill the memory."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

from ..resources import require
from .dataset_tables import read_parquet
from .lerobot_format import DatasetError

_EPISODES_KEPT = 16


class FactStore:
    """Facts by episode and frame. The recorder writes one row group per episode, so one is read at a time.

    :param root: Directory of the dataset; it need not have facts.
    """

    def __init__(self, root: Path) -> None:
        self._root = root / 'facts'
        self._groups: dict[int, list[tuple[Path, int]]] | None = None
        self._held: OrderedDict[int, dict[int, str]] = OrderedDict()

    def find(self, episode: int, frame: int) -> str | None:
        """Return the facts of a frame as JSON, or None where the dataset has no facts at all.

        :raises DatasetError: The facts cannot be read or lack the frame.
        """
        if self._groups is None:
            self._groups = self._index()
        if not self._groups:
            return None
        if episode not in self._held:
            self._held[episode] = self._read(self._groups.get(episode, []), episode)
            while len(self._held) > _EPISODES_KEPT:
                self._held.popitem(last=False)
        self._held.move_to_end(episode)
        text = self._held[episode].get(frame)
        if text is None:
            raise DatasetError(f'{self._root}: nothing about episode {episode}, frame {frame}')
        return text

    def _index(self) -> dict[int, list[tuple[Path, int]]]:
        """Return episode to the files and row groups that may hold it."""
        parquet: Any = require('pyarrow.parquet', 'record')
        arrow: Any = require('pyarrow', 'record')
        groups: dict[int, list[tuple[Path, int]]] = {}
        for path in sorted(self._root.glob('chunk-*/file-*.parquet')):
            try:
                with parquet.ParquetFile(path) as file:
                    for group in range(file.num_row_groups):
                        numbers = file.read_row_group(group, columns=['episode_index'])['episode_index']
                        for episode in numbers.unique().to_pylist():
                            groups.setdefault(int(episode), []).append((path, group))
            except (arrow.ArrowException, KeyError, OSError) as error:
                raise DatasetError(f'{path} cannot be read, it may be truncated: {error}') from error
        return groups

    def _read(self, groups: list[tuple[Path, int]], episode: int) -> dict[int, str]:
        found: dict[int, str] = {}
        for path, group in groups:
            table = read_parquet(path, ['episode_index', 'frame_index', 'facts'], row_group=group)
            for of, frame, text in zip(
                    table['episode_index'].to_pylist(), table['frame_index'].to_pylist(),
                    table['facts'].to_pylist(), strict=True):
                if of == episode:
                    found[int(frame)] = str(text)
        return found
