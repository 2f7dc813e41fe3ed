"""The server backend against a server that speaks the documented payloads, and misbehaves."""

import json
import threading
import time

import jsonschema_lite
from openai_server import ANSWER, OpenAIServer
import pytest
from reasoner_fakes import make_clip

from cosmos3_ros.reasoner import BackendError, PromptBook, Reasoner, create_backend
from cosmos3_ros.reasoner.answer_schema import ANSWER_SCHEMAS
from cosmos3_ros.reasoner.scene_answer import SCENE_KEYS
from cosmos3_ros.remote.circuit_breaker import CircuitBreaker

CLIP = make_clip('wrist', 2, 32, 32)
FAST = {'timeout_s': 5.0, 'request_timeout_s': 2.0, 'backoff_s': 0.0, 'model': 'nvidia/Cosmos3-Nano'}


def connect(server, **options):
    return create_backend('openai', base_url=server.base_url, **{**FAST, **options})


def ask(name='scene_report'):
    return PromptBook.load().ask(name, instruction='lift', cameras='wrist', question='x', object='x')


def test_a_report_comes_back_whole():
    with OpenAIServer() as server:
        backend = connect(server, model='')
        backend.warm_up()
        report = Reasoner(backend).report([CLIP, make_clip('exterior_1', 4, 64, 96)], 'lift the cube')
        assert report.parsed and report.raw_text == ANSWER and report.next_action == 'lift it'
        assert report.identity.checkpoint == 'nvidia/Cosmos3-Nano@server'
        parts = server.requests[0]['messages'][1]['content']
        assert [part['type'] for part in parts].count('image_url') == 6
        texts = [part['text'] for part in parts if part['type'] == 'text']
        assert texts[0] == 'wrist: ' and 'exterior_1: ' in texts and texts[1] == '<0.0 seconds>'
        answer = backend.answer([CLIP], ask())
        assert (answer.prompt_tokens, answer.generated_tokens, answer.finish) == (970, 60, 'stop')
        form = server.requests[0]['response_format']['json_schema']
        assert form['schema'] == ANSWER_SCHEMAS['scene']


def test_schema_and_key_are_sent_as_asked(monkeypatch):
    monkeypatch.setenv('MY_KEY', 'secret')
    with OpenAIServer() as server:
        connect(server, json_schema=False, api_key_variable='MY_KEY').answer([CLIP], ask())
        connect(server, api_key_variable='NO_SUCH_KEY').answer([CLIP], ask('caption'))
        assert server.keys == ['Bearer secret', '']
        assert all('response_format' not in request for request in server.requests)


def test_the_schema_is_what_is_read_without_a_problem():
    schema = ANSWER_SCHEMAS['scene']
    assert set(schema['properties']) == set(schema['required']) == SCENE_KEYS
    assert jsonschema_lite.fits(json.loads(ANSWER), schema)
    assert not jsonschema_lite.fits({**json.loads(ANSWER), 'task_state': 'x'}, schema)


def test_most_images_is_honoured():
    with OpenAIServer() as server:
        connect(server, most_images=3).answer([make_clip('a', 8, 32, 32)], ask())
        connect(server, most_images=4).answer([make_clip('a', 8, 32, 32), make_clip('b', 8, 32, 32)], ask())
        for request, most in zip(server.requests, (3, 4), strict=True):
            parts = request['messages'][1]['content']
            assert sum(part['type'] == 'image_url' for part in parts) == most
        with pytest.raises(BackendError, match='most_images'):
            connect(server, most_images=1).answer([CLIP, make_clip('b')], ask())


@pytest.mark.parametrize(
    'what, counter',
    [
        ('500', 'server'),
        ('503', 'server'),
        ('429', 'busy'),
        ('broken', 'broken'),
        ('half', 'connection'),
        ('drop', 'connection'),
        ('empty', 'broken'),
        ('list', 'broken'),
        ('null', 'broken'),
        ('huge', 'broken'),
    ],
)
def test_failures_that_pass_are_retried_and_counted(what, counter):
    with OpenAIServer(lambda number: 'ok' if number else what) as server:
        backend = connect(server)
        assert backend.answer([CLIP], ask()).text == ANSWER
        assert getattr(backend.counts, counter) == 1 and backend.counts.retries == 1
        assert backend.counts.requests == 2 and backend.counts.answers == 1


@pytest.mark.parametrize('what', ['stall', 'trickle'])
def test_a_server_that_does_not_finish_is_cut_off_and_asked_again(what):
    with OpenAIServer(lambda number: 'ok' if number else what) as server:
        backend = connect(server, request_timeout_s=0.3)
        assert backend.answer([CLIP], ask()).text == ANSWER
        assert backend.counts.timeout == 1


def test_a_refusal_is_not_repeated_and_does_not_open_the_breaker():
    with OpenAIServer(lambda _: '400') as server:
        backend = connect(server, breaker_failures=1)
        for _ in range(3):
            with pytest.raises(BackendError, match='context length exceeded'):
                backend.answer([CLIP], ask())
        assert len(server.requests) == 3 and backend.counts.refused == 3 and backend.counts.skipped == 0


def test_all_retries_together_stay_inside_the_deadline():
    with OpenAIServer(lambda _: 'stall') as server:
        backend = connect(server, timeout_s=0.4, request_timeout_s=5.0, retries=50)
        with pytest.raises(BackendError, match='in time'):
            backend.answer([CLIP], ask())
        assert backend.counts.requests <= 2


def test_the_breaker_opens_pauses_and_recovers():
    now = [0.0]
    with OpenAIServer(lambda number: '500' if number < 3 else 'ok') as server:
        backend = connect(
            server,
            retries=0,
            breaker_failures=3,
            breaker_pause_s=60.0,
            clock_s=lambda: time.perf_counter() + now[0],
        )
        for _ in range(3):
            with pytest.raises(BackendError, match='engine died'):
                backend.answer([CLIP], ask())
        with pytest.raises(BackendError, match='left alone'):
            backend.answer([CLIP], ask())
        assert len(server.requests) == 3 and backend.counts.skipped == 1
        now[0] = 61.0
        assert backend.answer([CLIP], ask()).text == ANSWER


def test_breaker_by_itself():
    now = [0.0]
    breaker = CircuitBreaker(2, 10.0, lambda: now[0])
    breaker.failed()
    breaker.succeeded()
    breaker.failed()
    assert breaker.wait_s() == 0
    breaker.failed()
    assert breaker.wait_s() == 10 and breaker.times_opened == 1
    now[0] = 10.0
    assert breaker.wait_s() == 0
    breaker.failed()
    assert breaker.wait_s() == 10, 'the trial failed: open again at once'


def test_hundreds_of_clips_with_every_misbehaviour_and_a_restart():
    plan = {3: 'stall', 17: '500', 29: 'broken', 41: 'drop', 53: 'half', 67: '429'}
    behave = lambda number: plan.get(number % 80, 'ok')  # noqa: E731
    server = OpenAIServer(behave)
    backend = connect(server, request_timeout_s=1.0, retries=4, breaker_failures=10, breaker_pause_s=0.01)
    answered, failed, threads = 0, 0, threading.active_count()
    did = []
    for number in range(240):
        if number == 120:
            did += server.did
            server.close()
            for _ in range(2):
                with pytest.raises(BackendError):
                    backend.answer([CLIP], ask())
            server = OpenAIServer(behave, port=server.port)
        try:
            answered += backend.answer([CLIP], ask()).text == ANSWER
        except BackendError:
            failed += 1
    did += server.did
    server.close()
    counts = backend.counts
    assert answered == 240 and failed == 0, 'each failure stands alone, so one retry is enough'
    assert counts.answers == 240
    injected = {name: did.count(name) for name in plan.values()}
    assert min(injected.values()) >= 2
    # On a busy machine a request may time out before its answer, good or bad, is there.
    assert counts.timeout >= injected['stall']
    assert 0 < counts.server <= injected['500'] and 0 < counts.broken <= injected['broken']
    assert 0 < counts.busy <= injected['429']
    assert counts.requests - counts.answers >= sum(injected.values()) + 6
    assert (
        counts.requests
        == counts.answers + counts.timeout + counts.server + counts.broken + counts.busy + (counts.connection)
    )
    deadline = time.monotonic() + 20
    while threading.active_count() > threads + 1:
        assert time.monotonic() < deadline, [thread.name for thread in threading.enumerate()]
        time.sleep(0.05)


def test_closing_ends_the_wait_for_a_retry():
    with OpenAIServer(lambda _: '500') as server:
        backend = connect(server, backoff_s=60.0, timeout_s=600.0)
        errors = []

        def run():
            try:
                backend.answer([CLIP], ask())
            except BackendError as error:
                errors.append(str(error))

        asking = threading.Thread(target=run)
        asking.start()
        backend.close()
        asking.join(20)
        assert not asking.is_alive() and errors


def test_a_server_that_is_not_there_or_has_another_model():
    with OpenAIServer() as server:
        with pytest.raises(BackendError, match="the server has \\['nvidia/Cosmos3-Nano'\\]"):
            connect(server, model='other').warm_up()
        url = server.base_url
    with pytest.raises(BackendError, match='does not answer'):
        create_backend('openai', base_url=url, **FAST).warm_up()


@pytest.mark.parametrize(
    'options',
    [
        {'base_url': 'localhost:8000'},
        {'base_url': 'ftp://x/v1'},
        {'base_url': 'http://'},
        {'base_url': 'http://x:y/'},
        {'base_url': 'http://user:key@x/v1'},
        {'timeout_s': 0},
        {'request_timeout_s': float('nan')},
        {'retries': -1},
        {'backoff_s': -1.0},
        {'most_images': 0},
        {'breaker_failures': 0},
        {'breaker_pause_s': 0.0},
        {'port': 1},
    ],
)
def test_wrong_options_are_refused(options):
    with pytest.raises(BackendError) as caught:
        create_backend('openai', **{'base_url': 'http://127.0.0.1:9/v1', **options})
    assert 'key@' not in str(caught.value)


def test_no_clips_are_refused():
    with pytest.raises(BackendError, match='at least one'):
        create_backend('openai', base_url='http://127.0.0.1:9/v1').answer([], ask())
