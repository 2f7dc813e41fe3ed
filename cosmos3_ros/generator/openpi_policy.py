"""The policy ``openpi``: a policy server behind a websocket.

NVIDIA's server for Cosmos3-Nano-Policy-DROID and vLLM-Omni's robot endpoint speak it. The protocol is strict
lock-step without request ids (facts sheet 2b.9): a reply belongs to the last request on its connection. So
after a time-out, or anything else that was not expected, the connection is closed: what its server may still
answer can reach nobody.
"""

from collections.abc import Sequence
import logging
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import Observation
from cosmos3_ros.remote.http_exchange import ExchangeError
from cosmos3_ros.resources import require

from . import droid_joint
from .composed_view import DROID_VIEW, compose_view
from .msgpack_numpy import WireError, pack, unpack
from .remote_policy import RemoteAnswer, RemotePolicy, RemoteSettings, check_actions

logger = logging.getLogger(__name__)

# The largest reply that makes sense is a chunk with the imagined video (33 x 540 x 640 x 3 bytes); vLLM-Omni
# takes messages of up to 64 MiB too.
LARGEST_MESSAGE = 64 * 1024 * 1024
# How long a closing handshake may take; what is closed here is not used again.
CLOSE_TIMEOUT_S = 0.2
JOINT_SPACES = ('joint_position', 'joint_pos')


class OpenpiPolicy(RemotePolicy):
    """See :func:`create_openpi`."""

    name = 'openpi'

    def __init__(self, settings: RemoteSettings) -> None:
        super().__init__(settings, 'openpi/websocket')
        self.metadata: dict[str, Any] = {}
        self.reconnects = 0
        self._session = uuid4().hex
        self._connection: Any = None

    @property
    def _takes_seeds(self) -> bool:
        """vLLM-Omni's endpoint takes a seed with each request; NVIDIA's, which sends no metadata, none."""
        return bool(self.metadata.get('needs_session_id'))

    def close(self) -> None:
        """Close the connection, also under a request that waits in another thread."""
        super().close()
        self._drop()

    def _compose(self, observation: Observation, instruction: str, seed: int) -> dict[str, Any]:
        state = droid_joint.state_row(observation, self.joint_names).astype(np.float64)
        return {
            'prompt': instruction, 'observation/image': compose_view(observation.images, DROID_VIEW),
            'observation/joint_position': state[:droid_joint.ARM_JOINTS],
            'observation/gripper_position': np.array([observation.gripper]), 'seed': seed}

    def _exchange(self, request: dict[str, Any], deadline_s: float) -> RemoteAnswer:
        try:
            actions = self._client.request(lambda: self._ask(request, deadline_s), deadline_s)
        except BaseException:
            self._drop()
            raise
        return RemoteAnswer(actions, seed=request['seed'] if self._takes_seeds else 0)

    def _pack(self, request: dict[str, Any]) -> bytes:
        content = dict(request)
        if not self._takes_seeds:
            del content['seed']
        else:
            content['session_id'] = self._session
        return pack(content)

    def _ask(self, request: dict[str, Any], deadline_s: float) -> NDArray[np.float64]:
        exceptions = require('websockets.exceptions', 'remote')
        for attempt in (1, 2):
            fresh = self._connection is None
            connection = self._connect(deadline_s) if fresh else self._connection
            try:
                if not fresh:
                    self._check_silence(connection)
                connection.send(self._pack(request))
                reply = self._receive(connection, deadline_s)
            except (exceptions.ConnectionClosed, OSError) as error:
                # Servers close idle connections (vLLM-Omni after 30 s): once, ask again on a new one.
                if fresh or attempt == 2 or self._client.closed:
                    raise ExchangeError('connection', f'closed the connection: {error}') from error
                self._drop()
                continue
            return read_actions(reply)
        raise AssertionError('unreachable')

    def _check_silence(self, connection: Any) -> None:
        try:
            connection.recv(timeout=0)
        except TimeoutError:
            return
        raise ConnectionResetError('it spoke without being asked')

    def _receive(self, connection: Any, deadline_s: float) -> Any:
        try:
            return connection.recv(timeout=max(0.0, deadline_s - self._clock_s()))
        except TimeoutError as error:
            raise ExchangeError(
                'timeout', f'did not answer within {self._settings.timeout_s:g} s (option timeout_s)'
            ) from error

    def _connect(self, deadline_s: float) -> Any:
        client = require('websockets.sync.client', 'remote')
        exceptions = require('websockets.exceptions', 'remote')
        left_s = max(0.001, deadline_s - self._clock_s())
        key = self._settings.api_key
        headers = {'Authorization': f'Api-Key {key}'} if key else None
        try:
            # A peer that answers no ping is found by the deadline; the servers compute without answering.
            self._connection = client.connect(
                self._url, compression=None, max_size=LARGEST_MESSAGE, open_timeout=left_s,
                close_timeout=CLOSE_TIMEOUT_S, ping_interval=None, proxy=None, additional_headers=headers)
            if self._client.closed:
                raise ExchangeError('connection', 'the policy was closed meanwhile')
            greeting = self._receive(self._connection, deadline_s)
        except exceptions.InvalidStatus as error:
            raise self._refusal(int(error.response.status_code)) from error
        except (OSError, exceptions.WebSocketException) as error:
            kind = 'timeout' if isinstance(error, TimeoutError) else 'connection'
            raise ExchangeError(
                kind, f'cannot be reached ({type(error).__name__}: {error}); is the server running?'
            ) from error
        self.reconnects += 1
        self.metadata = check_metadata(_decode(greeting))
        return self._connection

    def _refusal(self, status: int) -> ExchangeError:
        if status in (401, 403):
            return ExchangeError(
                'refused', f'refuses the connection with HTTP {status}; it wants another key in the '
                f'environment variable {self._settings.api_key_variable} (option api_key_variable)',
                status=status)
        kind = 'busy' if status == 429 else 'server' if status >= 500 else 'refused'
        return ExchangeError(kind, f'refuses the connection with HTTP {status}', status=status)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.close()
        except Exception as error:  # it is thrown away whatever is wrong with it
            logger.debug('closing %s: %s', self._url, error)


def _decode(reply: Any) -> Any:
    """Return a message's content; an error's text, or vLLM-Omni's error map, is raised."""
    if isinstance(reply, str):
        lines = reply.strip().splitlines() or ['(no text)']
        raise ExchangeError('server', f'reports an error: {lines[-1][:300]}')
    try:
        content = unpack(reply)
    except WireError as error:
        raise ExchangeError('broken', f'answered with something else: {error}') from error
    if isinstance(content, dict) and content.get('type') == 'error':
        raise ExchangeError('server', f'reports an error: {str(content.get("message"))[:300]}')
    return content


def check_metadata(metadata: Any) -> dict[str, Any]:
    """Return the server's first message; refuse a server of another contract.

    :raises ExchangeError: No map, or its pictures, rows or joints are not the DROID policy's.
    """
    if not isinstance(metadata, dict):
        raise ExchangeError('broken', f'greets with a {type(metadata).__name__}, a map is needed')
    wanted: dict[str, tuple[Any, ...]] = {
        'image_resolution': ([DROID_VIEW.height, DROID_VIEW.width],),
        'action_horizon': (droid_joint.HORIZON,), 'action_dim': (droid_joint.WIDTH,),
        'action_space': JOINT_SPACES}
    for key, allowed in wanted.items():
        value = metadata.get(key)
        if value is not None and value not in allowed:
            raise ExchangeError(
                'refused', f'serves another contract: its {key} is {value}, this policy needs '
                f'{" or ".join(str(item) for item in allowed)}')
    return {str(key): value for key, value in metadata.items()}


def read_actions(reply: Any) -> NDArray[np.float64]:
    """Return the actions (32, 8): joints in radians, gripper 0 open .. 1 closed.

    NVIDIA's server sends a map with ``action``, vLLM-Omni's the array alone or a map with ``actions``.

    :raises ExchangeError: An error's text, other bytes, another shape, or a number that is not finite.
    """
    content = _decode(reply)
    if isinstance(content, dict):
        content = content.get('action', content.get('actions'))
    elif not isinstance(content, np.ndarray):
        raise ExchangeError('broken', f'answered with a {type(content).__name__}, a map or array is needed')
    return check_actions(content)


def create_openpi(
    *, url: str, joint_names: Sequence[str], timeout_s: float = 5.0, api_key_variable: str = 'OPENPI_API_KEY',
    breaker_failures: int = 5, breaker_pause_s: float = 1.0,
) -> OpenpiPolicy:
    """Build the policy; nothing is connected before the first request.

    A failed request is not made again: the node asks with a newer observation soon enough.

    :param url: ``ws://host:port`` of NVIDIA's server, with ``/v1/realtime/robot/openpi`` of vLLM-Omni.
    :param joint_names: The robot's seven arm joints, base to wrist.
    :param timeout_s: Longest time of a request, connecting included.
    :param api_key_variable: Environment variable with the key, sent as ``Authorization: Api-Key``.
    :param breaker_failures: See :class:`RemoteSettings`.
    :param breaker_pause_s: Likewise.
    :raises PolicyError: A setting or the robot does not fit.
    """
    require('websockets', 'remote')
    return OpenpiPolicy(RemoteSettings(
        url, joint_names, timeout_s, api_key_variable, 0, 0.0, breaker_failures, breaker_pause_s,
        ('ws', 'wss')))
