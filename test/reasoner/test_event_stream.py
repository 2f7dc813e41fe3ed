"""Streaming answers: pieces in any cut, an early end, and servers that stop in between."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from openai_server import ANSWER, OpenAIServer
import pytest
from reasoner_fakes import make_clip

from cosmos3_ros.reasoner import BackendError, PromptBook, Reasoner, create_backend
from cosmos3_ros.reasoner.event_stream import StreamedAnswer
from cosmos3_ros.remote.http_exchange import ExchangeError

CLIP = make_clip('wrist', 2, 32, 32)
BOOK = PromptBook.load()


def connect(server, **options):
    fast = {'timeout_s': 5.0, 'request_timeout_s': 2.0, 'backoff_s': 0.0, 'model': 'nvidia/Cosmos3-Nano'}
    return create_backend('openai', base_url=server.base_url, stream=True, **{**fast, **options})


def event(text, finish=None):
    return {'choices': [{'delta': {'content': text}, 'finish_reason': finish}]}


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text(max_size=8), max_size=12), st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_text_does_not_depend_on_how_the_bytes_were_cut(pieces, cuts):
    lines = [f'data: {json.dumps(event(piece), ensure_ascii=False)}\r\n\n' for piece in pieces]
    data = (''.join(lines) + 'event: end\ndata: [DONE]\n\n').encode('utf-8', 'surrogatepass')
    answer, start, ended = StreamedAnswer(lambda _: False, lambda: 7.0), 0, False
    for i in range(len(data)):
        size = cuts[i % len(cuts)]
        ended = ended or answer.feed(data[start : start + size])
        start += size
    answer.check_whole()
    assert ended and answer.text == ''.join(pieces)
    assert answer.first_s == (7.0 if any(pieces) else None)


def test_a_report_ends_with_its_last_bracket():
    with OpenAIServer() as server:
        backend = connect(server)
        answer = backend.answer([CLIP], BOOK.ask('scene_report', instruction='lift', cameras='wrist'))
        # What is left of the piece that held the bracket stays.
        assert answer.finish == 'json' and answer.text.startswith(ANSWER)
        assert len(answer.text) < len(ANSWER) + 7
        assert 0 < answer.prepare_s < answer.first_token_s <= answer.total_s
        assert Reasoner(backend).report([CLIP], 'lift').parsed
        assert server.requests[0]['stream'] is True
        words = backend.answer([CLIP], BOOK.ask('caption'))
        assert words.finish == 'stop' and words.text.endswith('nobody asked for')
        assert (words.prompt_tokens, words.generated_tokens) == (970, 60)


@pytest.mark.parametrize(
    'what, counter',
    [
        ('half', 'connection'),
        ('drop', 'connection'),
        ('broken', 'broken'),
        ('list', 'broken'),
        ('error', 'server'),
        ('500', 'server'),
        ('stall', 'timeout'),
    ],
)
def test_a_stream_that_stops_is_asked_for_again(what, counter):
    with OpenAIServer(lambda number: 'ok' if number else what) as server:
        backend = connect(server, request_timeout_s=0.5)
        assert ANSWER in backend.answer([CLIP], BOOK.ask('caption')).text
        assert getattr(backend.counts, counter) == 1 and backend.counts.retries == 1


@pytest.mark.parametrize(
    'data', ['{"choices": [1]}', '{"choices": [{"delta": {"content": 3}}]}', '{}', '"x"', '{"usage": 1}']
)
def test_events_of_another_kind_are_refused(data):
    with pytest.raises(ExchangeError) as caught:
        StreamedAnswer(lambda _: False, lambda: 0.0).feed(f'data: {data}\n'.encode())
    assert caught.value.kind == 'broken'


def test_options_of_a_server_are_passed_on():
    with OpenAIServer() as server:
        options = {'mm_processor_kwargs': {'fps': 4}, 'seed': 3}
        connect(server, request_options=options).answer([CLIP], BOOK.ask('caption'))
        assert server.requests[0]['mm_processor_kwargs'] == {'fps': 4} and server.requests[0]['seed'] == 3
        with pytest.raises(BackendError, match='request_options'):
            connect(server, request_options={'stream': False})
