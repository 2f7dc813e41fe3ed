"""When the gripper opens and closes: rows due at absolute times, hysteresis and dwell."""

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.robots import GripperSpec

Array = NDArray[np.float64]


class GripperSchedule:
    """Read the gripper rows of the newest chunk by reference time.

    Row i counts from its due time until row i + 1 is due. Rows of a chunk that has not begun yet wait
    while the chunk before it goes on.

    :param spec: Thresholds and dwell; None passes the rows through.
    """

    def __init__(self, spec: GripperSpec | None) -> None:
        self._spec = spec
        self._closed = False
        self._value = 0.0
        self._switched_ns: int | None = None
        self._tracks: list[tuple[float, float, Array]] = []

    def restart(self, measured: float | None) -> None:
        """Forget the rows; take the measured opening as what was told last."""
        self._tracks = []
        self._switched_ns = None
        if measured is not None:
            self._closed = measured >= 0.5
            self._value = measured if self._spec is None else float(self._closed)

    def add(self, start_s: float, step_s: float, rows: Array) -> None:
        """Take the rows (H,) of a chunk whose first row is due at reference time ``start_s``."""
        self._tracks = [*self._tracks[-1:], (start_s, step_s, rows)]

    def at(self, reading_s: float, now_ns: int) -> float:
        """Return the command at reference time ``reading_s``, 0 open .. 1 closed."""
        for start_s, step_s, rows in reversed(self._tracks):
            if reading_s >= start_s:
                index = min(int((reading_s - start_s) / step_s), len(rows) - 1)
                return self._decide(float(rows[index]), now_ns)
        return self._value

    @property
    def value(self) -> float:
        """What was told last."""
        return self._value

    def _decide(self, wish: float, now_ns: int) -> float:
        if self._spec is None:
            self._value = wish
            return wish
        since_s = float('inf') if self._switched_ns is None else (now_ns - self._switched_ns) * 1e-9
        closed = self._spec.decide(wish, self._closed, since_s)
        if closed != self._closed:
            self._closed, self._switched_ns = closed, now_ns
        self._value = float(self._closed)
        return self._value
