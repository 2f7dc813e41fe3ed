"""A ROS node of the command line, spun in the background, with calls that wait and can time out."""

from __future__ import annotations

from collections.abc import Callable
import threading
import time
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from .console import CommandError

POLL_S = 0.02


class CallError(CommandError):
    """A service or an action did not answer, or did not appear."""


class RosSession:
    """One node and one thread that spins it. Use as a context manager.

    Signals stay with the caller: Ctrl-C must stop the child processes in order, and rclpy's own handler
    would tear this node down first.

    :param name: Name of the node.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._context = rclpy.Context()
        self._thread: threading.Thread | None = None
        self._executor: SingleThreadedExecutor | None = None
        self.node: Node = None

    def __enter__(self) -> RosSession:
        """Create the node and start to spin."""
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = Node(
            self._name, context=self._context, use_global_arguments=False, enable_rosout=False,
            start_parameter_services=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, name='ros', daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop spinning and leave the graph."""
        if self._executor is not None:
            self._executor.shutdown(timeout_sec=1.0)
        if self._thread is not None:
            self._thread.join(timeout=1.0)
        self.node.destroy_node()
        self._context.try_shutdown()

    def _spin(self) -> None:
        assert self._executor is not None
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return

    def wait_for(
        self, condition: Callable[[], bool], timeout_s: float, alive: Callable[[], None] | None = None,
    ) -> bool:
        """Wait until the condition holds; return False when the time is up.

        :param alive: Called while waiting; raises if waiting has become pointless.
        """
        deadline = time.monotonic() + timeout_s
        while not condition():
            if alive is not None:
                alive()
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True

    def call(
        self, client: Any, request: Any, timeout_s: float, alive: Callable[[], None] | None = None,
    ) -> Any:
        """Call a service and return its response.

        :raises CallError: The service does not exist or does not answer in time.
        """
        if not self.wait_for(client.service_is_ready, timeout_s, alive):
            raise CallError(f'{client.srv_name}: the service did not appear within {timeout_s:.0f} s')
        return self.result(client.call_async(request), str(client.srv_name), timeout_s, alive)

    def result(
        self, future: Any, what: str, timeout_s: float, alive: Callable[[], None] | None = None,
    ) -> Any:
        """Wait for a future and return its result.

        :param what: How the error calls it.
        :raises CallError: No result in time.
        """
        if not self.wait_for(future.done, timeout_s, alive):
            future.cancel()
            raise CallError(f'{what}: no answer within {timeout_s:.0f} s')
        return future.result()
