"""A reasoner behind an OpenAI-compatible server: vLLM, TensorRT-LLM, NVIDIA NIM.

Payloads as their documentation gives them: ``POST /v1/chat/completions`` with ``image_url`` parts as
base64 data URIs, ``response_format`` with a JSON schema, ``GET /v1/models``.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
import os
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from ..contracts import Clip, ModelIdentity
from ..remote.http_exchange import Endpoint, ExchangeError
from ..remote.server_client import ServerClient, ServerCounts
from ..resources import require
from .answer_end import answer_is_complete
from .answer_schema import ANSWER_SCHEMAS
from .backend import Answer, BackendError
from .clip_buffer import scale_frame
from .deadline import Deadline
from .event_stream import StreamedAnswer
from .questions import Question
from .video_grid import bounded_size
from .video_prompt import build_messages, patch_times_s


@dataclass(frozen=True, slots=True)
class _Reply:
    text: str
    finish: str
    prompt_tokens: int
    new_tokens: int
    first_s: float | None = None


class OpenAIBackend:
    """Asks a server. Greedy (temperature 0, fixed seed); the server decides how far that holds.

    :param base_url: E.g. ``http://localhost:8000/v1``.
    :param model: Model name; empty takes the first that the server lists.
    :param api_key_variable: Environment variable that holds the key; an unset one sends none.
    :param timeout_s: For one answer, all retries together.
    :param request_timeout_s: For one request.
    :param retries: Further requests after a failure that may pass.
    :param backoff_s: Wait before the first retry; doubled for each further one, or as the server says.
    :param breaker_failures: Failed answers in a row after which the server is left alone.
    :param breaker_pause_s: For how long.
    :param json_schema: Send the answer's JSON schema; switch it off for servers that refuse it.
    :param max_clip_pixels: Largest frames x height x width of a clip; also what a server's own limit
        on pixels or request size wants.
    :param most_images: Most images per request, as servers limit them; the oldest frames of each clip go.
    :param stream: Let the answer come piece by piece: the first token's time is known, and the request
        ends with the wanted JSON's closing bracket.
    :param request_options: Further fields of each request, for what a server offers beyond the common
        ones, e.g. ``{'mm_processor_kwargs': {...}}`` of vLLM; they win over ours.
    :raises BackendError: A parameter cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str = '',
        api_key_variable: str = 'OPENAI_API_KEY',
        timeout_s: float = 10.0,
        request_timeout_s: float = 5.0,
        retries: int = 2,
        backoff_s: float = 0.2,
        breaker_failures: int = 5,
        breaker_pause_s: float = 5.0,
        json_schema: bool = True,
        max_clip_pixels: int = 8 * 640 * 384,
        most_images: int = 32,
        stream: bool = False,
        request_options: Mapping[str, Any] | None = None,
        clock_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        for name, value in (('timeout_s', timeout_s), ('request_timeout_s', request_timeout_s)):
            if not 0 < value < 3600:
                raise BackendError(f'{name}: {value} arrived, more than 0 and less than 3600 is allowed')
        if most_images < 1:
            raise BackendError(f'most_images: {most_images} arrived, at least 1 is allowed')
        try:
            self._endpoint = Endpoint(base_url, os.environ.get(api_key_variable, ''))
            # As the local backends: a scene report and one other question may be under way together.
            self._lanes = tuple(
                (threading.Lock(), ServerClient(
                    retries=retries, backoff_s=backoff_s, breaker_failures=breaker_failures,
                    breaker_pause_s=breaker_pause_s, clock_s=clock_s))
                for _ in range(2))
        except ValueError as error:
            raise BackendError(str(error)) from error
        self._model, self._timeout_s, self._request_timeout_s = model, timeout_s, request_timeout_s
        self._json_schema, self._most_images = json_schema, most_images
        self._max_clip_pixels = max_clip_pixels
        self._stream, self._options = stream, dict(request_options or {})
        reserved = sorted({'model', 'messages', 'stream'} & set(self._options))
        if reserved:
            raise BackendError(f'request_options: {reserved} arrived, any field but these is allowed')
        self._clock_s = clock_s

    @property
    def counts(self) -> ServerCounts:
        """What happened with the server so far."""
        both = [asdict(client.counts) for _, client in self._lanes]
        return ServerCounts(**{name: sum(counts[name] for counts in both) for name in both[0]})

    @property
    def identity(self) -> ModelIdentity:
        """The model as the server names it; its content hash is the server's secret."""
        return ModelIdentity(
            f'{self._model or "unknown"}@server', f'openai/{urlsplit(self._endpoint.base_url).netloc}', True)

    def warm_up(self) -> None:
        """Ask which models the server has.

        :raises BackendError: It cannot be reached, or does not have the wanted one.
        """
        try:
            reply = self._endpoint.exchange(
                'GET', '/models', None, self._clock_s() + self._request_timeout_s, self._clock_s)
            names = [str(entry['id']) for entry in reply['data']]
        except ExchangeError as error:
            raise BackendError(f'base_url: {self._endpoint.base_url} does not answer: {error}') from error
        except (TypeError, KeyError) as error:
            raise BackendError(
                f'base_url: {self._endpoint.base_url} is no OpenAI-compatible server (/models)') from error
        if not names or (self._model and self._model not in names):
            raise BackendError(f"model: '{self._model}' arrived, the server has {names}")
        self._model = self._model or names[0]

    def close(self) -> None:
        """Stop waiting for retries; further questions are refused."""
        for _, client in self._lanes:
            client.close()

    def prepare(self, clips: Sequence[Clip], question: Question) -> None:
        """Check that a request can be made of such clips; the server is not asked.

        :raises BackendError: More clips than ``most_images`` allows.
        """
        self._payload(clips, question)

    def answer(
        self, clips: Sequence[Clip], question: Question, deadline: Deadline | None = None,
    ) -> Answer:
        """Ask the server, again if that may help, until the time is up.

        :param deadline: Instead of ``timeout_s`` and ``request_timeout_s``.
        :raises BackendError: No answer; :attr:`counts` says what kept it.
        """
        if not clips:
            raise BackendError('clips: none arrived, at least one is needed')
        lock, client = self._lanes[0 if question.answer == 'scene' else 1]
        with lock:
            try:
                client.check_ready()
            except ExchangeError as error:
                raise BackendError(str(error)) from error
            begin_s = self._clock_s()
            payload = self._payload(clips, question)
            prepared_s = self._clock_s()
            limit_s, request_s = self._timeout_s, self._request_timeout_s
            if deadline is not None:
                limit_s = request_s = deadline.left_s()
            end_s = begin_s + limit_s

            def send() -> _Reply:
                return self._request(payload, question, min(end_s, self._clock_s() + request_s), deadline)

            try:
                reply = client.answer(lambda: client.request(
                    send, end_s, lambda _: deadline is None or not deadline.over))
            except ExchangeError as error:
                raise BackendError(f'{self._endpoint.base_url}: {error}') from error
            done_s = self._clock_s()
        return Answer(
            reply.text, reply.prompt_tokens, reply.new_tokens, reply.finish, prepared_s - begin_s,
            (reply.first_s or done_s) - begin_s, done_s - begin_s)

    def _request(
        self, payload: dict[str, Any], question: Question, deadline_s: float, deadline: Deadline | None,
    ) -> _Reply:
        where = ('POST', '/chat/completions', payload, deadline_s, self._clock_s)
        if not self._stream:
            return _read_reply(self._endpoint.exchange(*where))
        streamed = StreamedAnswer(lambda text: answer_is_complete(question.answer, text), self._clock_s)

        def feed(piece: bytes) -> bool:
            if deadline is not None and deadline.over:
                streamed.finish = 'late'
                return True
            return streamed.feed(piece)

        self._endpoint.read(*where, feed)
        streamed.check_whole()
        return _Reply(streamed.text, streamed.finish, streamed.prompt_tokens, streamed.new_tokens,
                      streamed.first_s)

    def _payload(self, clips: Sequence[Clip], question: Question) -> dict[str, Any]:
        messages = build_messages(clips, question)
        content = messages[-1]['content']
        share = self._most_images // len(clips)
        if share < 1:
            raise BackendError(
                f'most_images: {self._most_images} arrived, at least {len(clips)} (clips) is needed')
        videos = iter(clips)
        parts: list[dict[str, Any]] = []
        for part in content:
            parts += self._images(next(videos), share) if part['type'] == 'video' else [part]
        messages[-1] = {'role': 'user', 'content': parts}
        payload: dict[str, Any] = {
            'model': self._model, 'messages': messages, 'max_tokens': question.max_new_tokens,
            'temperature': 0, 'seed': 1, 'stream': self._stream}
        if self._stream:
            payload['stream_options'] = {'include_usage': True}
        schema = ANSWER_SCHEMAS.get(question.answer)
        if schema is not None and self._json_schema:
            payload['response_format'] = {
                'type': 'json_schema',
                'json_schema': {'name': question.answer, 'schema': schema, 'strict': True}}
        return {**payload, **self._options}

    def _images(self, clip: Clip, most: int) -> list[dict[str, Any]]:
        cv2 = require('cv2', 'record')
        frames = clip.frames[-most:]
        size = bounded_size(len(frames), *clip.size, max_pixels=self._max_clip_pixels)
        parts: list[dict[str, Any]] = []
        times_s = patch_times_s(clip, 1)[-most:]
        for frame, seconds in zip(frames, times_s, strict=True):
            bgr = scale_frame(frame, size)[..., ::-1]
            done, jpeg = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, 90])
            if not done:
                raise BackendError(f'{clip.camera}: a frame of {size} cannot be encoded as JPEG')
            uri = 'data:image/jpeg;base64,' + base64.b64encode(jpeg.tobytes()).decode()
            parts += [{'type': 'text', 'text': f'<{seconds:.1f} seconds>'},
                      {'type': 'image_url', 'image_url': {'url': uri}}]
        return parts


def _read_reply(reply: Any) -> _Reply:
    """Read a chat completion."""
    try:
        choice = reply['choices'][0]
        text, finish = choice['message']['content'], choice.get('finish_reason') or 'stop'
        usage = reply.get('usage') or {}
        tokens = int(usage.get('prompt_tokens') or 0), int(usage.get('completion_tokens') or 0)
    except (TypeError, KeyError, IndexError, AttributeError, ValueError) as error:
        raise ExchangeError('broken', f'the reply is no chat completion ({error!r})') from error
    if not isinstance(text, str):
        raise ExchangeError('broken', f'the reply holds no text but {type(text).__name__}')
    return _Reply(text, str(finish), *tokens)
