"""Bring lifecycle nodes up and down through their services, and say why one refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import time
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.node import Node

from .console import CommandError

LOOK_S = 2.0
"""How often a pending call also looks at the node's state."""
POLL_S = 0.05
"""How often a pending call checks its answer and the node's process."""


class LifecycleError(CommandError):
    """A node did not make a transition. The text says which, and the node's own reason."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One transition: its id and the label of the state that it ends in."""

    transition: int
    label: str


STEPS = {
    'configure': _Step(Transition.TRANSITION_CONFIGURE, 'inactive'),
    'activate': _Step(Transition.TRANSITION_ACTIVATE, 'active'),
    'deactivate': _Step(Transition.TRANSITION_DEACTIVATE, 'inactive'),
    'cleanup': _Step(Transition.TRANSITION_CLEANUP, 'unconfigured'),
}


class LifecycleClient:
    """Drives one lifecycle node. The given node must be spun by somebody else's executor.

    :param node: The node to call from.
    :param target: Fully qualified or relative name of the lifecycle node.
    :param alive: Called while waiting; raises if the node's process has died.
    :param explain: Returns the node's own words on its last failure (its log or diagnostics).
    """

    def __init__(
        self,
        node: Node,
        target: str,
        *,
        alive: Callable[[], None],
        explain: Callable[[], str],
    ) -> None:
        self.target = target
        self._node = node
        self._alive = alive
        self._explain = explain
        self._change = node.create_client(ChangeState, f'{target}/change_state')
        self._get = node.create_client(GetState, f'{target}/get_state')

    def begin(self, step: str, timeout_s: float) -> PendingTransition:
        """Ask for a transition without waiting for its end, so that several nodes load at once.

        :param step: One of ``configure``, ``activate``, ``deactivate``, ``cleanup``.
        :raises LifecycleError: Unknown step, or the node's services do not appear in time.
        """
        if step not in STEPS:
            raise LifecycleError(f"'{step}' is no lifecycle step; allowed: {', '.join(STEPS)}")
        deadline = time.monotonic() + timeout_s
        while not self._change.service_is_ready():
            self._alive()
            if time.monotonic() > deadline:
                raise LifecycleError(
                    f'{self.target}: its lifecycle services did not appear within {timeout_s:.0f} s; '
                    f'{self._explain()}')
            time.sleep(POLL_S)
        request = ChangeState.Request()
        request.transition.id = STEPS[step].transition
        return PendingTransition(self, step, self._change.call_async(request), deadline, timeout_s)

    def run(self, step: str, timeout_s: float) -> None:
        """Make one transition and wait for it.

        :raises LifecycleError: The node refused, failed or did not answer; with its reason.
        """
        self.begin(step, timeout_s).wait()

    def state(self, timeout_s: float = 2.0) -> str:
        """Return the label of the node's present state, ``unknown`` if it does not answer."""
        if not self._get.service_is_ready():
            return 'unknown'
        future = self._get.call_async(GetState.Request())
        deadline = time.monotonic() + timeout_s
        while not future.done() and time.monotonic() < deadline:
            time.sleep(POLL_S)
        result = future.result() if future.done() else None
        return 'unknown' if result is None else str(result.current_state.label)


class PendingTransition:
    """A transition under way."""

    def __init__(
        self, client: LifecycleClient, step: str, future: Any, deadline: float, timeout_s: float,
    ) -> None:
        self._client = client
        self._step = step
        self._future = future
        self._deadline = deadline
        self._timeout_s = timeout_s

    @property
    def done(self) -> bool:
        """Whether the node has answered."""
        return bool(self._future.done())

    def wait(self) -> None:
        """Wait for the answer.

        :raises LifecycleError: The node refused, failed or did not answer in time.
        """
        client = self._client
        next_look = time.monotonic() + LOOK_S
        while not self._future.done():
            client._alive()
            if time.monotonic() > next_look:
                # The answer to a transition that took long can get lost; the state tells as well.
                if client.state() == STEPS[self._step].label and not self._future.done():
                    client._node.get_logger().warning(
                        f'{client.target}: no answer to {self._step}, but it is {STEPS[self._step].label}')
                    return
                next_look = time.monotonic() + LOOK_S
            if time.monotonic() > self._deadline:
                raise LifecycleError(
                    f'{client.target}: {self._step} did not end within {self._timeout_s:.0f} s; '
                    f'{client._explain()}')
            time.sleep(POLL_S)
        if not self._future.result().success:
            raise LifecycleError(f'{client.target}: {self._step} failed: {client._explain()}')
