"""A real ROS graph in this process: nodes under test in one executor, a client in another."""

from collections.abc import Callable
from contextlib import suppress
import threading
import time
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.exceptions import InvalidHandle
from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile

RCLError = rclpy_implementation.RCLError

# Bound of every wait; reached only when something is broken.
LIMIT_S = 40.0


class Graph:
    """Nodes under test and one client node, spun in threads of their own."""

    def __init__(self, domain: int) -> None:
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.client = Node('client', context=self.context)
        self._client_executor = SingleThreadedExecutor(context=self.context)
        self._client_executor.add_node(self.client)
        self._executors: list[Any] = [self._client_executor]
        self.nodes: list[Any] = []
        self._threads: list[threading.Thread] = []
        self._spin(self._client_executor)

    def _spin(self, executor: Any) -> None:
        def spin() -> None:
            while self.context.ok() and not executor._is_shutdown:
                # As in nodes/run.py: an entity may be destroyed while the executor collects them. And an
                # ActionClient is shown to it before it is whole (rclpy 9.1: no _lock yet).
                with suppress(InvalidHandle, RCLError, AttributeError):
                    executor.spin_once(timeout_sec=0.1)
        thread = threading.Thread(target=spin, daemon=True)
        thread.start()
        self._threads.append(thread)

    def add(self, node_class: type, *, sim_time: bool = False, **parameters: Any) -> Any:
        """Start a node under test with parameter overrides (``__`` in a name stands for a dot)."""
        overrides = [Parameter(name.replace('__', '.'), value=value) for name, value in parameters.items()]
        if sim_time:
            overrides.append(Parameter('use_sim_time', value=True))
        node = node_class(context=self.context, parameter_overrides=overrides)
        executor = MultiThreadedExecutor(max(2, getattr(node_class, 'THREADS', 2)), context=self.context)
        executor.add_node(node)
        self.nodes.append(node)
        self._executors.append(executor)
        self._spin(executor)
        return node

    def collect(self, message_type: type, topic: str, qos: QoSProfile | int = 10) -> list[Any]:
        """Return a list that grows with the messages of a topic."""
        messages: list[Any] = []
        self.client.create_subscription(message_type, topic, messages.append, qos)
        return messages

    def publisher(self, message_type: type, topic: str, qos: QoSProfile | int = 10) -> Any:
        """Return a publisher that already has a subscriber."""
        publisher = self.client.create_publisher(message_type, topic, qos)
        wait_for(lambda: publisher.get_subscription_count() > 0, f'a subscriber of {topic}')
        return publisher

    def call(self, service_type: type, name: str, request: Any = None) -> Any:
        """Call a service and return the response."""
        client = self.client.create_client(service_type, name)
        assert client.wait_for_service(LIMIT_S), f'{name} is not served'
        future = client.call_async(request if request is not None else service_type.Request())
        wait_for(future.done, f'the answer of {name}')
        self.client.destroy_client(client)
        return future.result()

    def close(self) -> None:
        """Close the nodes, then the graph."""
        for node in self.nodes:
            node.close()
        for executor in self._executors:
            executor.shutdown(timeout_sec=2.0)
        for thread in self._threads:
            thread.join(2.0)
        for node in (*self.nodes, self.client):
            node.destroy_node()
        rclpy.try_shutdown(context=self.context)


def wait_for(condition: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> None:
    """Wait until ``condition`` holds, or fail naming ``what``."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f'{what}: not within {limit_s:g} s'
        time.sleep(0.005)
