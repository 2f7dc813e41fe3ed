"""Which ROS entities a node had at an instant, so that what came after can be destroyed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import LifecycleBase


class EntityCensus:
    """Counts a node's timers, subscriptions, services, clients and publishers when it is made.

    :param node: The node whose entities are counted.
    """

    def __init__(self, node: LifecycleBase) -> None:
        self._node = node
        self._known = {id(entity) for entities, _ in self._groups().values() for entity in entities}

    def _groups(self) -> dict[str, tuple[list[Any], Callable[[Any], Any]]]:
        node = self._node
        return {
            'timers': (list(node.timers), node.destroy_timer),
            'subscriptions': (list(node.subscriptions), node.destroy_subscription),
            'services': (list(node.services), node.destroy_service),
            'clients': (list(node.clients), node.destroy_client),
            'publishers': (list(node.publishers), node.destroy_publisher),
        }

    def destroy_newer(self) -> None:
        """Destroy what was created since; what fails is reported and the rest goes on."""
        for name, (entities, destroy) in self._groups().items():
            for entity in entities:
                if id(entity) not in self._known:
                    try:
                        destroy(entity)
                    except Exception as error:
                        self._node.report_exception(f'destroy {name}', error)
