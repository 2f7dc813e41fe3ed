"""Control time, for everything besides the control loop itself."""

from collections.abc import Callable
import time

from .clock import DisciplinedClock, SystemClock
from .control_loop import ControlLoop


class ControlTime:
    """The time that the controller lives on: the loop's clock while a loop runs, else the node's clock.

    :param simulated: Whether ``/clock`` is what counts.
    :param jump_ns: A step of the clock by more than this is a jump.
    :param node_now_ns: The node's clock.
    """

    def __init__(self, *, simulated: bool, jump_ns: int, node_now_ns: Callable[[], int]) -> None:
        self._simulated = simulated
        self._jump_ns = jump_ns
        self._node_now_ns = node_now_ns
        self._loop: ControlLoop | None = None
        self.clock = self._make_clock()

    def _make_clock(self) -> SystemClock | DisciplinedClock:
        if self._simulated:
            return DisciplinedClock(jump_ns=self._jump_ns)
        return SystemClock(time.time_ns(), time.monotonic_ns(), jump_ns=self._jump_ns)

    def renew(self) -> None:
        """Begin with a fresh clock: while nobody watched it, what it missed is no jump."""
        self.clock = self._make_clock()

    def follow(self, loop: ControlLoop | None) -> None:
        """Live on the time of ``loop``, or on the node's clock again."""
        self._loop = loop

    @property
    def ready(self) -> bool:
        """Whether there is a time."""
        return self.clock.ready

    def now_ns(self) -> int:
        """Return control time."""
        if self._loop is None:
            return self._node_now_ns()
        return self.clock.now_ns(time.monotonic_ns())

    def offset_ns(self) -> int:
        """Return control time minus the node's clock."""
        return 0 if self._loop is None else self.clock.offset_ns

    def sample_ns(self) -> int:
        """Return the time of the newest sample. A mode begins there: the loop may be some ms behind now,
        and to the controller a sample before the beginning would look like a clock set back.
        """
        sample_ns = None if self._loop is None else self._loop.sample_ns
        return self.now_ns() if sample_ns is None else sample_ns

    def observe_system(self) -> None:
        """Compare with the system clock, where that is what counts; once per tick."""
        if isinstance(self.clock, SystemClock):
            self.clock.observe(time.time_ns(), time.monotonic_ns())

    def observe_clock(self, clock_ns: int, arrived_monotonic_ns: int) -> None:
        """Take in one /clock message."""
        if isinstance(self.clock, DisciplinedClock):
            self.clock.observe(clock_ns, arrived_monotonic_ns)
