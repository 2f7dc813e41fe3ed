"""What a node says about itself: counters, latencies, levels, and logs that do not flood."""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
import numpy as np
from numpy.typing import NDArray


class Level(IntEnum):
    """Levels of diagnostic_msgs/DiagnosticStatus, worst last."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(slots=True)
class Report:
    """One round of self-description. The worst level wins; messages add up."""

    level: Level = Level.OK
    messages: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)

    def add(self, level: Level, message: str) -> None:
        """Raise the level to at least ``level`` and add ``message``."""
        self.level = max(self.level, level)
        self.messages.append(message)

    def put(self, **values: Any) -> None:
        """Add key/value pairs; floats are written with six digits."""
        for key, value in values.items():
            self.values[key] = f'{value:.6g}' if isinstance(value, float) else str(value)

    def to_message(self, *, stamp: Any, name: str, hardware_id: str) -> DiagnosticArray:
        """Return the report as a message for ``/diagnostics``."""
        status = DiagnosticStatus(
            level=bytes([self.level]), name=name, hardware_id=hardware_id,
            message='; '.join(self.messages) or 'running',
            values=[KeyValue(key=key, value=value) for key, value in self.values.items()])
        array = DiagnosticArray(status=[status])
        array.header.stamp = stamp
        return array


class Counters:
    """Named counters that many threads may increment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}

    def add(self, name: str, count: int = 1) -> int:
        """Add ``count`` to ``name`` and return the new sum."""
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + count
            return self._counts[name]

    def __getitem__(self, name: str) -> int:
        """Return the sum of ``name``, 0 if it was never counted."""
        return self._counts.get(name, 0)

    def snapshot(self) -> dict[str, int]:
        """Return all counters, sorted by name."""
        with self._lock:
            return dict(sorted(self._counts.items()))


class Window:
    """The last values of a measurement, for percentiles.

    A ring that one thread writes without a lock, because it is written in the control loop; who reads it
    meanwhile may see the oldest value replaced.

    :param size: How many values are kept.
    """

    def __init__(self, size: int = 256) -> None:
        self._ring = array('d', bytes(8 * size))
        self._size = size
        self._count = 0

    def add(self, value: float) -> None:
        """Add one value."""
        self._ring[self._count % self._size] = value
        self._count += 1

    def __len__(self) -> int:
        """Return how many values are kept."""
        return min(self._count, self._size)

    def _values(self) -> NDArray[np.float64]:
        return np.array(self._ring)[:len(self)]

    def percentile(self, percent: float) -> float:
        """Return the percentile of the kept values, NaN without any."""
        values = self._values()
        return float(np.percentile(values, percent)) if len(values) else float('nan')

    def summary(self, prefix: str) -> dict[str, float]:
        """Return ``<prefix>_p50``, ``_p99`` and ``_max``; empty without values."""
        values = self._values()
        if not len(values):
            return {}
        p50, p99, most = np.percentile(values, [50, 99, 100])
        return {f'{prefix}_p50': float(p50), f'{prefix}_p99': float(p99), f'{prefix}_max': float(most)}


class Logs:
    """Throttled and edge-triggered logging over a node's logger.

    rclpy's own throttle is keyed by the calling line, so it cannot be shared through a helper.

    :param logger: The node's logger.
    :param period_s: Least time between two lines of one key.
    """

    def __init__(self, logger: Any, period_s: float = 5.0) -> None:
        self._logger = logger
        self._period_ns = int(period_s * 1e9)
        self._last: dict[str, tuple[int, int]] = {}
        self._bad: set[str] = set()
        self._lock = threading.Lock()

    def _due(self, key: str) -> str | None:
        now = time.monotonic_ns()
        with self._lock:
            last, held_back = self._last.get(key, (-self._period_ns, 0))
            if now - last < self._period_ns:
                self._last[key] = (last, held_back + 1)
                return None
            self._last[key] = (now, 0)
        return f' ({held_back} more like this)' if held_back else ''

    def warn(self, key: str, text: str) -> None:
        """Warn at most once per period and key; the next line tells how many were held back."""
        suffix = self._due(key)
        if suffix is not None:
            self._logger.warning(text + suffix)

    def error(self, key: str, text: str) -> None:
        """Log an error at most once per period and key."""
        suffix = self._due(key)
        if suffix is not None:
            self._logger.error(text + suffix)

    def edge(self, key: str, bad: bool, text: str, recovered: str) -> bool:
        """Log ``text`` when ``key`` turns bad and ``recovered`` when it turns good; nothing in between.

        :returns: True if this call was an edge.
        """
        with self._lock:
            if bad == (key in self._bad):
                return False
            (self._bad.add if bad else self._bad.discard)(key)
        if bad:
            self._logger.warning(text)
        else:
            self._logger.info(recovered)
        return True

    def bad_edges(self) -> tuple[str, ...]:
        """Return the keys that are bad now."""
        with self._lock:
            return tuple(sorted(self._bad))


def values_of(array: DiagnosticArray, name: str) -> Mapping[str, str]:
    """Return the key/values of the status called ``name`` in ``array``, empty if it is not there."""
    for status in array.status:
        if status.name == name:
            return {pair.key: pair.value for pair in status.values}
    return {}
