"""Action jobs of vLLM-Omni: the documented form, polling, tidying up, and a server that misbehaves."""

from dataclasses import replace
import threading
import time

from http_servers import SPOILED, VideoServer
import numpy as np
import pytest
from remote_observation import JOINTS, observation

from cosmos3_ros.generator.composed_view import compose_view
from cosmos3_ros.generator.multipart import encode_form
from cosmos3_ros.generator.policy import Policy, PolicyError, create_policy

pytest.importorskip('PIL.Image', reason="the extra 'model' is not installed")


def connect(server, **options):
    return create_policy('vllm_omni', **{
        'url': server.url, 'joint_names': JOINTS, 'timeout_s': 20.0, 'backoff_s': 0.0,
        'poll_interval_s': 0.005, 'breaker_failures': 100, **options})


@pytest.fixture
def server():
    with VideoServer() as made:
        yield made


def test_a_form_has_the_documented_shape():
    body = encode_form({'a': '1', 'b': 'ü'}, 'f', 'x.png', b'\x00\r\n--x', 'image/png')
    boundary = body.content_type.removeprefix('multipart/form-data; boundary=')
    assert body.content == (
        f'--{boundary}\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="b"\r\n\r\nü\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="f"; filename="x.png"\r\n'
        'Content-Type: image/png\r\n\r\n').encode() + b'\x00\r\n--x' + f'\r\n--{boundary}--\r\n'.encode()


def test_the_documented_job_and_a_chunk(server, monkeypatch):
    monkeypatch.setenv('VLLM_API_KEY', 'secret')
    server.polls = ['queued', 'in_progress', 'in_progress']
    policy = connect(server, model='droid', extra_params={'guardrails': False})
    assert isinstance(policy, Policy) and server.requests == []
    chunk = policy.generate(observation(), 'reach the cube', seed=7)
    request = server.requests[0]
    extra = request.pop('extra_params')
    assert request == {
        'prompt': 'reach the cube', 'num_frames': '33', 'fps': '15', 'num_inference_steps': '4',
        'guidance_scale': '3.0', 'flow_shift': '5.0', 'seed': '7', 'model': 'droid'}
    state = extra.pop('robot_obs')
    assert extra == {
        'action_mode': 'policy', 'domain_name': 'droid_lerobot', 'action_chunk_size': 32, 'raw_action_dim': 8,
        'num_inference_steps': 4, 'guidance_scale': 3.0, 'flow_shift': 5.0, 'guardrails': False}
    assert state == {
        'prompt': 'reach the cube', 'observation/joint_position': [pytest.approx(np.arange(7) / 10)],
        'observation/gripper_position': [[0.25]]}
    assert (server.pictures[0] == compose_view(observation().images)).all()
    assert np.allclose(chunk.positions, np.arange(7) / 10, atol=1e-6) and chunk.gripper[-1] == 1.0
    assert (chunk.seed, chunk.steps, chunk.guidance, chunk.policy) == (7, 4, 3.0, 'vllm_omni')
    name = next(iter(server.jobs))
    assert server.paths == ['POST /v1/videos'] + [f'GET /v1/videos/{name}'] * 4
    assert set(server.keys) == {'Bearer secret'}


def test_finished_jobs_are_deleted_while_the_next_is_computed(server):
    policy = connect(server)
    policy.generate(observation(), 'one', seed=0)
    assert server.deleted == []
    policy.generate(observation(), 'two', seed=0)
    first, second = server.jobs
    assert server.deleted == [first]
    assert server.paths.index(f'DELETE /v1/videos/{first}') > server.paths.index('POST /v1/videos', 1)
    policy.close()
    assert server.deleted == [first, second]


def test_a_job_that_nobody_waits_for_is_deleted_before_the_next_is_made(server):
    server.polls = ['queued'] * 1000
    policy = connect(server, timeout_s=1.5)
    # The time may end between two looks at the job or, on a busy machine, within one.
    with pytest.raises(PolicyError, match=r'within 1\.5 s .*the job is queued|not reply in time'):
        policy.generate(observation(), 'one', seed=0)
    server.polls = []
    policy._settings = replace(policy._settings, timeout_s=20.0)
    assert np.allclose(policy.generate(observation(np.full(7, 0.7)), 'two', seed=0).positions, 0.7)
    first = next(iter(server.jobs))
    deleted, made = (server.paths.index(f'DELETE /v1/videos/{first}'),
                     len(server.paths) - 1 - server.paths[::-1].index('POST /v1/videos'))
    assert deleted < made


def test_a_pause_that_outlasts_the_time_is_told_as_such(server, monkeypatch):
    server.polls = ['queued'] * 1000
    policy = connect(server, timeout_s=1.5)
    wait = policy._client.wait
    monkeypatch.setattr(policy._client, 'wait', lambda _: wait(1.6))
    with pytest.raises(PolicyError, match=r'within 1\.5 s .*the job is queued'):
        policy.generate(observation(), 'one', seed=0)


@pytest.mark.parametrize('what, kind, message', [
    ('500', 'server', 'HTTP 500'), ('drop', 'connection', '127.0.0.1'),
    ('half', 'connection', 'ended before'), ('broken', 'broken', 'not JSON'), ('list', 'broken', 'a list'),
    ('400', 'refused', 'HTTP 400'),
    ('bad_id', 'broken', 'the id')])
def test_a_job_that_may_have_been_made_is_not_made_twice(server, what, kind, message):
    policy = connect(server, retries=3)
    server.plan = [what]
    with pytest.raises(PolicyError, match=message):
        policy.generate(observation(), 'go', seed=0)
    assert len(server.requests) == 1 and getattr(policy.counts, kind) == 1
    assert np.allclose(policy.generate(observation(np.full(7, 0.7)), 'go', seed=0).positions, 0.7)


@pytest.mark.parametrize('what, kind', [('429', 'busy'), ('503', 'server')])
def test_a_job_that_was_not_taken_is_sent_again(server, what, kind):
    policy = connect(server)
    server.plan = [what]
    assert np.allclose(policy.generate(observation(np.full(7, 0.7)), 'go', seed=0).positions, 0.7)
    assert len(server.requests) == 2 and getattr(policy.counts, kind) == 1 == policy.counts.retries


@pytest.mark.parametrize('what', ['500', 'drop', 'half', 'broken', '429'])
def test_asking_for_a_job_is_repeated(server, what):
    policy = connect(server)
    server.polls = ['queued', what, 'in_progress']
    assert np.allclose(policy.generate(observation(np.full(7, 0.7)), 'go', seed=0).positions, 0.7)
    assert len(server.requests) == 1 and policy.counts.retries == 1


@pytest.mark.parametrize('what, kind, message', [
    ('failed', 'server', 'the job failed: out of memory'), ('unknown', 'broken', "'paused'"),
    ('other', 'broken', 'about job video_gen_9'), ('lost', 'refused', 'HTTP 404'),
    ('nan', 'broken', 'nan in row 3, column 2'), ('unprocessed', 'broken', r'\(33, 8\)'),
    *((what, 'broken', 'answered') for what in SPOILED if what not in ('nan', 'unprocessed'))])
def test_jobs_that_end_badly_are_named_and_the_next_works(server, what, kind, message):
    policy = connect(server)
    server.polls = ['in_progress', what]
    with pytest.raises(PolicyError, match=message):
        policy.generate(observation(), 'go', seed=0)
    assert getattr(policy.counts, kind) == 1 and policy.counts.answers == 0
    assert np.allclose(policy.generate(observation(np.full(7, 0.7)), 'go', seed=0).positions, 0.7)


def test_jobs_that_keep_failing_open_the_breaker(server):
    server.polls = ['failed'] * 3
    policy = connect(server, breaker_failures=3, breaker_pause_s=60.0)
    for _ in range(3):
        with pytest.raises(PolicyError, match='out of memory'):
            policy.generate(observation(), 'go', seed=0)
    with pytest.raises(PolicyError, match='kept failing'):
        policy.generate(observation(), 'go', seed=0)
    assert len(server.requests) == 3


@pytest.mark.parametrize('where', ['plan', 'polls'])
def test_a_server_that_stalls_is_cut_off(server, where):
    setattr(server, where, ['stall'] * 10)
    policy = connect(server, timeout_s=0.4)
    with pytest.raises(PolicyError, match='in time'):
        policy.generate(observation(), 'go', seed=0)
    assert policy.counts.timeout >= 1 and policy.counts.answers == 0


def test_closing_ends_the_polling(server):
    server.polls = ['in_progress'] * 100_000
    policy = connect(server, timeout_s=600.0, poll_interval_s=10.0)
    failed = []

    def ask():
        try:
            policy.generate(observation(), 'go', seed=0)
        except PolicyError as error:
            failed.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    while not server.requests:
        time.sleep(0.005)
    policy.close()
    thread.join(30.0)
    assert failed and 'closed' in failed[0]


@pytest.mark.parametrize('change, message', [
    ({'url': 'ws://x'}, 'url:'), ({'poll_interval_s': 0.0}, 'poll_interval_s'), ({'model': 3}, 'model: 3'),
    ({'extra_params': 'x'}, 'extra_params'), ({'extra_params': {'robot_obs': 1}}, 'without robot_obs'),
    ({'shift': 0.0}, 'shift: 0.0'), ({'speed': 3}, 'options are url')])
def test_bad_settings(change, message):
    with pytest.raises(PolicyError, match=message):
        create_policy('vllm_omni', **({'url': 'http://127.0.0.1:9', 'joint_names': JOINTS} | change))
