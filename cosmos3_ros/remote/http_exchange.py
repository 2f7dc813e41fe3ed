"""One request to a model server, over the standard library, inside a deadline."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
import io
import json
import socket
from typing import Any
from urllib.parse import urlsplit

LARGEST_REPLY = 4 * 1024 * 1024


class ExchangeError(RuntimeError):
    """The server gave no usable reply.

    :param kind: ``timeout``, ``connection``, ``server`` (5xx), ``busy`` (429), ``refused`` (other 4xx),
        ``broken`` (not what was documented), or ``skipped`` (nothing was sent).
    :param retry_after_s: What the server asked to wait; None if it did not say.
    :param status: Status of the HTTP reply; 0 without one.
    :param sent: False if the server cannot have seen the request.
    """

    def __init__(
        self, kind: str, text: str, retry_after_s: float | None = None, *, status: int = 0, sent: bool = True,
    ) -> None:
        super().__init__(text)
        self.kind, self.retry_after_s, self.status, self.sent = kind, retry_after_s, status, sent

    @property
    def passes(self) -> bool:
        """True if the same request may work later."""
        return self.kind not in ('refused', 'skipped')


@dataclass(frozen=True, slots=True)
class Body:
    """Bytes to send as they are.

    :param content_type: E.g. ``multipart/form-data; boundary=...``.
    """

    content: bytes
    content_type: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens.

    :param base_url: E.g. ``http://localhost:8000/v1``.
    :param api_key: Sent as a bearer token if not empty; never logged.
    """

    base_url: str
    api_key: str = field(default='', repr=False)

    def __post_init__(self) -> None:
        """Check the address."""
        try:
            parts = urlsplit(self.base_url)
            usable = parts.scheme in ('http', 'https') and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if usable and parts.username is not None:
            raise ValueError('base_url: a user name in the address arrived; put the key into the environment')
        if not usable:
            raise ValueError(f'base_url: {self.base_url!r} arrived, e.g. http://localhost:8000/v1 is allowed')

    def exchange(
        self, method: str, path: str, payload: Mapping[str, Any] | Body | None, deadline_s: float,
        clock_s: Callable[[], float],
    ) -> Any:
        """Send one request and return the reply's JSON; parameters and errors as :meth:`read`."""
        data = bytearray()

        def keep(piece: bytes) -> bool:
            data.extend(piece)
            return False

        self.read(method, path, payload, deadline_s, clock_s, keep)
        try:
            return json.loads(bytes(data))
        except (ValueError, RecursionError) as error:
            raise ExchangeError('broken', f'the reply is not JSON ({error})') from error

    def read(
        self, method: str, path: str, payload: Mapping[str, Any] | Body | None, deadline_s: float,
        clock_s: Callable[[], float], take: Callable[[bytes], bool],
    ) -> None:
        """Send one request and hand over the reply's bytes as they come.

        A new connection each time: after a stall or a restart nothing of the old one is left.

        :param path: After the base, e.g. ``/chat/completions``.
        :param payload: Sent as JSON, or as the bytes that it holds.
        :param deadline_s: On ``clock_s``; a server that trickles is cut off there as well.
        :param take: Called with each piece of a reply of status 2xx; true ends the request.
        :raises ExchangeError: No usable reply.
        """
        parts = urlsplit(self.base_url)
        left_s = deadline_s - clock_s()
        if left_s <= 0:
            raise ExchangeError('timeout', 'no time was left for the request', sent=False)
        kind = HTTPSConnection if parts.scheme == 'https' else HTTPConnection
        connection = kind(parts.hostname or '', parts.port, timeout=left_s)
        body = payload if isinstance(payload, Body) else Body(
            b'' if payload is None else json.dumps(payload).encode(), 'application/json')
        headers = {'Content-Type': body.content_type, 'Accept': 'application/json'}
        if self.api_key:
            headers['Authorization'] = f'Bearer {self.api_key}'
        sent = False

        def remaining_s() -> float:
            left_s = deadline_s - clock_s()
            if left_s <= 0:
                raise TimeoutError
            return left_s

        def respond(sock: socket.socket, **options: Any) -> HTTPResponse:
            return _TimedResponse(sock, remaining_s, **options)

        connection.response_class = respond  # type: ignore[assignment]
        try:
            connection.connect()
            sent = True
            connection.sock.settimeout(remaining_s())
            connection.request(method, parts.path.rstrip('/') + path, body.content or None, headers)
            reply = connection.getresponse()
            count, refusal = 0, bytearray()
            while piece := reply.read1(65536):
                count += len(piece)
                if not 200 <= reply.status < 300:
                    refusal += piece
                elif take(piece):
                    return
                if count > LARGEST_REPLY:
                    raise ExchangeError('broken', f'the reply is longer than {LARGEST_REPLY} bytes')
            length = reply.getheader('Content-Length')
            if length is not None and length.isdigit() and count < int(length):
                raise ExchangeError('connection', 'the connection ended before the reply did')
        except TimeoutError as error:
            raise ExchangeError('timeout', 'the server did not reply in time', sent=sent) from error
        except (OSError, HTTPException) as error:
            raise ExchangeError('connection', f'{type(error).__name__}: {error}', sent=sent) from error
        finally:
            connection.close()
        if not 200 <= reply.status < 300:
            raise _refusal(reply.status, reply.getheader('Retry-After'), bytes(refusal))


def _refusal(status: int, retry_after: str | None, data: bytes) -> ExchangeError:
    said = data[:300].decode('utf-8', 'replace').strip()
    kind = 'busy' if status == 429 else 'server' if status >= 500 else 'refused'
    wait_s = float(retry_after) if retry_after and retry_after.isdigit() else None
    return ExchangeError(kind, f'HTTP {status}: {said}', wait_s, status=status)


class _TimedReader(io.RawIOBase):
    """Reads a socket; every read has only the time that is left for the whole exchange."""

    def __init__(self, sock: socket.socket, remaining_s: Callable[[], float]) -> None:
        self._sock, self._remaining_s = sock, remaining_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(self._remaining_s())
        return self._sock.recv_into(buffer)


class _TimedResponse(HTTPResponse):
    """A reply that is cut off at the deadline, in the middle of its head as well as of its body.

    With a time-out per read alone, a server that sends one byte now and then is never cut off.
    """

    def __init__(self, sock: socket.socket, remaining_s: Callable[[], float], **options: Any) -> None:
        super().__init__(sock, **options)
        # While this is open the socket stays open, also after the connection has let go of it.
        self._held = self.fp
        self.fp = io.BufferedReader(_TimedReader(sock, remaining_s))

    def close(self) -> None:
        super().close()
        self._held.close()
