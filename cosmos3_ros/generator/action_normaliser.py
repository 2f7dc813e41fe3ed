"""From a model's normalised action channels to raw ones, and back.

Formulas: cosmos-framework ``action_processing.py``, ``resolve_action_normalization`` (facts sheet 2a).
Generic checkpoints answer normalised actions; the DROID policy answers raw ones and needs none of this.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import frozen_array

from .policy import PolicyError

Array = NDArray[np.float64]

# Method to the statistics that it reads: lower and upper, or centre and width.
METHODS: dict[str, tuple[str, str]] = {
    'quantile': ('q01', 'q99'), 'minmax': ('min', 'max'), 'meanstd': ('mean', 'std'),
    'quantile_rot': ('q01', 'q99'), 'quantile_rot_scale_floor': ('q01', 'q99'),
    'asinh_rot': ('q01', 'q99'), 'piecewise_asinh_rot': ('q01', 'q99')}
_SMALLEST_WIDTH = 1e-8  # what the reference puts in place of a channel that never moves
_FLOOR_TARGET = 5.0  # of quantile_rot_scale_floor: no raw value is normalised to more than this
_ASINH_UNIT = math.asinh(1.0)  # of asinh_rot: a deviation of one stays one


@dataclass(frozen=True, slots=True, eq=False)
class ActionNormaliser:
    """One map per channel: ``raw = bend(normalised) * scale + offset``.

    ``bend`` is the identity, except for the two asinh methods, which squeeze what lies far out.

    :param method: One of :data:`METHODS`.
    :param scale: Shape (channels,), positive.
    :param offset: Shape (channels,).
    :param clamp: Clamp to -1..1 when raw actions are normalised, as mid-training did.
    """

    method: str
    scale: Array
    offset: Array
    clamp: bool = False

    def __post_init__(self) -> None:
        """Check shapes and signs, freeze the arrays."""
        _check_method(self.method)
        scale = frozen_array('scale', self.scale, shape=(None,))
        offset = frozen_array('offset', self.offset, shape=(len(scale),))
        if len(scale) == 0 or scale.min() <= 0.0:
            raise PolicyError('action normaliser: positive scales are needed, one per channel')
        object.__setattr__(self, 'scale', scale)
        object.__setattr__(self, 'offset', offset)

    @classmethod
    def of(
        cls, method: str, statistics: Mapping[str, Any], channels: int, *, clamp: bool = False,
    ) -> 'ActionNormaliser':
        """Read the statistics of a dataset.

        :param statistics: Name to one number per channel, e.g. ``q01`` and ``q99``; see
            :func:`pick_statistics`.
        :raises PolicyError: Unknown method, missing statistics, another number of channels, or an upper
            bound below its lower one.
        """
        _check_method(method)
        first, second = (_read(statistics, name, channels) for name in METHODS[method])
        if method == 'meanstd':
            if second.min() < 0.0:
                raise PolicyError('action normaliser: a negative std arrived')
            return cls(method, np.maximum(second, _SMALLEST_WIDTH), first, clamp)
        if (second < first).any():
            channel = int(np.argmax(second < first))
            raise PolicyError(
                f'action normaliser: channel {channel} has {METHODS[method][0]} {first[channel]:g} above '
                f'{METHODS[method][1]} {second[channel]:g}')
        half = np.maximum(second - first, _SMALLEST_WIDTH) / 2.0
        offset = first + half
        if method == 'quantile_rot_scale_floor':
            farthest = np.maximum(*(
                np.abs(_read(statistics, name, channels) - offset) for name in ('min', 'max')))
            half = np.maximum(half, np.maximum(farthest / _FLOOR_TARGET, _SMALLEST_WIDTH))
        return cls(method, half, offset, clamp)

    def to_raw(self, normalised: Array) -> Array:
        """Return raw actions of normalised ones, (..., channels)."""
        return np.asarray(self._bend(self._checked(normalised)) * self.scale + self.offset)

    def to_normalised(self, raw: Array) -> Array:
        """Return normalised actions of raw ones, (..., channels)."""
        straight = self._straighten((self._checked(raw) - self.offset) / self.scale)
        return np.clip(straight, -1.0, 1.0) if self.clamp else straight

    def _bend(self, value: Array) -> Array:
        if self.method == 'asinh_rot':
            return np.sinh(value * _ASINH_UNIT)
        if self.method == 'piecewise_asinh_rot':
            size = np.abs(value)
            return np.where(size <= 1.0, value, np.sign(value) * (1.0 + np.sinh(np.maximum(size, 1.0) - 1.0)))
        return value

    def _straighten(self, value: Array) -> Array:
        if self.method == 'asinh_rot':
            return np.arcsinh(value) / _ASINH_UNIT
        if self.method == 'piecewise_asinh_rot':
            size = np.abs(value)
            return np.where(
                size <= 1.0, value, np.sign(value) * (1.0 + np.arcsinh(np.maximum(size, 1.0) - 1.0)))
        return value

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


def pick_statistics(document: Mapping[str, Any], method: str) -> Mapping[str, Any]:
    """Return the block of a statistics file that a method reads.

    Files are flat, or hold blocks: methods whose name ends in ``_rot`` (or has it before a suffix) read
    ``global_raw``, the others ``global`` (cosmos-framework ``load_action_stats``).

    :raises PolicyError: Unknown method, or the file does not hold what it reads.
    """
    _check_method(method)
    block = 'global_raw' if '_rot' in method else 'global'
    if block in document:
        found = document[block]
        if not isinstance(found, Mapping):
            raise PolicyError(
                f'action normaliser: {block} holds a {type(found).__name__}, an object is needed')
        return found
    if any(name in document for name in METHODS[method]):
        return document
    raise PolicyError(
        f'action normaliser: the statistics hold {", ".join(map(str, document)) or "nothing"}; {block}, or '
        f'{" and ".join(METHODS[method])}, are needed for the method {method}')


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise PolicyError(
            f'action normaliser: {method!r} arrived, one of {", ".join(METHODS)} is allowed')
