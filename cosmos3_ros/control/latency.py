"""Can chunks of this horizon overlap a policy of this latency?"""

from collections import deque
from dataclasses import dataclass
from enum import Enum
import math


class LatencyKind(Enum):
    """What the latency allows."""

    OVERLAP = 'overlap'
    SLOW = 'slow'
    REFUSE = 'refuse'


@dataclass(frozen=True, slots=True)
class LatencyAssessment:
    """The answer, with its numbers.

    :param delay_steps: Rows that are past when a chunk arrives, at full pace.
    :param scale: Pace of the reference clock at which chunks overlap; 0 if refused.
    :param text: One sentence for the operator.
    """

    kind: LatencyKind
    delay_steps: int
    scale: float
    text: str


def assess_latency(
    horizon: int, step_s: float, p99_s: float, min_scale: float,
) -> LatencyAssessment:
    """Compare the measured p99 latency with a chunk.

    Real-time chunking needs d <= s <= H - d (Black et al. 2025; LeRobot validates the same): the d
    rows that pass while the next chunk is computed must exist, and so must the d rows after them,
    hence 2 d <= H with d = ceil(p99 / step). If not, reference time may run slower: at pace k a
    latency covers only k * p99 of it, so k = floor(H / 2) * step / p99 just suffices.

    :param horizon: Rows of a chunk, H.
    :param step_s: Seconds between rows.
    :param p99_s: 99th percentile of observation to arrival, seconds.
    :param min_scale: Slowest pace that still is useful.
    """
    delay = max(0, math.ceil(p99_s / step_s - 1e-9))
    numbers = (
        f'horizon {horizon} rows x {step_s * 1e3:.1f} ms = {horizon * step_s:.3f} s, latency p99 '
        f'{p99_s:.3f} s = {delay} rows')
    if 2 * delay <= horizon:
        return LatencyAssessment(LatencyKind.OVERLAP, delay, 1.0, f'overlap possible: {numbers}')
    scale = (horizon // 2) * step_s / p99_s
    if scale >= min_scale:
        return LatencyAssessment(
            LatencyKind.SLOW, delay, scale,
            f'slow to {scale:.2f} of the pace: {numbers}, more than half of the horizon')
    return LatencyAssessment(
        LatencyKind.REFUSE, delay, 0.0,
        f'refused: {numbers}; a pace of {scale:.2f} would be needed and {min_scale:g} is the least '
        '(use a faster engine, fewer denoising steps, a longer horizon, or lower min_latency_scale)')


class LatencyMonitor:
    """The last measured latencies and their p99.

    :param samples: Latencies needed before they count.
    """

    WINDOW = 100

    def __init__(self, samples: int) -> None:
        self._needed = samples
        self._latencies: deque[float] = deque(maxlen=max(self.WINDOW, samples))

    def record(self, latency_s: float) -> bool:
        """Add one measurement; False if it is no latency (negative or not finite)."""
        if not 0.0 <= latency_s < math.inf:
            return False
        self._latencies.append(latency_s)
        return True

    @property
    def p99_s(self) -> float | None:
        """Nearest-rank 99th percentile, None before enough were measured."""
        if len(self._latencies) < self._needed:
            return None
        ordered = sorted(self._latencies)
        return ordered[math.ceil(0.99 * len(ordered)) - 1]
