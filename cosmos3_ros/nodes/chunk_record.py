"""What /diagnostics says about the chunks of a node: latency, stages, trace ids."""

from collections import deque
from collections.abc import Mapping
import threading

from .diagnostics import Report, Window

TRACES_KEPT = 8


class ChunkRecord:
    """Collects published chunks. Thread-safe.

    The first chunk of an instruction is kept apart: it waits for what only it needs (a context, a graph), and
    would stand in the percentiles for minutes. Warming up is not counted at all: it publishes nothing.
    """

    def __init__(self) -> None:
        self.latency_s = Window()
        self.age_s = Window()
        """From the observation to the published chunk, on the node's clock."""
        self._first_s = float('nan')
        self._stages: dict[str, Window] = {}
        self._traces: deque[str] = deque(maxlen=TRACES_KEPT)
        self._lock = threading.Lock()

    def add(
        self, trace_id: str, latency_s: float, age_s: float, stages_ms: Mapping[str, float], *, first: bool,
    ) -> None:
        """Add a published chunk.

        :param stages_ms: What the latency is made of.
        :param first: Whether it is its instruction's first.
        """
        with self._lock:
            self._traces.append(f'{trace_id}={latency_s:.3f}')
            if first:
                self._first_s = latency_s
                return
            windows = [self._stages.setdefault(name, Window()) for name in stages_ms]
        self.latency_s.add(latency_s)
        self.age_s.add(age_s)
        for window, value in zip(windows, stages_ms.values(), strict=True):
            window.add(value)

    def report(self, report: Report) -> None:
        """Put percentiles, and the trace ids since the last report with their latencies in seconds."""
        with self._lock:
            traces, stages = list(self._traces), dict(self._stages)
            self._traces.clear()
            first_s = self._first_s
        report.put(**self.latency_s.summary('latency_s'), **self.age_s.summary('chunk_age_s'))
        for name, window in stages.items():
            report.put(**window.summary(f'stage_{name}_ms'))
        if first_s == first_s:
            report.put(first_chunk_latency_s=first_s)
        if traces:
            report.put(trace_id=traces[-1].partition('=')[0], traces=' '.join(traces))
