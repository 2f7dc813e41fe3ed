"""When periodic things are due on simulated time."""

from .messages import NS_PER_S


class Schedule:
    """Instants ``epoch + k / rate``. Schedules of one epoch and whole ratios of rates coincide.

    :param epoch_ns: Instant zero.
    """

    def __init__(self, epoch_ns: int, rate_hz: float) -> None:
        self._epoch_ns = epoch_ns
        self._rate_hz = rate_hz
        self._next_ns = epoch_ns

    def is_due(self, now_ns: int) -> bool:
        """Return True once for each instant passed; several passed at once count as one."""
        if now_ns < self._next_ns:
            return False
        done = int((now_ns - self._epoch_ns) * self._rate_hz / NS_PER_S + 1e-6)
        self._next_ns = self._epoch_ns + round((done + 1) * NS_PER_S / self._rate_hz)
        return True
