"""From a model's normalised action channels to raw ones, and back.

Formulas: cosmos-framework ``action_normalization.py`` (facts sheet 2a). Generic checkpoints answer normalised
actions; the DROID policy answers raw ones and needs none of this.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import frozen_array

from .policy import PolicyError

Array = NDArray[np.float64]

# Method to the statistics that it reads: lower and upper, or centre and width.
METHODS: dict[str, tuple[str, str]] = {
    'quantile': ('q01', 'q99'), 'minmax': ('min', 'max'), 'meanstd': ('mean', 'std')}
_SMALLEST_WIDTH = 1e-8  # what the reference puts in place of a channel that never moves


@dataclass(frozen=True, slots=True, eq=False)
class ActionNormaliser:
    """One affine map per channel: ``raw = normalised * scale + offset``.

    :param method: One of :data:`METHODS`.
    :param scale: Shape (channels,), positive.
    :param offset: Shape (channels,).
    """

    method: str
    scale: Array
    offset: Array

    def __post_init__(self) -> None:
        """Check shapes and signs, freeze the arrays."""
        scale = frozen_array('scale', self.scale, shape=(None,))
        offset = frozen_array('offset', self.offset, shape=(len(scale),))
        if len(scale) == 0 or scale.min() <= 0.0:
            raise PolicyError('action normaliser: positive scales are needed, one per channel')
        object.__setattr__(self, 'scale', scale)
        object.__setattr__(self, 'offset', offset)

    @classmethod
    def of(cls, method: str, statistics: Mapping[str, Any], channels: int) -> 'ActionNormaliser':
        """Read the statistics of a dataset.

        :param statistics: Name to one number per channel, e.g. ``q01`` and ``q99``.
        :raises PolicyError: Unknown method, missing statistics, another number of channels, or an upper
            bound below its lower one.
        """
        if method not in METHODS:
            raise PolicyError(
                f'action normaliser: {method!r} arrived, one of {", ".join(METHODS)} is allowed')
        first, second = (_read(statistics, name, channels) for name in METHODS[method])
        if method == 'meanstd':
            if second.min() < 0.0:
                raise PolicyError('action normaliser: a negative std arrived')
            return cls(method, np.maximum(second, _SMALLEST_WIDTH), first)
        if (second < first).any():
            channel = int(np.argmax(second < first))
            raise PolicyError(
                f'action normaliser: channel {channel} has {METHODS[method][0]} {first[channel]:g} above '
                f'{METHODS[method][1]} {second[channel]:g}')
        half = np.maximum(second - first, _SMALLEST_WIDTH) / 2.0
        return cls(method, half, first + half)

    def to_raw(self, normalised: Array) -> Array:
        """Return raw actions of normalised ones, (..., channels)."""
        return np.asarray(self._checked(normalised) * self.scale + self.offset)

    def to_normalised(self, raw: Array) -> Array:
        """Return normalised actions of raw ones, (..., channels)."""
        return np.asarray((self._checked(raw) - self.offset) / self.scale)

    def _checked(self, actions: Array) -> Array:
        if actions.shape[-1:] != self.scale.shape:
            raise PolicyError(
                f'action normaliser: actions of shape {actions.shape} arrived, (..., {len(self.scale)}) is '
                'needed')
        return actions


def _read(statistics: Mapping[str, Any], name: str, channels: int) -> Array:
    values: Sequence[float] | None = statistics.get(name)
    if values is None:
        raise PolicyError(
            f'action normaliser: no {name} in the statistics, they hold {", ".join(statistics) or "nothing"}')
    return frozen_array(name, np.asarray(values, dtype=np.float64), shape=(channels,))
