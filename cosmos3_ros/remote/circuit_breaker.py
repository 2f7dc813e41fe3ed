"""Stop asking a server that keeps failing, and try it again after a pause."""

from collections.abc import Callable


class CircuitBreaker:
    """Closed while requests succeed; open after failures in a row; after a pause one trial is let through.

    :param failures: Failures in a row that open it, at least 1.
    :param pause_s: Seconds that it stays open.
    :param clock_s: Monotonic seconds.
    """

    def __init__(self, failures: int, pause_s: float, clock_s: Callable[[], float]) -> None:
        if failures < 1 or not pause_s > 0:
            raise ValueError(
                f'breaker_failures, breaker_pause_s: {failures}, {pause_s} arrived, '
                'at least 1 and more than 0 is allowed')
        self._failures, self._pause_s, self._clock_s = failures, pause_s, clock_s
        self._in_a_row = 0
        self._opened_s: float | None = None
        self.times_opened = 0

    def wait_s(self) -> float:
        """Return the seconds until a request may be made; 0 if it may now."""
        if self._opened_s is None:
            return 0.0
        return max(0.0, self._opened_s + self._pause_s - self._clock_s())

    def succeeded(self) -> None:
        """Note a success: it closes."""
        self._in_a_row, self._opened_s = 0, None

    def failed(self) -> None:
        """Note a failure; the trial after a pause opens it again at once."""
        self._in_a_row += 1
        if self._in_a_row >= self._failures:
            self._opened_s = self._clock_s()
            self.times_opened += 1
