"""The policy ``openpi``: a policy server behind a websocket, such as NVIDIA's for Cosmos3-Nano-Policy-DROID.

The protocol is strict lock-step without request ids (facts sheet 2b.9): a reply belongs to the last request
on its connection. So after a time-out, or anything else that was not expected, the connection is closed:
what its server may still answer can reach nobody.
"""

from collections.abc import Sequence
import logging
from time import monotonic, perf_counter
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import ActionChunk, ModelIdentity, Observation
from cosmos3_ros.resources import require

from . import droid_joint
from .composed_view import DROID_VIEW, compose_view
from .msgpack_numpy import WireError, pack, unpack
from .option_types import check_types
from .policy import PolicyError

logger = logging.getLogger(__name__)


class OpenpiPolicy:
    """See :func:`create_openpi`. Fits :class:`policy.Policy`."""

    name = 'openpi'
    contract = droid_joint.CONTRACT
    step_ns = droid_joint.STEP_NS
    horizon = droid_joint.HORIZON
    camera_slots = droid_joint.CAMERA_SLOTS

    def __init__(
        self, url: str, joint_names: tuple[str, ...], timeout_s: float, api_key: str | None,
    ) -> None:
        self.joint_names = joint_names
        self.identity = ModelIdentity(f'server {url}', 'openpi/websocket', trained=True)
        self.metadata: dict[str, Any] = {}
        self.reconnects = 0
        self._url, self._timeout_s, self._api_key = url, timeout_s, api_key
        self._session = uuid4().hex
        self._connection: Any = None
        self._requests = 0
        self._closed = False

    def warm_up(self) -> None:
        """Connect, check what the server says about itself, and make two requests on grey pictures.

        :raises PolicyError: The server does not answer, or not in this contract.
        """
        grey = np.full((360, 640, 3), 127, np.uint8)
        observation = Observation(
            stamp_ns=0, images=dict.fromkeys(self.camera_slots, grey), joint_names=self.joint_names,
            joint_position=np.zeros(len(self.joint_names)), gripper=0.0, skew_ns=0)
        first, second = (self.generate(observation, 'warm up', seed=0) for _ in range(2))
        if first.positions.tobytes() != second.positions.tobytes():
            logger.warning(
                '%s gives different chunks for the same request: it draws a new seed each time. Start it '
                'with --deterministic-seed to have repeatable runs', self._url)

    def generate(self, observation: Observation, instruction: str, *, seed: int) -> ActionChunk:  # noqa: ARG002
        """Compute one chunk; see :meth:`policy.Policy.generate`.

        The protocol carries no seed, steps or guidance: the chunk's are 0, 0 and 1, the server's count.

        :raises PolicyError: No answer in time, or none that fits. The next call starts afresh.
        """
        if self._closed:
            raise PolicyError('policy openpi: it is closed')
        if not instruction.strip():
            raise PolicyError('instruction: an empty text arrived, the task in words is needed')
        started = perf_counter()
        request = self._request(observation, instruction)
        try:
            actions = self._ask(pack(request), monotonic() + self._timeout_s)
        except BaseException:
            self._drop()
            raise
        self._requests += 1
        return ActionChunk(
            stamp_ns=observation.stamp_ns, step_ns=self.step_ns, joint_names=self.joint_names,
            positions=actions[:, :droid_joint.ARM_JOINTS],
            gripper=np.clip(actions[:, droid_joint.ARM_JOINTS], 0.0, 1.0), contract=self.contract,
            instruction=instruction, seed=0, steps=0, guidance=1.0, policy=self.name, identity=self.identity,
            trace_id=f'openpi-{observation.stamp_ns}-{self._requests}', latency_s=perf_counter() - started)

    def close(self) -> None:
        """Close the connection."""
        self._closed = True
        self._drop()

    def _request(self, observation: Observation, instruction: str) -> dict[str, Any]:
        state = droid_joint.state_row(observation, self.joint_names).astype(np.float64)
        request: dict[str, Any] = {
            'prompt': instruction, 'observation/image': compose_view(observation.images, DROID_VIEW),
            'observation/joint_position': state[:droid_joint.ARM_JOINTS],
            'observation/gripper_position': np.array([observation.gripper])}
        if self.metadata.get('needs_session_id'):
            request['session_id'] = self._session
        return request

    def _ask(self, message: bytes, deadline: float) -> NDArray[np.float64]:
        exceptions = require('websockets.exceptions', 'remote')
        for attempt in (1, 2):
            fresh = self._connection is None
            connection = self._connect(deadline) if fresh else self._connection
            try:
                if not fresh:
                    self._check_silence(connection)
                connection.send(message)
                reply = self._receive(connection, deadline)
            except (exceptions.ConnectionClosed, OSError) as error:
                # Servers close idle connections (vLLM-Omni after 30 s): once, ask again on a new one.
                if fresh or attempt == 2:
                    raise PolicyError(f'{self._url} closed the connection: {error}') from error
                self._drop()
                continue
            return read_actions(reply, self._url)
        raise AssertionError('unreachable')

    def _check_silence(self, connection: Any) -> None:
        try:
            connection.recv(timeout=0)
        except TimeoutError:
            return
        raise ConnectionResetError('it spoke without being asked')

    def _receive(self, connection: Any, deadline: float) -> Any:
        try:
            return connection.recv(timeout=max(0.0, deadline - monotonic()))
        except TimeoutError as error:
            raise PolicyError(
                f'{self._url} did not answer within {self._timeout_s:g} s (option timeout_s)') from error

    def _connect(self, deadline: float) -> Any:
        client = require('websockets.sync.client', 'remote')
        exceptions = require('websockets.exceptions', 'remote')
        left = max(0.001, deadline - monotonic())
        headers = {'Authorization': f'Api-Key {self._api_key}'} if self._api_key else None
        try:
            # A peer that answers no ping is found by the deadline; the servers compute without answering.
            self._connection = client.connect(
                self._url, compression=None, max_size=None, open_timeout=left, close_timeout=0.2,
                ping_interval=None, proxy=None, additional_headers=headers)
            greeting = self._receive(self._connection, deadline)
        except (OSError, exceptions.WebSocketException, TimeoutError) as error:
            raise PolicyError(
                f'{self._url} cannot be reached ({type(error).__name__}: {error}); is the server running?'
            ) from error
        self.reconnects += 1
        self.metadata = check_metadata(_decode(greeting, self._url), self._url)
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.close()
        except Exception as error:  # it is thrown away whatever is wrong with it
            logger.debug('closing %s: %s', self._url, error)


def _decode(reply: Any, url: str) -> dict[Any, Any]:
    if isinstance(reply, str):
        lines = reply.strip().splitlines() or ['(no text)']
        raise PolicyError(f'{url} reports an error: {lines[-1][:300]}')
    try:
        content = unpack(reply)
    except WireError as error:
        raise PolicyError(f'{url} answered with something else: {error}') from error
    if not isinstance(content, dict):
        raise PolicyError(f'{url} answered with a {type(content).__name__}, a map is needed')
    return content


def check_metadata(metadata: dict[Any, Any], url: str) -> dict[str, Any]:
    """Return the server's first message; refuse a server that wants other pictures.

    :raises PolicyError: Its resolution is not the DROID policy's.
    """
    resolution = metadata.get('image_resolution')
    if resolution is not None and list(resolution) != [DROID_VIEW.height, DROID_VIEW.width]:
        raise PolicyError(
            f'{url} wants pictures of {resolution}; this policy sends {DROID_VIEW.height}x{DROID_VIEW.width}')
    return {str(key): value for key, value in metadata.items()}


def read_actions(reply: Any, url: str) -> NDArray[np.float64]:
    """Return the actions (32, 8): joints in radians, gripper 0 open .. 1 closed.

    :raises PolicyError: An error's text, other bytes, another shape, or a number that is not finite.
    """
    actions = _decode(reply, url).get('action')
    wanted = (droid_joint.HORIZON, droid_joint.WIDTH)
    if not isinstance(actions, np.ndarray) or actions.shape != wanted or actions.dtype.kind != 'f':
        arrived = (f'{actions.dtype} {actions.shape}' if isinstance(actions, np.ndarray)
                   else type(actions).__name__)
        raise PolicyError(
            f'{url} answered with action {arrived}, floats {wanted} are needed. Does it serve a checkpoint '
            f'with the contract {droid_joint.CONTRACT}?')
    if not np.isfinite(actions).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(actions))[0])
        raise PolicyError(f'{url} answered {actions[row, column]} in row {row}, column {column}: no chunk')
    return actions.astype(np.float64)


def create_openpi(
    *, url: str, joint_names: Sequence[str], timeout_s: float = 5.0, api_key: str | None = None,
) -> OpenpiPolicy:
    """Build the policy; nothing is connected before the first request.

    :param url: ``ws://host:port`` of NVIDIA's server, with ``/v1/realtime/robot/openpi`` of vLLM-Omni.
    :param joint_names: The robot's seven arm joints, base to wrist.
    :param timeout_s: Longest time of a request, connecting included.
    :param api_key: Sent as ``Authorization: Api-Key``.
    :raises PolicyError: A setting or the robot does not fit.
    """
    check_types(locals(), {'url': 'text', 'timeout_s': 'number', 'api_key': 'text or none'})
    if not url.startswith(('ws://', 'wss://')):
        raise PolicyError(f'url: {url!r} arrived, ws://host:port or wss://host:port is allowed')
    if not 0.05 <= timeout_s <= 600.0:
        raise PolicyError(f'timeout_s: {timeout_s} arrived, 0.05 to 600 is allowed')
    require('websockets', 'remote')
    return OpenpiPolicy(url, droid_joint.check_robot(joint_names), float(timeout_s), api_key)
