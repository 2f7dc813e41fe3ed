"""When the nodes' counts of images are final: after the cameras stop, once reports repeat themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

LONGEST_S = 20.0
"""A node that has had no processor for this long is not waited for any more; the counts then say so."""


class _Report(Protocol):
    @property
    def arrived_s(self) -> float: ...


class _Monitor(Protocol):
    @property
    def reports(self) -> Mapping[str, _Report]: ...

    def images_received(self, node: str) -> dict[str, int]:
        """Return a node's image counts per camera."""
        ...


class FinalCounts:
    """A condition to wait for: every node has sent two reports since, with the same counts.

    On a busy machine a node may be without a processor for seconds, so a fixed wait is not enough.

    :param monitor: ``cli.monitor.Monitor``.
    :param nodes: Names of those that count images.
    :param since_s: Monotonic time of the last image; reports that arrived before say nothing.
    """

    def __init__(self, monitor: _Monitor, nodes: Sequence[str], since_s: float) -> None:
        self._monitor, self._nodes, self._since_s = monitor, tuple(nodes), since_s
        self._last: dict[str, tuple[float, dict[str, int]]] = {}
        self._settled: set[str] = set()

    def __call__(self) -> bool:
        """Look at what has arrived; true once every node's counts are final."""
        for node in self._nodes:
            report = self._monitor.reports.get(node)
            before = self._last.get(node)
            if report is None or report.arrived_s <= (self._since_s if before is None else before[0]):
                continue
            counts = self._monitor.images_received(node)
            if before is not None and before[1] == counts:
                self._settled.add(node)
            else:
                self._settled.discard(node)
            self._last[node] = (report.arrived_s, counts)
        return self._settled == set(self._nodes)
