"""The documented bytes, and a server that misbehaves in every way that was seen or feared."""

import contextlib
import random
import threading
import time

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from cosmos3_ros.contracts import Observation
from cosmos3_ros.generator.msgpack_numpy import WireError, pack, unpack
from cosmos3_ros.generator.policy import Policy, PolicyError, create_policy

JOINTS = tuple(f'panda_joint{i}' for i in range(1, 8))

websockets_server = pytest.importorskip(
    'websockets.sync.server', reason="the extra 'remote' is not installed")


# Wire ------------------------------------------------------------------------------------------


def test_the_documented_bytes():
    two = np.array([1.0, 2.0], np.float32)
    assert pack(two).hex() == (
        '84c40b5f5f6e6461727261795f5fc3c40464617461c4080000803f00000040c4056474797065a33c6634c4057368617065'
        '9102')
    scalar = np.float32(0.25)
    assert pack(scalar).hex() == (
        '83c40d5f5f6e7067656e657269635f5fc3c40464617461cb3fd0000000000000c4056474797065a33c6634')
    image = pack(np.zeros((540, 640, 3), np.uint8))
    assert len(image) == 1_036_852 and image[-15:].hex() == 'c405736861706593cd021ccd028003'
    assert image[:26].hex() == '84c40b' + b'__ndarray__'.hex() + 'c3c404' + b'data'.hex() + 'c6000fd200'
    assert pack({}) == b'\x80' and unpack(b'\x80') == {}
    reply = pack({'action': np.zeros((32, 8), np.float32), 'server_timing': {'infer_ms': 1.0}})
    assert len(reply) == 1110 and reply[:8].hex() == '82a6616374696f6e'


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2**63, 2**64 - 1) | st.floats(allow_nan=False)
    | st.text(max_size=40) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20)


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_values_come_back(value):
    assert unpack(pack(value)) == value


@pytest.mark.parametrize('size', [0, 1, 15, 16, 31, 32, 255, 256, 65535, 65536])
def test_every_size(size):
    for value in ('x' * size, b'x' * size, [1] * size, {i: i for i in range(size)}):
        assert unpack(pack(value)) == value


@pytest.mark.parametrize('dtype', ['u1', 'f4', 'f8', 'i8', '?', 'U4', '>i2'])
def test_arrays_come_back(dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    back = unpack(pack({'a': array[:, ::2]}))['a']
    assert back.dtype == array.dtype and (back == array[:, ::2]).all() and not back.flags.writeable


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data):
    with contextlib.suppress(WireError):
        unpack(data)


def test_a_cut_message_is_refused_everywhere():
    whole = pack({'action': np.zeros((2, 2), np.float32), 'n': 70000, 't': 'x' * 40})
    for end in range(len(whole)):
        with pytest.raises(WireError):
            unpack(whole[:end])
    with pytest.raises(WireError, match='follow'):
        unpack(whole + b'\x00')


@pytest.mark.parametrize('value', [object(), 1j, np.array([1j]), np.array([object()]), 2**70])
def test_what_has_no_form_is_refused(value):
    with pytest.raises(WireError):
        pack(value)


# Policy ----------------------------------------------------------------------------------------


def answer(request):
    """A chunk that says which request it belongs to: its rows are the request's joints."""
    rows = np.zeros((32, 8), np.float32)
    rows[:, :7] = request['observation/joint_position']
    rows[:, 7] = np.linspace(-0.2, 1.2, 32)
    return rows


class Server:
    """Takes what to do from a list, one entry per request; ``ok`` when it is empty."""

    def __init__(self, metadata=None):
        self.plan, self.requests, self.connections = [], [], 0
        self.metadata = {} if metadata is None else metadata
        self.greets, self._late = True, threading.Event()
        self._server = websockets_server.serve(self._serve, '127.0.0.1', 0, compression=None, max_size=None)
        self.port = self._server.socket.getsockname()[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._late.set()
        self._server.shutdown()

    def _serve(self, connection):
        self.connections += 1
        if self.greets:
            connection.send(self.metadata if isinstance(self.metadata, (str, bytes)) else pack(self.metadata))
        for message in connection:
            request = unpack(message)
            self.requests.append(request)
            what = self.plan.pop(0) if self.plan else 'ok'
            rows = answer(request)
            if what == 'ok':
                connection.send(pack({'action': rows, 'server_timing': {'infer_ms': 1.0}}))
            elif what == 'stall':
                continue
            elif what == 'late':  # answers after the client has given up
                time.sleep(0.4)
                try:
                    connection.send(pack({'action': rows + 100.0}))
                except Exception:
                    return
            elif what == 'twice':  # a second reply that nobody asked for
                connection.send(pack({'action': rows}))
                connection.send(pack({'action': rows + 100.0}))
            elif what == 'close':
                return
            elif what == 'answer_and_close':
                connection.send(pack({'action': rows}))
                return
            elif what == 'error':
                connection.send('Traceback (most recent call last):\n  File "x"\nKeyError: prompt\n')
                connection.close(1011, 'Internal server error.')
                return
            elif what == 'nan':
                rows[3, 2] = np.nan
                connection.send(pack({'action': rows}))
            else:
                connection.send(what if isinstance(what, (bytes, str)) else pack(what))


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


@pytest.fixture
def policy(server):
    made = create_policy(
        'openpi', url=f'ws://127.0.0.1:{server.port}', joint_names=JOINTS, timeout_s=0.25)
    yield made
    made.close()


def observation(joints=None, stamp_ns=5):
    picture = np.full((36, 64, 3), 90, np.uint8)
    return Observation(
        stamp_ns=stamp_ns, skew_ns=0, joint_names=JOINTS, gripper=0.25,
        joint_position=np.arange(7) / 10 if joints is None else joints,
        images=dict.fromkeys(('wrist', 'exterior_1', 'exterior_2'), picture))


def test_a_request_and_a_chunk(server, policy):
    assert isinstance(policy, Policy) and server.connections == 0
    chunk = policy.generate(observation(), 'reach the cube', seed=3)
    request = server.requests[0]
    assert request['prompt'] == 'reach the cube'
    assert request['observation/image'].shape == (540, 640, 3)
    assert request['observation/image'].dtype == np.uint8
    assert np.allclose(request['observation/joint_position'], np.arange(7) / 10, atol=1e-7)
    assert request['observation/gripper_position'] == [0.25]
    assert np.allclose(chunk.positions, np.arange(7) / 10, atol=1e-6) and chunk.positions.shape == (32, 7)
    assert chunk.gripper[0] == 0.0 and chunk.gripper[-1] == 1.0 and chunk.stamp_ns == 5
    policy.generate(observation(), 'go', seed=3)
    assert server.connections == 1 and 'session_id' not in request


@pytest.mark.parametrize('what, message', [
    ('stall', 'did not answer within 0.25 s'), ('late', 'did not answer within'),
    ('close', 'closed the connection'), ('error', 'reports an error: KeyError: prompt'),
    ('nan', 'nan in row 3, column 2'), ({'action': np.zeros((16, 8), np.float32)}, 'float32 .16, 8.'),
    ({'action': np.zeros((32, 10), np.float32)}, 'contract droid_joint'),
    ({'action': np.zeros((32, 8), np.int32)}, 'int32'), ({'action': [[0.0] * 8] * 32}, 'action list'),
    ({}, 'action NoneType'), ([1, 2], 'a list, a map or array is needed'), (b'\xc1', 'something else'),
    (b'\x84\xc4', 'ends'), ('', 'reports an error: .no text.')])
def test_misbehaviour_is_named_and_the_next_request_works(server, policy, what, message):
    policy.generate(observation(), 'go', seed=0)
    server.plan = [what, what] if what == 'close' else [what]
    with pytest.raises(PolicyError, match=message):
        policy.generate(observation(np.full(7, 0.5)), 'go', seed=0)
    chunk = policy.generate(observation(np.full(7, 0.7)), 'go', seed=0)
    assert np.allclose(chunk.positions, 0.7)


def test_a_connection_closed_while_idle_is_made_anew(server, policy):
    server.plan = ['answer_and_close']
    policy.generate(observation(), 'go', seed=0)
    assert np.allclose(policy.generate(observation(np.full(7, 0.3)), 'go', seed=0).positions, 0.3)
    assert server.connections == 2 == policy.reconnects


def test_no_chunk_is_ever_another_requests(server):
    policy = create_policy(
        'openpi', url=f'ws://127.0.0.1:{server.port}', joint_names=JOINTS, timeout_s=5.0,
        breaker_failures=1000)
    source = random.Random(4)
    kinds = ['ok'] * 6 + ['twice', 'close', 'error', 'nan', 'answer_and_close', {'action': 3}, b'\x00\x01']
    made = 0
    for i in range(200):
        server.plan = [source.choice(kinds)]
        joints = np.full(7, i / 1000)
        try:
            chunk = policy.generate(observation(joints, stamp_ns=i), 'go', seed=0)
        except PolicyError:
            continue
        made += 1
        assert np.allclose(chunk.positions, joints, atol=1e-6) and chunk.stamp_ns == i
    assert 60 < made < 200


def test_a_server_that_is_not_there_or_does_not_greet(server):
    with pytest.raises(PolicyError, match='cannot be reached'):
        create_policy('openpi', url='ws://127.0.0.1:9', joint_names=JOINTS, timeout_s=0.5).warm_up()
    server.greets = False
    silent = create_policy(
        'openpi', url=f'ws://127.0.0.1:{server.port}', joint_names=JOINTS, timeout_s=0.2)
    with pytest.raises(PolicyError, match='did not answer'):
        silent.warm_up()


def test_metadata_is_checked_and_sessions_are_named():
    for metadata, message in (
            ({'image_resolution': [180, 320]}, 'its image_resolution is .180, 320.'),
            ({'action_horizon': 16}, 'its action_horizon is 16, this policy needs 32'),
            ({'action_space': 'cartesian_velocity'}, 'its action_space is cartesian_velocity'),
            (b'\x91\x01', 'greets with a list'), ('boom', 'reports an error: boom'),
            (b'\xc1', 'something else')):
        server = Server(metadata)
        made = create_policy(
            'openpi', url=f'ws://127.0.0.1:{server.port}', joint_names=JOINTS, timeout_s=1.0)
        with pytest.raises(PolicyError, match=message):
            made.generate(observation(), 'go', seed=0)
        server.close()
    server = Server({'needs_session_id': True, 'image_resolution': (540, 640)})
    made = create_policy('openpi', url=f'ws://127.0.0.1:{server.port}', joint_names=JOINTS, timeout_s=1.0)
    made.warm_up()
    made.close()
    assert len(server.requests[1]['session_id']) == 32
    server.close()


def test_vllm_omni_answers_arrays_takes_seeds_and_sends_error_maps(server, policy):
    server.metadata = {
        'image_resolution': [540, 640], 'n_external_cameras': 2, 'needs_wrist_camera': True,
        'needs_stereo_camera': False, 'needs_session_id': True, 'action_space': 'joint_position'}
    rows = np.full((32, 8), 0.5, np.float32)
    for reply in (rows, rows[None], {'actions': rows}):
        server.plan = [pack(reply)]
        chunk = policy.generate(observation(), 'go', seed=11)
        assert (chunk.positions == 0.5).all() and chunk.seed == 11
    assert [request['seed'] for request in server.requests] == [11] * 3
    assert len({request['session_id'] for request in server.requests}) == 1
    server.plan = [{'type': 'error', 'message': 'Internal inference error'}]
    with pytest.raises(PolicyError, match='reports an error: Internal inference error'):
        policy.generate(observation(), 'go', seed=0)
    server.metadata = {}
    assert policy.generate(observation(), 'go', seed=11).seed == 0
    assert 'seed' not in server.requests[-1], "NVIDIA's server draws its own"


def test_the_key_comes_from_the_environment_and_a_refusal_names_it(monkeypatch):
    keys = []

    def check(connection, request):
        keys.append(request.headers.get('Authorization', ''))
        return connection.respond(401, 'who are you') if keys[-1] != 'Api-Key right' else None

    def serve(connection):
        connection.send(pack({}))
        for message in connection:
            connection.send(pack({'action': answer(unpack(message))}))

    with websockets_server.serve(serve, '127.0.0.1', 0, process_request=check, max_size=None) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        policy = create_policy(
            'openpi', url=f'ws://127.0.0.1:{made.socket.getsockname()[1]}', joint_names=JOINTS,
            timeout_s=20.0, api_key_variable='MY_ROBOT_KEY', breaker_failures=1)
        with pytest.raises(PolicyError, match=r'HTTP 401; it wants another key .* MY_ROBOT_KEY'):
            policy.generate(observation(), 'go', seed=0)
        monkeypatch.setenv('MY_ROBOT_KEY', 'right')
        assert np.allclose(policy.generate(observation(), 'go', seed=0).positions, np.arange(7) / 10)
        assert keys == ['', 'Api-Key right'] and policy.counts.refused == 1
        assert 'right' not in repr(vars(policy)).replace('copyright', '')
        policy.close()


def test_closing_ends_a_request_that_waits_and_none_follows(server):
    server.plan = ['ok', 'stall']
    policy = create_policy(
        'openpi', url=f'ws://127.0.0.1:{server.port}', joint_names=JOINTS, timeout_s=600.0)
    policy.generate(observation(), 'go', seed=0)
    errors = []

    def ask():
        try:
            policy.generate(observation(), 'go', seed=0)
        except PolicyError as error:
            errors.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    while len(server.requests) < 2:
        time.sleep(0.005)
    policy.close()
    thread.join(30.0)
    assert errors and 'closed the connection' in errors[0]
    assert server.connections == 1 and len(server.requests) == 2, 'it did not connect again'
    with pytest.raises(PolicyError, match='it is closed'):
        policy.generate(observation(), 'go', seed=0)


def test_a_server_that_keeps_failing_is_left_alone(server):
    policy = create_policy(
        'openpi', url=f'ws://127.0.0.1:{server.port}', joint_names=JOINTS, timeout_s=20.0,
        breaker_failures=3, breaker_pause_s=60.0)
    server.plan = ['error'] * 3
    for _ in range(3):
        with pytest.raises(PolicyError, match='KeyError'):
            policy.generate(observation(), 'go', seed=0)
    with pytest.raises(PolicyError, match='left alone for another'):
        policy.generate(observation(), 'go', seed=0)
    assert len(server.requests) == 3 and policy.counts.skipped == 1 and policy.counts.server == 3


@pytest.mark.parametrize('change, message', [
    ({'url': 'http://x'}, 'url:'), ({'url': ''}, 'url:'), ({'timeout_s': 0.0}, 'timeout_s: 0.0'),
    ({'joint_names': JOINTS[:6]}, '6 joints'), ({'speed': 3}, 'options are url')])
def test_bad_settings(change, message):
    with pytest.raises(PolicyError, match=message):
        create_policy('openpi', **({'url': 'ws://127.0.0.1:9', 'joint_names': JOINTS} | change))
