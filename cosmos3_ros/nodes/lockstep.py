"""A thread that lets simulated time pass only when asked."""

from collections.abc import Callable
import threading

SERVE_PERIOD_S = 0.002


class LockstepThread:
    """Advances a world by whole steps when asked to, and not otherwise.

    :param advance: Makes one step.
    :param serve: Called before steps and every 2 ms besides; may call :meth:`add`.
    """

    def __init__(self, advance: Callable[[], None], serve: Callable[[], None],
                 on_error: Callable[[Exception], None]) -> None:
        self._advance, self._serve, self._on_error = advance, serve, on_error
        self._condition = threading.Condition()
        self._credit = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name='lockstep', daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; steps not yet made are dropped."""
        with self._condition:
            self._ending.set()
            self._condition.notify()
        self._thread.join(2.0)

    def add(self, steps: int) -> None:
        """Ask for ``steps`` more."""
        with self._condition:
            self._credit += steps
            self._condition.notify()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._credit or self._ending.is_set(), SERVE_PERIOD_S)
                if self._ending.is_set():
                    return
                steps, self._credit = self._credit, 0
            try:
                self._serve()
                for _ in range(steps):
                    if self._ending.is_set():
                        return
                    self._advance()
            except Exception as error:
                self._on_error(error)
