"""The clock of the reference: it runs with the node's clock or slower, and never jumps.

Every slow-down of the controller (enable ramp, speed scale, slow policy, a motion too fast for a
limit) slows this clock, so the path stays the one that was asked for. A chunk is placed on it by the
reading that the clock had when the chunk's observation was taken.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Readings kept for placing chunks: 20 s of plans 20 ms apart.
HISTORY_LENGTH = 1024


class PaceProfile:
    """Highest pace at which a reference keeps the limits, over reference time.

    :param start_s: Reference time of the first sample.
    :param step_s: Distance of samples.
    :param pace: Samples in 0..1; before and after them the pace is 1.
    :param causes: What bounds the pace at each sample, as an index of ``names``, -1 where nothing does.
    :param names: What may bound it.
    :param previous: What counts before the start, until the splice.
    """

    def __init__(
        self, start_s: float, step_s: float, pace: list[float], causes: Sequence[int],
        names: tuple[str, ...], previous: 'PaceProfile | None' = None,
    ) -> None:
        self.start_s, self.step_s, self.pace, self.causes = start_s, step_s, pace, causes
        self.names, self.previous = names, previous

    def after(self, previous: 'PaceProfile') -> 'PaceProfile':
        """Return this profile with ``previous`` before its start."""
        earlier = PaceProfile(
            previous.start_s, previous.step_s, previous.pace, previous.causes, previous.names)
        return PaceProfile(self.start_s, self.step_s, self.pace, self.causes, self.names, earlier)

    def at(self, time_s: float) -> float:
        """Return the pace at ``time_s``: the lower one of the two samples around it."""
        index = int((time_s - self.start_s) // self.step_s)
        pace = self.pace
        if index < 0:
            return 1.0 if self.previous is None else self.previous.at(time_s)
        if index >= len(pace):
            return 1.0
        low = pace[index]
        if index + 1 < len(pace):
            high = pace[index + 1]
            return low if low < high else high
        return low

    def cause(self, time_s: float) -> str:
        """Return what bounds the pace at ``time_s``."""
        index = int((time_s - self.start_s) // self.step_s)
        if index < 0 and self.previous is not None:
            return self.previous.cause(time_s)
        if not 0 <= index < len(self.causes) or self.causes[index] < 0:
            return ''
        return self.names[self.causes[index]]


FREE_PACE = PaceProfile(0.0, 1.0, [], [], ())


class ReferenceClock:
    """Map the node's time to reference time.

    :param origin_ns: Node time of reference time zero.
    :param slew_per_s: Largest change of the pace per second.
    """

    def __init__(self, origin_ns: int, slew_per_s: float) -> None:
        self._origin_ns = origin_ns
        self._slew = slew_per_s
        self._time_ns = origin_ns
        self._reading_s = 0.0
        self._pace = 1.0
        self._stamps: deque[int] = deque([origin_ns], maxlen=HISTORY_LENGTH)
        self._readings: deque[float] = deque([0.0], maxlen=HISTORY_LENGTH)

    @property
    def pace(self) -> float:
        """Present pace, 0 (stands still) to 1 (runs with the node's clock)."""
        return self._pace

    @property
    def reading_s(self) -> float:
        """Reading at the last planning instant."""
        return self._reading_s

    def rewind(self, reading_s: float) -> None:
        """Stand still at ``reading_s``, as if since the clock first read that.

        For a reference that has stood still all the while, so that nothing moves by it.
        """
        self._reading_s, self._pace = reading_s, 0.0
        self._readings = deque((min(reading, reading_s) for reading in self._readings), HISTORY_LENGTH)

    def advance(self, time_ns: int, readings_s: Array, paces: Array, step_ns: int) -> None:
        """Move to ``time_ns``, a planning instant, along what was predicted last."""
        steps = (time_ns - self._time_ns) // step_ns
        if steps <= 0:
            return
        if len(readings_s):
            index = min(steps, len(readings_s)) - 1
            self._reading_s, self._pace = float(readings_s[index]), float(paces[index])
        else:
            self._reading_s += steps * step_ns * 1e-9 * self._pace
        self._time_ns = time_ns
        self._stamps.append(time_ns)
        self._readings.append(self._reading_s)

    def predict(self, steps: int, step_s: float, target: float, profile: PaceProfile) -> tuple[Array, Array]:
        """Return readings and paces at the next ``steps`` instants, (steps,) each.

        :param target: Pace that the governor asks for.
        """
        readings, paces = [], []
        reading, slewed = self._reading_s, self._pace
        change = self._slew * step_s
        for _ in range(steps):
            if slewed != target:
                slewed = min(max(target, slewed - change), slewed + change)
            pace = profile.at(reading)
            if pace < slewed:
                # What the profile holds down comes up again by the slew, not at once.
                slewed = pace
            reading += step_s * slewed
            readings.append(reading)
            paces.append(slewed)
        return np.array(readings), np.array(paces)

    def reading_at(self, stamp_ns: int) -> float | None:
        """Return the reading at ``stamp_ns``, or None if that is longer ago than the history.

        Before the origin and after the last planning instant the clock counts as running freely.
        """
        if stamp_ns >= self._time_ns:
            return self._reading_s + (stamp_ns - self._time_ns) * 1e-9 * self._pace
        if stamp_ns <= self._stamps[0]:
            if self._stamps[0] != self._origin_ns:
                return None
            return (stamp_ns - self._origin_ns) * 1e-9
        index = bisect_right(self._stamps, stamp_ns) - 1
        (t0, t1), (r0, r1) = (
            tuple(islice(values, index, index + 2)) for values in (self._stamps, self._readings))
        return float(r0 + (r1 - r0) * (stamp_ns - t0) / (t1 - t0))
