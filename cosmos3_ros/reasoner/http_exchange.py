"""One request to an OpenAI-compatible server, over the standard library, inside a deadline."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
import json
from typing import Any
from urllib.parse import urlsplit

LARGEST_REPLY = 4 * 1024 * 1024


class ExchangeError(RuntimeError):
    """The server gave no usable reply.

    :param kind: ``timeout``, ``connection``, ``server`` (5xx), ``busy`` (429), ``refused`` (other 4xx)
        or ``broken`` (not what was documented).
    :param retry_after_s: What the server asked to wait; None if it did not say.
    """

    def __init__(self, kind: str, text: str, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.kind, self.retry_after_s = kind, retry_after_s

    @property
    def passes(self) -> bool:
        """True if the same request may work later."""
        return self.kind != 'refused'


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens.

    :param base_url: E.g. ``http://localhost:8000/v1``.
    :param api_key: Sent as a bearer token if not empty; never logged.
    """

    base_url: str
    api_key: str = ''

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
        self, method: str, path: str, payload: Mapping[str, Any] | None, deadline_s: float,
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
        self, method: str, path: str, payload: Mapping[str, Any] | None, deadline_s: float,
        clock_s: Callable[[], float], take: Callable[[bytes], bool],
    ) -> None:
        """Send one request and hand over the reply's bytes as they come.

        A new connection each time: after a stall or a restart nothing of the old one is left.

        :param path: After the base, e.g. ``/chat/completions``.
        :param deadline_s: On ``clock_s``; a server that trickles is cut off there as well.
        :param take: Called with each piece of a reply of status 200; true ends the request.
        :raises ExchangeError: No usable reply.
        """
        parts = urlsplit(self.base_url)
        left_s = deadline_s - clock_s()
        if left_s <= 0:
            raise ExchangeError('timeout', 'no time was left for the request')
        kind = HTTPSConnection if parts.scheme == 'https' else HTTPConnection
        connection = kind(parts.hostname or '', parts.port, timeout=left_s)
        headers = {'Content-Type': 'application/json', 'Accept': 'application/json'}
        if self.api_key:
            headers['Authorization'] = f'Bearer {self.api_key}'
        body = None if payload is None else json.dumps(payload).encode()
        try:
            connection.request(method, parts.path.rstrip('/') + path, body, headers)
            reply = connection.getresponse()
            count, refusal = 0, bytearray()
            while piece := reply.read1(65536):
                count += len(piece)
                if reply.status != 200:
                    refusal += piece
                elif take(piece):
                    return
                left_s = deadline_s - clock_s()
                if left_s <= 0:
                    raise ExchangeError('timeout', 'the reply did not end in time')
                if count > LARGEST_REPLY:
                    raise ExchangeError('broken', f'the reply is longer than {LARGEST_REPLY} bytes')
                if connection.sock is not None:
                    connection.sock.settimeout(left_s)
            length = reply.getheader('Content-Length')
            if length is not None and length.isdigit() and count < int(length):
                raise ExchangeError('connection', 'the connection ended before the reply did')
        except TimeoutError as error:
            raise ExchangeError('timeout', 'the server did not reply in time') from error
        except (OSError, HTTPException) as error:
            raise ExchangeError('connection', f'{type(error).__name__}: {error}') from error
        finally:
            connection.close()
        if reply.status != 200:
            raise _refusal(reply.status, reply.getheader('Retry-After'), bytes(refusal))


def _refusal(status: int, retry_after: str | None, data: bytes) -> ExchangeError:
    said = data[:300].decode('utf-8', 'replace').strip()
    kind = 'busy' if status == 429 else 'server' if status >= 500 else 'refused'
    wait_s = float(retry_after) if retry_after and retry_after.isdigit() else None
    return ExchangeError(kind, f'HTTP {status}: {said}', wait_s)
