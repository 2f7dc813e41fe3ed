"""What a limit check found: counts per limit and the worst sample of each."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LIMITS = (
    'position', 'velocity', 'velocity_envelope', 'acceleration', 'jerk', 'effort', 'effort_rate', 'tcp_speed',
    'elbow_speed', 'self_collision', 'plane', 'workspace', 'consistency', 'continuity', 'rest', 'stamp',
)
"""Names of everything that is checked, so that a count of zero is told from 'not looked at'."""


@dataclass(frozen=True, slots=True)
class Worst:
    """The sample nearest to, or furthest past, one limit.

    :param margin: Distance to the limit in its unit; negative is past it.
    :param value: The value found.
    :param limit: The limit there.
    :param where: Joint or point.
    :param time_s: Seconds after the first sample of the check.
    """

    margin: float
    value: float
    limit: float
    where: str
    time_s: float


@dataclass(slots=True)
class LimitReport:
    """Counts and margins, mergeable over segments and recordings."""

    violations: dict[str, int] = field(default_factory=dict)
    worst: dict[str, Worst] = field(default_factory=dict)
    samples: int = 0
    segments: int = 0

    @property
    def total(self) -> int:
        """Violations of all limits together."""
        return sum(self.violations.values())

    def record(
        self, limit: str, excess: Array, value: Array, bound: Array, where: Iterable[str], times_s: Array,
        tolerance: Array | float,
    ) -> None:
        """Add one checked array.

        :param excess: Shape (M, K), how far the value is past its bound; negative inside.
        :param value: Shape (M, K); likewise ``bound``.
        :param where: K names.
        :param times_s: Shape (M,).
        :param tolerance: Excess that is not counted, from the arithmetic's rounding.
        """
        names = tuple(where)
        excess = np.where(np.isnan(excess), np.inf, excess)
        count = int((excess > tolerance).sum())
        self.violations[limit] = self.violations.get(limit, 0) + count
        if excess.size == 0:
            return
        row, column = np.unravel_index(int(np.argmax(excess)), excess.shape)
        found = Worst(
            -float(excess[row, column]), float(value[row, column]),
            float(np.broadcast_to(bound, excess.shape)[row, column]), names[column], float(times_s[row]))
        if limit not in self.worst or found.margin < self.worst[limit].margin:
            self.worst[limit] = found

    def merge(self, other: 'LimitReport') -> None:
        """Add another report's counts and keep the worse margins."""
        for limit, count in other.violations.items():
            self.violations[limit] = self.violations.get(limit, 0) + count
        for limit, worst in other.worst.items():
            if limit not in self.worst or worst.margin < self.worst[limit].margin:
                self.worst[limit] = worst
        self.samples += other.samples
        self.segments += other.segments

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {
            'violations': dict(self.violations),
            'worst_margin': {limit: worst.margin for limit, worst in self.worst.items()},
            'worst': {
                limit: {'value': w.value, 'limit': w.limit, 'where': w.where, 'time_s': w.time_s}
                for limit, w in self.worst.items()},
            'samples': self.samples, 'segments': self.segments,
        }
