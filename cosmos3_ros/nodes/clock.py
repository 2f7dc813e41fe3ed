"""The controller's clock: fine enough for 500 Hz, true to the node's clock, and watchful of jumps.

The controller lives on *control time*: the node's clock plus ``offset_ns``. The offset is zero until the
node's clock jumps; then it takes up the jump, so control time never goes back and a braking arm brakes
on. Stamps are converted where they enter and leave. Only integers in, integers out, no ROS.
"""

from collections import deque
import threading
from typing import Protocol

# Never further ahead of the last /clock message than this many of its periods (docs/architecture.md).
LEAD_PERIODS = 2
# Periods and rates are measured over this many /clock messages, 0.64 s at 100 Hz.
CLOCK_WINDOW = 64
# Before two messages came, the period is taken as that of the simulator's 100 Hz.
ASSUMED_PERIOD_NS = 10_000_000
# Share of the error that one /clock message corrects: transport jitter is averaged over ~10 messages.
CORRECTION_GAIN = 0.1
# A simulator that runs slower or faster than this is followed by stepping only.
RATE_BOUNDS = (0.05, 20.0)
# NTP slews by at most 500 ppm (ntp_adjtime(2)); following twice as fast loses nothing.
SLEW_PPM = 1000
# Longest sleep while time stands still, so that a stop request is seen.
PAUSED_SLEEP_NS = 5_000_000


class ControlClock(Protocol):
    """Maps the machine's monotonic clock to control time."""

    @property
    def ready(self) -> bool:
        """Whether there is a time."""

    @property
    def offset_ns(self) -> int:
        """Control time minus the node's clock: add it to stamps that enter, take it from those that leave."""

    def now_ns(self, monotonic_ns: int) -> int:
        """Return control time at a monotonic instant. Never goes back."""

    def wait_ns(self, target_ns: int, monotonic_ns: int) -> int:
        """Return how many monotonic nanoseconds to sleep towards ``target_ns``; 0 or less: it is due."""

    def take_jump(self) -> int:
        """Return by how much the node's clock jumped since the last call, nanoseconds with sign, 0: not."""


class SystemClock:
    """Without simulated time: the system clock, read through the monotonic clock.

    :param system_ns: System time at ``monotonic_ns``.
    :param jump_ns: A step of the system clock by more than this is a jump; less is slewed.
    """

    def __init__(self, system_ns: int, monotonic_ns: int, *, jump_ns: int) -> None:
        self._lead = system_ns - monotonic_ns
        self._observed = monotonic_ns
        self._jump_ns = jump_ns
        self._jump = 0
        self._offset = 0

    @property
    def ready(self) -> bool:
        """Always."""
        return True

    @property
    def offset_ns(self) -> int:
        """Control time minus system time, apart from what is being slewed."""
        return self._offset

    def observe(self, system_ns: int, monotonic_ns: int) -> None:
        """Compare with the system clock; call it about once per tick."""
        error = system_ns + self._offset - self.now_ns(monotonic_ns)
        if abs(error) > self._jump_ns:
            self._jump = error
            self._offset -= error
        else:
            most = (monotonic_ns - self._observed) * SLEW_PPM // 1_000_000
            self._lead += max(-most, min(most, error))
        self._observed = monotonic_ns

    def now_ns(self, monotonic_ns: int) -> int:
        """Return control time. Slewing is slower than time, so it does not go back."""
        return monotonic_ns + self._lead

    def wait_ns(self, target_ns: int, monotonic_ns: int) -> int:
        """Return the time to ``target_ns``."""
        return target_ns - self.now_ns(monotonic_ns)

    def take_jump(self) -> int:
        """Return the size of a jump since the last call, 0 for none."""
        jump, self._jump = self._jump, 0
        return jump


class DisciplinedClock:
    """With simulated time: the monotonic clock, disciplined by ``/clock``.

    Between messages time runs on at the measured rate; each message corrects a tenth of the error, so
    transport jitter does not reach the control grid. When messages stop (a paused simulation) time
    stops too, at most two periods later.

    :param jump_ns: A message this far behind the last one means that the clock was set back; less is a
        message out of order, which is passed over. A step forward by more than this is a jump too.
    """

    def __init__(self, *, jump_ns: int) -> None:
        self._jump_ns = jump_ns
        self._lock = threading.Lock()
        self._jump = 0
        self._offset = 0
        # (control time, monotonic) of the newest messages.
        self._seen: deque[tuple[int, int]] = deque(maxlen=CLOCK_WINDOW)
        self._rate = 1.0
        self._period = ASSUMED_PERIOD_NS
        self._base = 0
        self._base_monotonic = 0
        self._returned = 0
        self.messages = 0

    @property
    def ready(self) -> bool:
        """Whether a /clock message has come."""
        return bool(self._seen)

    @property
    def rate(self) -> float:
        """Simulated seconds per real second, measured."""
        return self._rate

    @property
    def offset_ns(self) -> int:
        """Control time minus simulated time."""
        return self._offset

    def observe(self, clock_ns: int, monotonic_ns: int) -> None:
        """Take in one /clock message that arrived at ``monotonic_ns``."""
        with self._lock:
            self.messages += 1
            if not self._seen:
                self._restart(clock_ns, monotonic_ns)
                return
            control_ns = clock_ns + self._offset
            step = control_ns - self._seen[-1][0]
            if step < -self._jump_ns or step > self._jump_ns + LEAD_PERIODS * self._period:
                self._jump = step
                here = self._now(monotonic_ns)
                self._offset = here - clock_ns
                self._restart(here, monotonic_ns)
                return
            if step <= 0:
                return
            predicted = self._model(monotonic_ns)
            self._seen.append((control_ns, monotonic_ns))
            self._measure()
            error = control_ns - predicted
            # Far off (the simulator stalled and went on): follow at once. now_ns() stays monotone.
            far = abs(error) > LEAD_PERIODS * self._period
            self._base = control_ns if far else predicted + int(CORRECTION_GAIN * error)
            self._base_monotonic = monotonic_ns

    def _restart(self, control_ns: int, monotonic_ns: int) -> None:
        self._seen.clear()
        self._seen.append((control_ns, monotonic_ns))
        self._base, self._base_monotonic = control_ns, monotonic_ns

    def _measure(self) -> None:
        first, last = self._seen[0], self._seen[-1]
        self._period = max(1, (last[0] - first[0]) // (len(self._seen) - 1))
        if last[1] > first[1]:
            low, high = RATE_BOUNDS
            self._rate = min(high, max(low, (last[0] - first[0]) / (last[1] - first[1])))

    def _model(self, monotonic_ns: int) -> int:
        return self._base + int((monotonic_ns - self._base_monotonic) * self._rate)

    def now_ns(self, monotonic_ns: int) -> int:
        """Return control time; 0 before the first message."""
        with self._lock:
            return self._now(monotonic_ns)

    def _now(self, monotonic_ns: int) -> int:
        if self._seen:
            ahead = self._seen[-1][0] + LEAD_PERIODS * self._period
            self._returned = max(self._returned, min(self._model(monotonic_ns), ahead))
        return self._returned

    def wait_ns(self, target_ns: int, monotonic_ns: int) -> int:
        """Return how long to sleep; at most 5 ms, because a paused simulation may go on at any time."""
        with self._lock:
            left = target_ns - self._now(monotonic_ns)
            if left <= 0:
                return 0
            return min(max(1, int(left / self._rate)), PAUSED_SLEEP_NS)

    def take_jump(self) -> int:
        """Return the size of a jump since the last call, 0 for none."""
        with self._lock:
            jump, self._jump = self._jump, 0
            return jump
