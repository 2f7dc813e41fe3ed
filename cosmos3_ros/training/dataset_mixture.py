"""Several datasets as one stream of samples, with weights and a seed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .dataset_reader import Dataset
from .lerobot_format import DatasetError

# Keeps these draws apart from others that use the same seed.
_STREAM = 0x5A3B1E


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample of a mixture.

    :param dataset: Position in the mixture.
    :param index: Sample of that dataset.
    """

    dataset: int
    index: int


class Mixture:
    """Draws samples from datasets in proportion to their weights.

    What a step draws is a function of seed, step and batch alone, so that a run resumed at step n goes on
    with what it would have drawn. Within a batch the datasets' numbers are the weights' to within one
    (systematic sampling); samples of a dataset are drawn uniformly, with replacement.

    :param weights: One positive number per dataset; None weighs by number of samples.
    """

    def __init__(self, datasets: Sequence[Dataset], *, weights: Sequence[float] | None = None,
                 seed: int = 0) -> None:
        empty = [d.name for d in datasets if len(d) == 0]
        if not datasets or empty:
            raise DatasetError(
                f'mixture: {", ".join(empty) or "no dataset"} arrived without a sample, at least one sample '
                'in each is needed')
        shares = np.array([len(d) for d in datasets] if weights is None else weights, np.float64)
        if shares.shape != (len(datasets),) or not np.isfinite(shares).all() or (shares <= 0.0).any():
            raise DatasetError(
                f'mixture: weights {shares.tolist()} arrived, one positive number for each of '
                f'{", ".join(d.name for d in datasets)} is needed')
        if seed < 0:
            raise DatasetError(f'mixture: seed {seed} arrived, 0 or more is allowed')
        self.datasets = tuple(datasets)
        self.shares = shares / shares.sum()
        self._bounds = np.cumsum(self.shares)[:-1]
        self._seed = seed

    def draw(self, step: int, batch: int) -> tuple[Draw, ...]:
        """Return the samples of a training step, 0, 1, 2, ...

        :raises DatasetError: Negative step or no sample asked for.
        """
        if step < 0 or batch < 1:
            raise DatasetError(f'mixture: step {step}, batch {batch} arrived, 0 and 1 or more are allowed')
        rng = np.random.default_rng([_STREAM, self._seed, step])
        points = (rng.permutation(batch) + rng.random()) / batch
        which = np.searchsorted(self._bounds, points, side='right')
        places = rng.random(batch)
        return tuple(
            Draw(int(k), int(place * len(self.datasets[k]))) for k, place in zip(which, places, strict=True))
