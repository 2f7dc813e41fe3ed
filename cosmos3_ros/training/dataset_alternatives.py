"""The alternatives beside a dataset: chunks that begin at its frames but follow other instructions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..generator.droid_joint import HORIZON, WIDTH
from .dataset_tables import EpisodeSpan, read_numbers, read_parquet
from .lerobot_format import DatasetError


@dataclass(frozen=True, slots=True, eq=False)
class Alternatives:
    """All of a dataset's, M of them; see ``episode_alternatives``.

    :param start: Shape (M,), rows of the dataset (over all episodes) at which the chunks begin.
    :param action: Shape (M, 32, 8) float32: radians, gripper as in the dataset.
    :param text_index: Shape (M,), index into ``texts``.
    """

    start: NDArray[np.int64]
    action: NDArray[np.float32]
    text_index: NDArray[np.int64]
    texts: tuple[str, ...]

    def __len__(self) -> int:
        """Return their number."""
        return len(self.start)


def read_alternatives(root: Path, episodes: tuple[EpisodeSpan, ...]) -> Alternatives | None:
    """Read a dataset's alternatives, None where it has none.

    :param root: Directory of the dataset.
    :raises DatasetError: Names file and row of what cannot be used.
    """
    paths = sorted((root / 'alternatives').glob('chunk-*/file-*.parquet'))
    if not paths:
        return None
    begins = {span.index: (span.start, span.length) for span in episodes}
    starts, actions, words = [], [], []
    for path in paths:
        table = read_parquet(path)
        actions.append(read_numbers(path, table, 'action', HORIZON * WIDTH).astype(np.float32))
        places = np.concatenate([
            read_numbers(path, table, name, 1) for name in ('episode_index', 'frame_index')], axis=1)
        for row, (episode, frame) in enumerate(places.astype(np.int64).tolist()):
            start, length = begins.get(episode, (0, 0))
            if not 0 <= frame < length:
                raise DatasetError(
                    f'{path}, row {row}: frame {frame} of episode {episode} is not in the dataset')
            starts.append(start + frame)
        words += _words(path, table)
    texts = tuple(dict.fromkeys(words))
    numbers = {text: i for i, text in enumerate(texts)}
    return Alternatives(
        np.array(starts, np.int64), np.concatenate(actions).reshape(-1, HORIZON, WIDTH),
        np.array([numbers[text] for text in words], np.int64), texts)


def _words(path: Path, table: Any) -> list[str]:
    if 'instruction' not in table.column_names:
        raise DatasetError(f'{path}: column instruction is missing')
    words: list[str] = table['instruction'].to_pylist()
    for row, text in enumerate(words):
        if not text or not isinstance(text, str):
            raise DatasetError(f'{path}, row {row}: instruction is {text!r}, a sentence is needed')
    return words
