"""The time between ticks: held, excused, or a reason to stop."""

from dataclasses import dataclass

from cosmos3_ros.contracts import StopReason

from .config import ControllerConfig


@dataclass(frozen=True, slots=True)
class TickTime:
    """How to take a tick's time.

    :param now_ns: The time to use.
    :param shift_ns: By how much the plan has to move to go on without a jump; 0 without a fault.
    """

    now_ns: int
    shift_ns: int = 0
    reason: StopReason = StopReason.NONE
    detail: str = ''


class TickClock:
    """Watch the time from tick to tick."""

    def __init__(self, config: ControllerConfig) -> None:
        self._config = config
        self._period_ns = round(1e9 / config.rate_hz)
        self._last_ns = 0

    def restart(self, now_ns: int) -> None:
        """Forget the past."""
        self._last_ns = now_ns

    def has_gone_back(self, now_ns: int) -> bool:
        """Tell whether the next tick will find the clock set back."""
        return now_ns < self._last_ns - self._config.clock_backward_ns

    def read(self, now_ns: int) -> TickTime:
        """Judge the step from the last tick to ``now_ns``."""
        config, elapsed_ns = self._config, now_ns - self._last_ns
        if -config.clock_backward_ns <= elapsed_ns < 0:
            # A disciplined clock may hesitate; time stands still for the plan until it catches up.
            return TickTime(self._last_ns)
        self._last_ns = now_ns
        if 0 <= elapsed_ns <= min(config.overrun_stop_ns, config.clock_forward_ns):
            return TickTime(now_ns)
        shift_ns = elapsed_ns - self._period_ns
        if 0 < elapsed_ns <= config.clock_forward_ns:
            return TickTime(now_ns, shift_ns, StopReason.OVERRUN, (
                f'{elapsed_ns * 1e-6:.1f} ms between two ticks, '
                f'{config.overrun_stop_ns * 1e-6:g} ms is allowed (overrun_stop_ns)'))
        bound_ns = config.clock_forward_ns if elapsed_ns > 0 else -config.clock_backward_ns
        return TickTime(now_ns, shift_ns, StopReason.CLOCK_JUMP, (
            f'the clock moved by {elapsed_ns * 1e-9:+.3f} s between two ticks, '
            f'{bound_ns * 1e-9:+.3f} s is allowed'))
