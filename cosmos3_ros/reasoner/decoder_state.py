"""What the static decoder keeps between answers: inputs, outputs and graphs per shape."""

from dataclasses import dataclass, replace
from typing import Any

from ..model.host_trace import HostTrace
from ..resources import require
from .device_graph import DeviceGraph
from .plain_math import Turn
from .vision_tower import Grid, VisionTables


@dataclass(frozen=True, slots=True, eq=False)
class DecoderInput:
    """One prompt with its videos, on the host.

    :param ids: int64 (N,); the last one is text.
    :param positions: int64 (3, N), rotary positions in time, height and width.
    :param visual: int64 (V,), where the vision tokens stand, in the order of ``grids``.
    :param pixels: float32 (patches, 3 * 2 * 16 * 16).
    :param grids: Patches of each clip in time, height and width.
    """

    ids: Any
    positions: Any
    visual: Any
    pixels: Any
    grids: tuple[Grid, ...]

    def lengthened(self, tokens: int) -> 'DecoderInput':
        """Return a prompt that ends with so many tokens more, any: to find out what such a length needs."""
        torch = require('torch', 'model')
        after = self.positions[:, -1:] + torch.arange(1, tokens + 1)
        return replace(
            self, ids=torch.cat([self.ids, self.ids[-1:].expand(tokens)]),
            positions=torch.cat([self.positions, after], 1))


@dataclass(slots=True, eq=False)
class KeyValues:
    """Keys and values (layers, kv heads, capacity, head width) and what a decode step reads and writes.

    :param key: Lane and capacity.
    """

    key: tuple[int, int]
    keys: Any
    values: Any
    token: Any
    turn: Turn
    graph: DeviceGraph | None = None
    trace: HostTrace | None = None
    check: HostTrace | None = None


@dataclass(slots=True, eq=False)
class VisionOutput:
    """A vision bucket: inputs, outputs and the graph between."""

    tables: VisionTables
    pixels: Any
    merged: Any = None
    levels: tuple[Any, ...] = ()
    graph: DeviceGraph | None = None
    trace: HostTrace | None = None


@dataclass(slots=True, eq=False)
class PromptInput:
    """A prompt bucket: inputs and the graph; the outputs are a cache's."""

    ids: Any
    positions: Any
    visual: Any
    last: Any
    graph: DeviceGraph | None = None


def keep_newest(kept: dict[Any, Any], key: Any, value: Any, most: int) -> Any:
    """Put ``value`` in; return the key that had to go for it, or None."""
    gone = None
    if len(kept) >= most:
        gone = next(iter(kept))
        kept.pop(gone)
    kept[key] = value
    return gone
