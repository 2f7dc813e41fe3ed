"""The control thread: absolute deadlines on the grid of the sample times."""

from collections.abc import Callable
import ctypes
import gc
import os
from pathlib import Path
import threading
import time
from typing import Any

from .clock import ControlClock
from .diagnostics import Window

# Lateness and tick times are kept for this many ticks, 10 s at 500 Hz.
WINDOW = 5000
# The collector is off in the loop; young objects are collected in its slack instead, because rclpy
# leaves cycles behind with every message. Everything older is frozen before the loop starts.
COLLECT_EVERY = 50
COLLECT_SLACK_NS = 700_000
# A sample is a missed deadline when it is later than this. Up to it samples are made up for: a driver that
# follows every sample would see a gap as a step of twice the size.
LATE_NS = 10_000_000
# mlockall(2). Pages are locked once they are used, not all that is mapped: Fast DDS maps 64 MB segments.
# Not MCL_FUTURE: past a limit it makes later allocations fail.
MCL_CURRENT, MCL_ONFAULT = 1, 4
JOIN_TIMEOUT_S = 2.0
NOT_READY_SLEEP_S = 0.005

# The other threads of the process, this much below the loop: one that holds the interpreter's lock or the
# controller's and is itself kept off the processor by another process would hold up the loop with it.
SIBLING_STEP = 20


def _raise_siblings(priority: int) -> None:
    own = threading.get_native_id()
    for task in Path('/proc/self/task').iterdir():
        if int(task.name) != own:
            try:
                os.sched_setscheduler(int(task.name), os.SCHED_FIFO, os.sched_param(priority))
            except OSError:
                # It has ended meanwhile.
                continue


def _lock_memory() -> str:
    """Keep the process's pages in memory: one that was swapped out or reclaimed costs the loop milliseconds.

    :return: Why it was not possible, empty if it was.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(MCL_CURRENT | MCL_ONFAULT) == 0:
        return ''
    return os.strerror(ctypes.get_errno())


def _nothing() -> None:
    """There is nothing to poll."""


def _no_work(slack_ns: int) -> None:
    """There is nothing to do between ticks."""


class ControlLoop:
    """Calls ``tick(sample_time_ns)`` once per grid point of the node's clock.

    ``tick`` gets the grid point, not the instant of waking, so jitter of the machine does not reach
    the samples. After a stall of less than ``LATE_NS`` the points are made up for at once; after a longer one
    they are passed over and counted.

    :param clock: Maps the monotonic clock to the node's clock.
    :param period_ns: Grid spacing.
    :param tick: Called in the loop's thread; an exception goes to ``on_error`` and the loop goes on.
    :param on_overrun: Called with the number of points missed because this machine was late.
    :param on_jump: Called with the nanoseconds by which the node's clock jumped.
    :param on_error: Called with what ``tick`` raised.
    :param logger: The node's logger.
    :param poll_clock: Called once per round, after the sleep, to take in what time it is. Must not raise.
    :param poll: Called after it, and after a jump was reported, to take in all the rest: nothing that came on
        the new time is seen before the jump is. Both run while the clock is not ready or stands still, too.
        Must not raise.
    :param between: Called once per round, before the sleep, with the nanoseconds that are left until the next
        tick (negative: it is late already). What a thread of its own would do there takes the
        interpreter's lock from the tick; what is done here takes only time that is left. Must not raise.
    :param priority: SCHED_FIFO priority 1..99, or 0 for the normal scheduler.
    :param cpus: Processors to run on; empty for any.
    """

    def __init__(
        self,
        clock: ControlClock,
        period_ns: int,
        tick: Callable[[int], None],
        *,
        on_overrun: Callable[[int], None],
        on_jump: Callable[[int], None],
        on_error: Callable[[Exception], None],
        logger: Any,
        poll_clock: Callable[[], None] | None = None,
        poll: Callable[[], None] | None = None,
        between: Callable[[int], None] | None = None,
        priority: int = 0,
        cpus: tuple[int, ...] = (),
    ) -> None:
        self._clock = clock
        self._period_ns = period_ns
        self._tick = tick
        self._on_overrun = on_overrun
        self._on_jump = on_jump
        self._on_error = on_error
        self._logger = logger
        self._poll_clock = poll_clock or _nothing
        self._poll = poll or _nothing
        self._between = between or _no_work
        self._priority = priority
        self._cpus = cpus
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.ticks = 0
        self.sample_ns: int | None = None
        """Sample time of the newest tick, control time."""
        self.overruns = 0
        self.clock_steps = 0
        """Grid points passed over because the clock stepped, not because the machine was late."""
        self.late = 0
        """Ticks that began more than ``LATE_NS`` after their deadline."""
        self.real_time = False
        self.lateness_us = Window(WINDOW)
        self.tick_us = Window(WINDOW)
        self._started_ns = 0

    def start(self) -> None:
        """Start the thread."""
        self._stopping.clear()
        self._started_ns = time.monotonic_ns()
        self._thread = threading.Thread(target=self._run, name='control', daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Tolerates a loop that never started."""
        self._stopping.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(JOIN_TIMEOUT_S)
            if thread.is_alive():
                self._logger.error('the control thread does not end')
        self._thread = None

    def rate_hz(self) -> float:
        """Return ticks per real second since the start."""
        elapsed = (time.monotonic_ns() - self._started_ns) * 1e-9
        return self.ticks / elapsed if elapsed > 0.0 else 0.0

    def _become_real_time(self) -> None:
        if self._cpus:
            try:
                os.sched_setaffinity(0, self._cpus)
            except (OSError, ValueError) as error:
                self._logger.warning(f'cpu_affinity {list(self._cpus)} not taken: {error}')
        if self._priority:
            try:
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(self._priority))
                self.real_time = True
                _raise_siblings(max(1, self._priority - SIBLING_STEP))
                refusal = _lock_memory()
                if refusal:
                    self._logger.info(
                        f"memory is not locked ({refusal}); 'ulimit -l' or limits.conf: memlock allows it")
            except PermissionError:
                self._logger.warning(
                    f'SCHED_FIFO priority {self._priority} is not permitted: the control thread runs at '
                    "normal priority. Allow it ('ulimit -r', limits.conf: rtprio) or set rt_priority: 0.")
            except OSError as error:
                self._logger.warning(f'SCHED_FIFO priority {self._priority} not taken: {error}')

    def _run(self) -> None:
        self._become_real_time()
        collecting = gc.isenabled()
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            self._loop()
        finally:
            gc.unfreeze()
            if collecting:
                gc.enable()

    def _take_in(self) -> None:
        self._poll_clock()
        jump = self._clock.take_jump()
        if jump:
            self._on_jump(jump)
        self._poll()

    def _loop(self) -> None:
        clock, period, poll, between = self._clock, self._period_ns, self._take_in, self._between
        poll()
        while not clock.ready:
            between(round(NOT_READY_SLEEP_S * 1e9))
            if self._stopping.wait(NOT_READY_SLEEP_S):
                return
            poll()
        target = (clock.now_ns(time.monotonic_ns()) // period + 1) * period
        awake_at = time.monotonic_ns()
        while not self._stopping.is_set():
            between(clock.wait_ns(target, time.monotonic_ns()))
            begin = time.monotonic_ns()
            wait = clock.wait_ns(target, begin)
            if wait > 0:
                awake_at = begin + wait
                time.sleep(wait * 1e-9)
            # Once per round, after the sleep: the newest joint state, and maybe another idea of time.
            poll()
            begin = time.monotonic_ns()
            if clock.wait_ns(target, begin) > 0:
                continue
            late = clock.now_ns(begin) - target
            missed = late // period if late > LATE_NS else 0
            overrun = 0
            if missed > 0:
                target += missed * period
                # This machine is to blame for what passed since it should have been awake only.
                overrun = min(missed, max(begin - awake_at, 0) // period)
                self.clock_steps += missed - overrun
                if overrun:
                    self.overruns += overrun
                    self._on_overrun(overrun)
            awake_at += (1 + overrun) * period
            self.sample_ns = target
            try:
                self._tick(target)
            except Exception as error:
                self._on_error(error)
            self.ticks += 1
            if late > LATE_NS:
                self.late += 1
            end = time.monotonic_ns()
            self.lateness_us.add(late * 1e-3)
            self.tick_us.add((end - begin) * 1e-3)
            target += period
            if self.ticks % COLLECT_EVERY == 0 and clock.wait_ns(target, end) > COLLECT_SLACK_NS:
                gc.collect(1 if self.ticks % (COLLECT_EVERY * 20) == 0 else 0)
