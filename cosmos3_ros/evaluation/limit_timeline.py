"""When in an episode which limit shaped the motion, from the states that the controller publishes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

GAP_S = 0.25
"""States come at some 20 Hz; a limit that is missing from this many seconds of them was left."""


@dataclass(frozen=True, slots=True)
class LimitInterval:
    """A stretch of time in which one limit was active.

    :param name: As in ``ControllerState.active_limits``, e.g. ``panda_joint4:velocity``.
    :param start_s: Seconds after the first state; likewise ``end_s``, both of states that said so.
    """

    name: str
    start_s: float
    end_s: float


def find_intervals(states: Iterable[tuple[int, Sequence[str]]]) -> tuple[LimitInterval, ...]:
    """Return the intervals of every active limit, in order of their start.

    :param states: Stamp in nanoseconds and active limits of each state, stamps not falling.
    """
    origin_ns: int | None = None
    open_s: dict[str, tuple[float, float]] = {}
    closed: list[LimitInterval] = []
    for stamp_ns, names in states:
        origin_ns = stamp_ns if origin_ns is None else origin_ns
        now_s = (stamp_ns - origin_ns) * 1e-9
        for name in names:
            start_s, last_s = open_s.get(name, (now_s, now_s))
            if now_s - last_s > GAP_S:
                closed.append(LimitInterval(name, start_s, last_s))
                start_s = now_s
            open_s[name] = start_s, now_s
    closed += [LimitInterval(name, *span) for name, span in open_s.items()]
    return tuple(sorted(closed, key=lambda one: (one.start_s, one.name)))
