"""Statistics of a dataset as ``meta/stats.json`` has them.

Names and shapes: LeRobot 0.4.4, ``datasets/compute_stats.py``: min, max, mean, std, count and five quantiles;
pictures per channel, scaled to 0..1, shape (3, 1, 1).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = {'q01': 0.01, 'q10': 0.10, 'q50': 0.50, 'q90': 0.90, 'q99': 0.99}


def number_statistics(values: NDArray[np.float64]) -> dict[str, Any]:
    """Return the statistics of a column.

    :param values: Shape (rows, width).
    """
    statistics = {
        'min': values.min(axis=0), 'max': values.max(axis=0), 'mean': values.mean(axis=0),
        'std': values.std(axis=0), 'count': np.array([len(values)]),
        **{name: np.quantile(values, share, axis=0) for name, share in QUANTILES.items()}}
    return {name: value.tolist() for name, value in statistics.items()}


def picture_statistics(histograms: NDArray[np.int64]) -> dict[str, Any]:
    """Return the statistics of a camera's pictures.

    :param histograms: Shape (3, 256): how often each level occurs in red, green and blue.
    """
    levels = np.arange(256) / 255.0
    total = histograms.sum(axis=1, keepdims=True)
    cumulative = np.cumsum(histograms, axis=1) / total
    mean = (histograms * levels).sum(axis=1) / total[:, 0]
    variance = (histograms * (levels - mean[:, None])**2).sum(axis=1) / total[:, 0]
    present = histograms > 0
    statistics = {
        'min': levels[present.argmax(axis=1)], 'max': levels[255 - present[:, ::-1].argmax(axis=1)],
        'mean': mean, 'std': np.sqrt(variance),
        **{name: levels[(cumulative >= share).argmax(axis=1)] for name, share in QUANTILES.items()}}
    shaped: dict[str, Any] = {name: value.reshape(3, 1, 1).tolist() for name, value in statistics.items()}
    return shaped | {'count': [int(total[0, 0])]}
