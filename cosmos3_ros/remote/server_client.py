"""How a server is asked again, and when it is left alone."""

from collections.abc import Callable
from dataclasses import dataclass
import logging
import threading
from typing import TypeVar

from .circuit_breaker import CircuitBreaker
from .http_exchange import ExchangeError

logger = logging.getLogger(__name__)

Reply = TypeVar('Reply')


@dataclass(slots=True)
class ServerCounts:
    """What happened with a server; read it for diagnostics.

    ``requests`` is the sum of what was read without a fault and of the kinds of failure.
    """

    requests: int = 0
    answers: int = 0
    retries: int = 0
    timeout: int = 0
    connection: int = 0
    server: int = 0
    busy: int = 0
    refused: int = 0
    broken: int = 0
    skipped: int = 0
    """Questions that were not sent because the server had kept failing or asked to be left alone."""


class ServerClient:
    """Retries and breaker around requests to one server. One thread at a time; :meth:`close` from any.

    :param retries: Further requests after a failure that may pass.
    :param backoff_s: Wait before the first retry; doubled for each further one, or as the server says.
    :param breaker_failures: Failed answers in a row after which the server is left alone.
    :param breaker_pause_s: For how long.
    :param clock_s: Monotonic seconds; deadlines are on it.
    :raises ValueError: A parameter cannot be used.
    """

    def __init__(
        self, *, retries: int, backoff_s: float, breaker_failures: int, breaker_pause_s: float,
        clock_s: Callable[[], float],
    ) -> None:
        if retries < 0 or not backoff_s >= 0:
            raise ValueError(
                f'retries, backoff_s: {retries}, {backoff_s} arrived, at least 0 and 0 is allowed')
        self._breaker = CircuitBreaker(breaker_failures, breaker_pause_s, clock_s)
        self._retries, self._backoff_s, self._clock_s = retries, backoff_s, clock_s
        self._resume_s = -float('inf')
        self._closed = threading.Event()
        self.counts = ServerCounts()

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed.is_set()

    def close(self) -> None:
        """End waits for retries; nothing is sent any more."""
        self._closed.set()

    def wait(self, duration_s: float) -> bool:
        """Wait, and return true at once if the client is closed meanwhile."""
        return self._closed.wait(max(0.0, duration_s))

    def check_ready(self) -> None:
        """Refuse while the server is left alone.

        :raises ExchangeError: ``skipped``, with the seconds that are left.
        """
        wait_s = self._breaker.wait_s()
        if wait_s > 0:
            self.counts.skipped += 1
            raise ExchangeError(
                'skipped', f'the server kept failing and is left alone for another {wait_s:.1f} s')
        wait_s = self._resume_s - self._clock_s()
        if wait_s > 0:
            self.counts.skipped += 1
            raise ExchangeError(
                'skipped', f'the server asked to be left alone for another {wait_s:.1f} s (Retry-After)')

    def answer(self, work: Callable[[], Reply]) -> Reply:
        """Do ``work``, one or several requests that make one answer, and tell the breaker how it went.

        :raises ExchangeError: What ``work`` raised.
        """
        try:
            reply = work()
        except ExchangeError as error:
            # A request that the server understood and refused says nothing about its health.
            if error.passes:
                self._breaker.failed()
            if error.retry_after_s:
                self._resume_s = self._clock_s() + error.retry_after_s
            raise
        self._breaker.succeeded()
        self.counts.answers += 1
        return reply

    def request(
        self, send: Callable[[], Reply], deadline_s: float,
        may_repeat: Callable[[ExchangeError], bool] = lambda _: True,
    ) -> Reply:
        """Send one request, again if that may help, until the time is up.

        :param may_repeat: False for an error after which a second request could do harm: the first may
            have been taken, and what it does must not be done twice.
        :raises ExchangeError: No usable reply; :attr:`counts` says what kept it.
        """
        for attempt in range(self._retries + 1):
            if self.closed:
                raise ExchangeError('connection', 'the client is closed', sent=False)
            self.counts.requests += 1
            try:
                return send()
            except ExchangeError as error:
                self.note(error)
                wait_s = error.retry_after_s
                if wait_s is None:
                    wait_s = self._backoff_s * 2 ** attempt
                out_of_time = self._clock_s() + wait_s >= deadline_s
                if not error.passes or not may_repeat(error) or attempt == self._retries or out_of_time:
                    raise
                logger.debug('attempt %d failed (%s), again in %.2f s', attempt + 1, error, wait_s)
            self.counts.retries += 1
            self.wait(wait_s)
        raise AssertionError('unreachable: the last attempt returns or raises')

    def note(self, error: ExchangeError) -> ExchangeError:
        """Count a failure and return it."""
        setattr(self.counts, error.kind, getattr(self.counts, error.kind) + 1)
        return error
