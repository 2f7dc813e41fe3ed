"""Until when an answer is wanted."""

from collections.abc import Callable
import math
import threading
import time

from ..contracts import ContractError


class Deadline:
    """A point in time, or earlier: when whoever asked gives up. Safe to use from several threads.

    :param limit_s: Seconds from now.
    :param clock_s: Monotonic seconds.
    :raises ContractError: ``limit_s`` is not positive.
    """

    def __init__(self, limit_s: float, clock_s: Callable[[], float] = time.monotonic) -> None:
        if not (math.isfinite(limit_s) and limit_s > 0):
            raise ContractError(f'limit_s: {limit_s} arrived, more than 0 is allowed')
        self._clock_s = clock_s
        self._end_s = clock_s() + limit_s
        self._given_up = threading.Event()

    def give_up(self) -> None:
        """Want nothing any more."""
        self._given_up.set()

    def left_s(self) -> float:
        """Return the seconds that are left, 0 when it is over."""
        return 0.0 if self._given_up.is_set() else max(0.0, self._end_s - self._clock_s())

    @property
    def over(self) -> bool:
        """Whether nobody waits any more."""
        return self.left_s() <= 0.0
