"""What callbacks may raise, and what becomes of it: a node never dies of bad input."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol


class SetupError(RuntimeError):
    """The node cannot be configured or activated now. The text says why and what to change."""


class ReportsExceptions(Protocol):
    """Whose callbacks can be guarded: a node, or a part of one that passes reports on."""

    def report_exception(self, where: str, error: Exception) -> None:
        """Log and count ``error``, which the callback ``where`` raised."""


class _Activated(ReportsExceptions, Protocol):
    active: bool


def guarded(callback: Callable[..., Any]) -> Callable[..., None]:
    """Wrap a subscription or timer callback: an exception is logged and counted, the node lives on."""
    @wraps(callback)
    def call(self: ReportsExceptions, *args: Any) -> None:
        try:
            callback(self, *args)
        except Exception as error:
            self.report_exception(callback.__name__, error)
    return call


def guarded_when_active(callback: Callable[..., Any]) -> Callable[..., None]:
    """Like :func:`guarded`, and does nothing while the node is not active."""
    inner = guarded(callback)

    @wraps(callback)
    def call(self: _Activated, *args: Any) -> None:
        if self.active:
            inner(self, *args)
    return call


def guarded_service(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a service callback: an exception becomes the response's message."""
    @wraps(callback)
    def call(self: ReportsExceptions, request: Any, response: Any) -> Any:
        try:
            return callback(self, request, response)
        except Exception as error:
            self.report_exception(callback.__name__, error)
            for flag in ('success', 'accepted'):
                if hasattr(response, flag):
                    setattr(response, flag, False)
            response.message = str(error)
            return response
    return call
