"""A thread for slow work: one request waits at most, and the newest wins."""

from collections.abc import Callable
import threading
from typing import Generic, TypeVar

from cosmos3_ros.reasoner import NewestSlot

Request = TypeVar('Request')

# A model call that was begun cannot be broken off; this long is waited for it, then the thread is left
# behind (it is a daemon and its result is thrown away).
JOIN_TIMEOUT_S = 1.0


class Worker(Generic[Request]):
    """Calls ``work(request)`` in its own thread, so that no callback ever waits for a model.

    :param name: Name of the thread.
    :param work: What to do with a request.
    :param on_error: Called with what ``work`` raised; the worker goes on.
    """

    def __init__(
        self, name: str, work: Callable[[Request], None], on_error: Callable[[Exception], None],
    ) -> None:
        self._slot: NewestSlot[Request] = NewestSlot()
        self._work = work
        self._on_error = on_error
        self._busy = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a request is being worked on."""
        return self._busy.is_set()

    @property
    def dropped(self) -> int:
        """Requests that a newer one replaced before anybody worked on them."""
        return self._slot.dropped

    def offer(self, request: Request) -> None:
        """Put a request in; one that still waits is replaced."""
        self._slot.offer(request)

    def close(self) -> None:
        """End the thread after the request that it works on."""
        self._closing = True
        self._slot.close()
        if self._thread is not threading.current_thread():
            self._thread.join(JOIN_TIMEOUT_S)

    def _run(self) -> None:
        while not self._closing:
            request = self._slot.take()
            if request is None or self._closing:
                return
            self._busy.set()
            try:
                self._work(request)
            except Exception as error:
                self._on_error(error)
            finally:
                self._busy.clear()
