"""Which samples a step takes, as a function of seed and step alone: the step is the sampler's position."""

from collections.abc import Sequence
import math

import numpy as np

from .settings import TrainingError

_STREAM = 0x7A1B


class WeightedDraws:
    """Draws from several datasets in proportion to their weights.

    Within a step the datasets' numbers are the weights' to within one (systematic sampling, as
    ``dataset_mixture.Mixture`` draws). A dataset's samples come in a shuffled order that shows each once
    before any comes again.

    :param sizes: Samples of each dataset.
    :param weights: One positive number for each.
    :param batch: Draws per step.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], batch: int, seed: int) -> None:
        if len(sizes) != len(weights) or not sizes or min(sizes) < 1 or min(weights) <= 0:
            raise TrainingError(
                f'draws: sizes {list(sizes)}, weights {list(weights)} arrived; one positive number of each '
                'is needed for every dataset')
        self._sizes, self._batch, self._seed = tuple(sizes), batch, seed
        shares = np.asarray(weights, np.float64)
        self._bounds = np.cumsum(shares / shares.sum())
        self._orders: dict[tuple[int, int], np.ndarray[tuple[int], np.dtype[np.int64]]] = {}

    def __call__(self, step: int) -> tuple[tuple[int, int], ...]:
        """Return (dataset, sample) of each draw of a step."""
        # Of dataset k, all draws up to a step are floor(draws so far * cumulative share): no history needed.
        first, last = step * self._batch, (step + 1) * self._batch
        edges = np.concatenate([[0.0], self._bounds])
        edges[-1] = 1.0
        taken = []
        for k, size in enumerate(self._sizes):
            begin, end = (
                int(np.floor(n * edges[k + 1] + 1e-9)) - int(np.floor(n * edges[k] + 1e-9))
                for n in (first, last))
            taken += [(k, self._sample(k, n, size)) for n in range(begin, end)]
        order = np.random.default_rng([_STREAM, self._seed, 1, step]).permutation(len(taken))
        return tuple(taken[int(i)] for i in order)

    def _sample(self, dataset: int, number: int, size: int) -> int:
        epoch, place = divmod(number, size)
        key = (dataset, epoch)
        if key not in self._orders:
            # A step may straddle two epochs; older ones are done with.
            self._orders = {k: v for k, v in self._orders.items() if k[0] != dataset or k[1] == epoch - 1}
            self._orders[key] = np.random.default_rng(
                [_STREAM, self._seed, 0, dataset, epoch]).permutation(size)
        return int(self._orders[key][place])


class AlternatingDraws:
    """Takes some steps from other draws: a step is then of one kind, not a mixture.

    :param usual: Draws of most steps.
    :param others: Those of the other steps.
    :param share: Of the steps that are ``others``, 0 to 1.
    :param offset: Added to the numbers of the other draws' datasets.
    """

    def __init__(self, usual: WeightedDraws, others: WeightedDraws, share: float, offset: int) -> None:
        self._usual, self._others = usual, others
        self._share, self._offset = share, offset

    def __call__(self, step: int) -> tuple[tuple[int, int], ...]:
        """Return (dataset, sample) of each draw of a step."""
        before, after = (math.floor(n * self._share + 1e-9) for n in (step, step + 1))
        if after == before:
            return self._usual(step - before)
        return tuple((dataset + self._offset, sample) for dataset, sample in self._others(before))
