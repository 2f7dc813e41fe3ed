"""Back-pressure of depth one: the newest value wins, what it replaces is counted."""

import threading
from typing import Generic, TypeVar

Value = TypeVar('Value')


class NewestSlot(Generic[Value]):
    """One place between a producer that never waits and a consumer that takes its time."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._value: Value | None = None
        self._closed = False
        self.offered = 0
        self.dropped = 0

    def offer(self, value: Value) -> None:
        """Put ``value`` in; a value that nobody took is dropped and counted. Never waits."""
        with self._condition:
            if self._closed:
                return
            self.offered += 1
            self.dropped += self._value is not None
            self._value = value
            self._condition.notify()

    def take(self, timeout_s: float | None = None) -> Value | None:
        """Wait for a value and take it out; None after ``timeout_s`` seconds or once closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._value is not None or self._closed, timeout_s)
            value, self._value = self._value, None
            return value

    def close(self) -> None:
        """Wake the consumer for good; a value still inside can be taken once."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
