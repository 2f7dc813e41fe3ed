"""Server-sent events: OpenAI-compatible servers stream an answer as ``data: {...}`` lines and ``[DONE]``."""

from collections.abc import Callable
import json
from typing import Any

from ..remote.http_exchange import ExchangeError

DONE = '[DONE]'


class EventReader:
    """Cuts bytes into events, however they were cut on the way."""

    def __init__(self) -> None:
        self._rest = b''
        self.done = False

    def feed(self, piece: bytes) -> list[Any]:
        """Return the events that ``piece`` completes.

        :raises ExchangeError: An event is not JSON, or says that the server failed.
        """
        *lines, self._rest = (self._rest + piece).split(b'\n')
        events = []
        for line in lines:
            text = line.decode('utf-8', 'replace').strip()
            if not text.startswith('data:'):  # comments, event names and the empty lines between
                continue
            data = text.removeprefix('data:').strip()
            if data == DONE:
                self.done = True
                break
            try:
                event = json.loads(data)
            except (ValueError, RecursionError) as error:
                raise ExchangeError('broken', f'an event is not JSON ({error})') from error
            if isinstance(event, dict) and event.get('error'):
                said = str(event['error'])[:300]
                raise ExchangeError('server', f'the server failed while it answered: {said}')
            events.append(event)
        return events


class StreamedAnswer:
    """Collects a chat completion that arrives piece by piece.

    :param complete: Told the text so far after each piece that may end it; true ends the request.
    :param clock_s: Monotonic seconds.
    """

    def __init__(self, complete: Callable[[str], bool], clock_s: Callable[[], float]) -> None:
        self._complete, self._clock_s = complete, clock_s
        self._reader = EventReader()
        self._pieces: list[str] = []
        self.finish = ''
        self.first_s: float | None = None
        self.prompt_tokens = 0
        self.new_tokens = 0

    @property
    def text(self) -> str:
        """What has arrived."""
        return ''.join(self._pieces)

    def feed(self, data: bytes) -> bool:
        """Take bytes of the reply; true if the answer is whole and the rest need not be read.

        :raises ExchangeError: The events are not those of a chat completion.
        """
        for event in self._reader.feed(data):
            try:
                usage = event.get('usage') or {}
                self.prompt_tokens = int(usage.get('prompt_tokens') or self.prompt_tokens)
                self.new_tokens = int(usage.get('completion_tokens') or self.new_tokens)
                if not event['choices']:  # the last event may carry the usage alone
                    continue
                choice = event['choices'][0]
                piece = choice.get('delta', {}).get('content') or ''
                self.finish = str(choice.get('finish_reason') or self.finish)
            except (TypeError, KeyError, IndexError, AttributeError, ValueError) as error:
                raise ExchangeError(
                    'broken', f'an event is no part of a chat completion: {error!r}') from error
            if not isinstance(piece, str):
                raise ExchangeError('broken', f'an event carries {type(piece).__name__} instead of text')
            if piece and self.first_s is None:
                self.first_s = self._clock_s()
            self._pieces.append(piece)
            if ('}' in piece or ']' in piece) and self._complete(self.text):
                self.finish = 'json'
                return True
        return self._reader.done

    def check_whole(self) -> None:
        """Refuse a stream that ended before the answer did.

        :raises ExchangeError: Neither a finish reason nor the end mark arrived.
        """
        if not self.finish and not self._reader.done:
            raise ExchangeError('connection', 'the stream ended before the answer did')
