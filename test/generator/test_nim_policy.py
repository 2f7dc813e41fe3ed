"""The documented request, and a NIM that misbehaves in every way that was seen or feared."""

import threading
import time

from http_servers import NimServer
import numpy as np
import pytest
from remote_observation import JOINTS, observation

from cosmos3_ros.generator.composed_view import compose_view
from cosmos3_ros.generator.policy import Policy, PolicyError, create_policy

pytest.importorskip('PIL.Image', reason="the extra 'model' is not installed")


def connect(server, **options):
    return create_policy('nim', **{
        'url': server.url, 'joint_names': JOINTS, 'timeout_s': 20.0, 'backoff_s': 0.0,
        'breaker_failures': 100, **options})


@pytest.fixture
def server():
    with NimServer() as made:
        yield made


def test_the_documented_request_and_a_chunk(server, monkeypatch):
    monkeypatch.setenv('NVIDIA_API_KEY', 'secret')
    policy = connect(server, url=server.url + '/v1/')
    assert isinstance(policy, Policy) and server.requests == []
    policy.warm_up()
    chunk = policy.generate(observation(), 'reach the cube', seed=7)
    request = server.requests[-1]
    picture = request.pop('input_reference')
    assert request == {
        'model_mode': 'policy', 'prompt': 'reach the cube', 'seed': 7, 'num_inference_steps': 4,
        'guidance_scale': 3.0, 'flow_shift': 5.0,
        'action_params': {'domain_name': 'droid_lerobot', 'action_chunk_size': 32, 'observation': {
            'observation/joint_position': pytest.approx(np.arange(7) / 10),
            'observation/gripper_position': 0.25}}}
    assert picture.startswith('data:image/png;base64,')
    assert np.allclose(chunk.positions, np.arange(7) / 10, atol=1e-6) and chunk.positions.shape == (32, 7)
    assert (chunk.gripper[0], chunk.gripper[-1]) == (0.0, 1.0) and chunk.stamp_ns == 5
    assert (chunk.seed, chunk.steps, chunk.guidance, chunk.policy) == (7, 4, 3.0, 'nim')
    assert set(server.keys) == {'Bearer secret'} and set(server.paths) == {'POST /v1/infer'}
    assert 'secret' not in repr(policy.identity) + repr(vars(policy))


def test_the_picture_arrives_as_it_was(server):
    import base64

    from http_servers import picture_in

    seen = observation()
    connect(server).generate(seen, 'go', seed=0)
    data = base64.b64decode(server.requests[0]['input_reference'].partition(',')[2])
    assert (picture_in(data) == compose_view(seen.images)).all()


@pytest.mark.parametrize('what, kind, message', [
    ('drop', 'connection', '127.0.0.1'), ('half', 'connection', 'ended before the reply did'),
    ('broken', 'broken', 'not JSON'), ('huge', 'broken', 'longer than'), ('list', 'broken', 'a list'),
    ('500', 'server', 'HTTP 500'), ('503', 'server', 'HTTP 503'), ('429', 'busy', 'HTTP 429'),
    ('nan', 'broken', 'nan in row 3, column 2'), ('short', 'broken', r'float64 \(16, 8\)'),
    ('unprocessed', 'broken', r'float64 \(33, 8\)'), ('lies', 'broken', r'says is \[16, 8\]'),
    ('ragged', 'broken', 'no table'), ('texts', 'broken', '<U3'), ('wide', 'broken', 'raw_action_dim 10, 8'),
    ('domain', 'broken', 'domain_id 7, 8 is needed'), ('no_data', 'broken', 'without actions'),
    ('null', 'broken', 'without actions')])
def test_misbehaviour_is_named_and_the_next_request_works(server, what, kind, message):
    policy = connect(server, retries=0)
    server.plan = [what]
    with pytest.raises(PolicyError, match=message):
        policy.generate(observation(np.full(7, 0.5)), 'go', seed=0)
    assert getattr(policy.counts, kind) == 1
    assert np.allclose(policy.generate(observation(np.full(7, 0.7)), 'go', seed=0).positions, 0.7)
    server.plan = [what]
    again = connect(server, retries=1)
    assert np.allclose(again.generate(observation(np.full(7, 0.3)), 'go', seed=0).positions, 0.3)
    assert again.counts.retries == 1 and again.counts.answers == 1


@pytest.mark.parametrize('what', ['stall', 'trickle', 'trickle_head'])
def test_a_server_that_does_not_finish_is_cut_off(server, what):
    policy = connect(server, timeout_s=0.4)
    server.plan = [what]
    with pytest.raises(PolicyError, match='in time'):
        policy.generate(observation(), 'go', seed=0)
    assert policy.counts.timeout == 1


@pytest.mark.parametrize('what', ['400', '401', '422'])
def test_a_refusal_is_neither_repeated_nor_held_against_the_server(server, what):
    policy = connect(server, retries=3, breaker_failures=1)
    server.plan = [what]
    with pytest.raises(PolicyError, match=f'HTTP {what}'):
        policy.generate(observation(), 'go', seed=0)
    assert len(server.requests) == 1
    policy.generate(observation(), 'go', seed=0)


def test_retry_after_is_honoured_and_the_breaker_opens():
    with NimServer(['429 for long']) as server:
        policy = connect(server)
        with pytest.raises(PolicyError, match='HTTP 429'):
            policy.generate(observation(), 'go', seed=0)
        with pytest.raises(PolicyError, match='asked to be left alone'):
            policy.generate(observation(), 'go', seed=0)
        assert len(server.requests) == 1 and policy.counts.skipped == 1
    with NimServer(['500'] * 3) as server:
        policy = connect(server, retries=0, breaker_failures=3, breaker_pause_s=60.0)
        for _ in range(3):
            with pytest.raises(PolicyError, match='HTTP 500'):
                policy.generate(observation(), 'go', seed=0)
        with pytest.raises(PolicyError, match='kept failing'):
            policy.generate(observation(), 'go', seed=0)
        assert len(server.requests) == 3


def test_closing_ends_the_wait_for_a_retry(server):
    policy = connect(server, backoff_s=60.0, timeout_s=600.0)
    server.plan = ['500']
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
    assert failed
    with pytest.raises(PolicyError, match='it is closed'):
        policy.generate(observation(), 'go', seed=0)


def test_a_server_that_is_not_there():
    with NimServer() as server:
        url = server.url
    policy = create_policy('nim', url=url, joint_names=JOINTS, timeout_s=5.0, backoff_s=0.0)
    with pytest.raises(PolicyError, match='ConnectionRefused'):
        policy.warm_up()
    assert policy.counts.connection == 2


def test_different_chunks_for_the_same_request_are_told(server, caplog):
    policy = connect(server)
    drawn = iter(range(10))
    server.handle = lambda handler, _: handler.reply(
        200, {'action': {'data': [[float(next(drawn))] * 8] * 32}})
    policy.warm_up()
    assert 'draws a new seed' in caplog.text


@pytest.mark.parametrize('change, message', [
    ({'url': 'ws://x'}, 'url:'), ({'url': 'http://'}, 'url:'), ({'url': 'http://me:key@x'}, 'environment'),
    ({'timeout_s': 0.0}, 'timeout_s: 0.0'), ({'retries': -1}, 'retries'), ({'retries': 0.5}, 'retries: 0.5'),
    ({'breaker_failures': 0}, 'breaker_failures'), ({'steps': 0}, 'steps: 0'),
    ({'guidance': 'x'}, 'guidance'), ({'joint_names': JOINTS[:6]}, '6 joints'),
    ({'api_key': 'x'}, 'options are url')])
def test_bad_settings(change, message):
    with pytest.raises(PolicyError, match=message):
        create_policy('nim', **({'url': 'http://127.0.0.1:9', 'joint_names': JOINTS} | change))


def test_an_empty_instruction_is_refused(server):
    with pytest.raises(PolicyError, match='instruction'):
        connect(server).generate(observation(), '  ', seed=0)
    assert server.requests == []
