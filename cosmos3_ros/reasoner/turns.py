"""Who may use a model next: whoever has waited longest, also in the middle of somebody's answer."""

import threading
from typing import Self


class Turns:
    """A lock in order of arrival, whose holder can let the others go first for a moment.

    ``threading.Lock`` keeps no order: a thread that gives it back and takes it again at once gets it
    again, and the others starve. With this one a long answer and the reports beside it take turns token
    by token.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._serving = 0
        self._next_ticket = 0

    def __enter__(self) -> Self:
        """Wait for the own turn."""
        with self._condition:
            ticket = self._next_ticket
            self._next_ticket += 1
            self._condition.wait_for(lambda: self._serving == ticket)
        return self

    def __exit__(self, *_error: object) -> None:
        """End the turn."""
        with self._condition:
            self._serving += 1
            self._condition.notify_all()

    @property
    def wanted(self) -> bool:
        """Whether somebody waits behind whoever has the turn."""
        with self._condition:
            return self._next_ticket - self._serving > 1

    def give_way(self) -> None:
        """Let everybody who waits now have a turn; only for whoever has it."""
        if self.wanted:
            self.__exit__()
            self.__enter__()
