"""Two controllers of one robot fight each other: see that there is only one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .guarding import SetupError

if TYPE_CHECKING:
    from .base import LifecycleBase

COMMAND_TOPIC = 'joint_command'
# How long to watch for another controller before this one may command: discovery on one host takes
# some 100 ms, over a network somewhat more.
WATCH_S = 1.0
POLL_S = 0.05


class ConflictWatch:
    """Looks for others who publish ``joint_command``.

    :param node: The controller's node.
    """

    def __init__(self, node: LifecycleBase) -> None:
        self._node = node
        self.text = ''
        """What :meth:`look` found last, empty for nothing."""

    def refuse_twin(self) -> None:
        """Watch for a node of the same name and for another commander.

        :raises SetupError: There is one.
        """
        node = self._node
        deadline = time.monotonic() + WATCH_S
        name = node.get_fully_qualified_name()
        while time.monotonic() < deadline and not node.closing.is_set():
            if node.get_fully_qualified_node_names().count(name) > 1:
                raise SetupError(
                    f'another node {name} is running. Two controllers of one robot fight each other: end the '
                    'other one, or give this one its own namespace and robot')
            self.refuse_commander()
            time.sleep(POLL_S)

    def refuse_commander(self) -> None:
        """Call before this node has a publisher of commands of its own.

        :raises SetupError: Somebody publishes commands.
        """
        node = self._node
        others = self._commanders()
        # This node's own publisher from before a deactivation takes a moment to leave the graph.
        deadline = time.monotonic() + WATCH_S
        while node.get_fully_qualified_name() in others and time.monotonic() < deadline:
            time.sleep(POLL_S)
            others = self._commanders()
        if others:
            raise SetupError(
                f'{", ".join(others)} already publishes {node.resolve_topic_name(COMMAND_TOPIC)}. Two '
                'controllers of one robot fight each other: end the other one. If it was killed, its '
                'announcement fades within 20 s')

    def look(self) -> str:
        """Return who else commands beside this node's own publisher, empty if nobody does."""
        others = self._commanders()
        self.text = '' if len(others) <= 1 else (
            f'{len(others)} publishers of {COMMAND_TOPIC}: {", ".join(others)}')
        return self.text

    def _commanders(self) -> list[str]:
        infos = self._node.get_publishers_info_by_topic(COMMAND_TOPIC)
        return [f'{info.node_namespace.rstrip("/")}/{info.node_name}' for info in infos]
