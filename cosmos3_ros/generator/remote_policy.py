"""What all policies behind a server share: settings, limits of a request, the check of its answer, the chunk.

They speak the contract ``droid_joint`` and nothing else: on the wire an action row is seven joints in radians
and the gripper, 0 open .. 1 closed, as NVIDIA's server, vLLM-Omni and NIM give it (facts sheet 2b.8, 5).
"""

from collections.abc import Sequence
from dataclasses import dataclass
import logging
import os
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import ActionChunk, ModelIdentity, Observation
from cosmos3_ros.remote.http_exchange import ExchangeError
from cosmos3_ros.remote.server_client import ServerClient, ServerCounts

from . import droid_joint
from .option_types import check_types
from .policy import PolicyError

logger = logging.getLogger(__name__)

SHAPE = (droid_joint.HORIZON, droid_joint.WIDTH)


@dataclass(frozen=True, slots=True)
class RemoteSettings:
    """Where a server is and how much patience it gets.

    :param url: Address; which schemes are allowed says ``schemes``.
    :param joint_names: The robot's seven arm joints, base to wrist.
    :param timeout_s: Longest time of a request with everything that belongs to it.
    :param api_key_variable: Environment variable that holds the key; an unset one sends none.
    :param retries: Further attempts inside ``timeout_s``, where a second one does no harm.
    :param backoff_s: Wait before the first further attempt; doubled each time, or as the server says.
    :param breaker_failures: Failed requests in a row after which the server is left alone.
    :param breaker_pause_s: For how long.
    :param schemes: E.g. ``('http', 'https')``.
    :raises PolicyError: A setting or the robot does not fit.
    """

    url: str
    joint_names: Sequence[str]
    timeout_s: float
    api_key_variable: str
    retries: int
    backoff_s: float
    breaker_failures: int
    breaker_pause_s: float
    schemes: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check them all."""
        check_types({name: getattr(self, name) for name in _KINDS}, _KINDS)
        if not self.url.startswith(tuple(f'{scheme}://' for scheme in self.schemes)):
            allowed = ' or '.join(f'{scheme}://host:port' for scheme in self.schemes)
            raise PolicyError(f'url: {self.url!r} arrived, {allowed} is allowed')
        if not 0.05 <= self.timeout_s <= 600.0:
            raise PolicyError(f'timeout_s: {self.timeout_s} arrived, 0.05 to 600 is allowed')
        object.__setattr__(self, 'joint_names', droid_joint.check_robot(self.joint_names))

    @property
    def api_key(self) -> str:
        """The key, empty without one; never logged."""
        return os.environ.get(self.api_key_variable, '')


_KINDS = {
    'url': 'text', 'timeout_s': 'number', 'api_key_variable': 'text', 'retries': 'integer',
    'backoff_s': 'number', 'breaker_failures': 'integer', 'breaker_pause_s': 'number'}


@dataclass(frozen=True, slots=True, eq=False)
class RemoteAnswer:
    """What a server answered.

    :param actions: Shape (32, 8): joints in radians, gripper 0 open .. 1 closed; checked.
    :param seed: The seed that it was sent; 0 if the protocol carries none.
    :param steps: Likewise.
    :param guidance: Likewise, 1.
    """

    actions: NDArray[np.float64]
    seed: int = 0
    steps: int = 0
    guidance: float = 1.0


class RemotePolicy:
    """Fits :class:`policy.Policy`; a subclass composes requests and exchanges them.

    :param engine: How the server is asked, for :class:`ModelIdentity`.
    """

    name = ''
    contract = droid_joint.CONTRACT
    step_ns = droid_joint.STEP_NS
    horizon = droid_joint.HORIZON
    camera_slots = droid_joint.CAMERA_SLOTS

    def __init__(self, settings: RemoteSettings, engine: str) -> None:
        self.joint_names = tuple(settings.joint_names)
        self.identity = ModelIdentity(f'server {settings.url}', engine, trained=True)
        self._settings = settings
        self._url = settings.url
        self._clock_s = monotonic
        try:
            self._client = ServerClient(
                retries=settings.retries, backoff_s=settings.backoff_s,
                breaker_failures=settings.breaker_failures, breaker_pause_s=settings.breaker_pause_s,
                clock_s=self._clock_s)
        except ValueError as error:
            raise PolicyError(str(error)) from error
        self._requests = 0

    @property
    def counts(self) -> ServerCounts:
        """What happened with the server so far."""
        return self._client.counts

    def warm_up(self) -> None:
        """Make two requests on grey pictures: is there a server, does it speak this contract?

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
                'with --deterministic-seed, if it has that, to have repeatable runs', self._url)

    def generate(self, observation: Observation, instruction: str, *, seed: int) -> ActionChunk:
        """Compute one chunk; see :meth:`policy.Policy.generate`.

        :raises PolicyError: No answer in time, none that fits, or the server is being left alone. The next
            call starts afresh.
        """
        if self._client.closed:
            raise PolicyError(f'policy {self.name}: it is closed')
        if not instruction.strip():
            raise PolicyError('instruction: an empty text arrived, the task in words is needed')
        started_s = self._clock_s()
        try:
            self._client.check_ready()
            request = self._compose(observation, instruction, seed)
            deadline_s = started_s + self._settings.timeout_s
            answer = self._client.answer(lambda: self._exchange(request, deadline_s))
        except ExchangeError as error:
            raise PolicyError(f'{self._url}: {error}') from error
        self._requests += 1
        return ActionChunk(
            stamp_ns=observation.stamp_ns, step_ns=self.step_ns, joint_names=self.joint_names,
            positions=answer.actions[:, :droid_joint.ARM_JOINTS],
            gripper=np.clip(answer.actions[:, droid_joint.ARM_JOINTS], 0.0, 1.0), contract=self.contract,
            instruction=instruction, seed=answer.seed, steps=answer.steps, guidance=answer.guidance,
            policy=self.name, identity=self.identity,
            trace_id=f'{self.name}-{observation.stamp_ns}-{self._requests}',
            latency_s=self._clock_s() - started_s)

    def close(self) -> None:
        """End waits; further requests are refused. Any thread."""
        self._client.close()

    def _compose(self, observation: Observation, instruction: str, seed: int) -> Any:
        """Return the request's content, for :meth:`_exchange`."""
        raise NotImplementedError

    def _exchange(self, request: Any, deadline_s: float) -> RemoteAnswer:
        """Ask the server.

        :raises ExchangeError: No usable answer.
        """
        raise NotImplementedError


def check_actions(actions: Any) -> NDArray[np.float64]:
    """Return actions as float64 (32, 8).

    :param actions: Numbers of that shape; a leading batch dimension of one is taken off.
    :raises ExchangeError: Another shape or kind, or a number that is not finite.
    """
    array = actions if isinstance(actions, np.ndarray) else None
    if array is not None and array.ndim == len(SHAPE) + 1 and len(array) == 1:
        array = array[0]
    if array is None or array.shape != SHAPE or array.dtype.kind != 'f':
        arrived = type(actions).__name__ if array is None else f'{array.dtype} {array.shape}'
        raise ExchangeError(
            'broken', f'answered with action {arrived}, floats {SHAPE} are needed. Does it serve a '
            f'checkpoint with the contract {droid_joint.CONTRACT}?')
    if not np.isfinite(array).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ExchangeError(
            'broken', f'answered {array[row, column]} in row {row}, column {column}: no chunk')
    return array.astype(np.float64)
