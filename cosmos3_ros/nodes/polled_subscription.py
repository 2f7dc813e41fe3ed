"""A subscription that its owner polls, instead of an executor waking up for it.

An rclpy executor collects all of the node's entities anew for every message, about a millisecond of
interpreter time. At 200 joint states a second that is a fifth of a core, taken from the control thread
through the interpreter's lock. Taking a message directly costs some 30 us, and the control thread then
has the newest state before each sample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rclpy.callback_groups import CallbackGroup
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.exceptions import InvalidHandle
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible

from .message_account import MessageAccount

if TYPE_CHECKING:
    from .base import LifecycleBase

# More messages than this are not taken at one poll, so that a flood cannot hold up the poller.
TAKE_LIMIT = 50


class _Never(CallbackGroup):
    """A group that no executor serves."""

    def can_execute(self, _entity: Any) -> bool:
        return False

    def beginning_execution(self, _entity: Any) -> bool:
        return False

    def ending_execution(self, _entity: Any) -> None:
        pass


class PolledSubscription:
    """Messages of one topic, handed to ``callback`` when :meth:`poll` is called.

    :param node: The node that owns the subscription.
    :param callback: Called in the poller's thread; must not raise (see ``base.guarded``).
    :param account: Told of every message.
    """

    def __init__(
        self, node: LifecycleBase, message_type: Any, topic: str, profile: QoSProfile,
        callback: Callable[[Any], None], account: MessageAccount | None = None,
    ) -> None:
        self._node = node
        self._account = account
        self._topic = topic
        self._callback = callback
        # Without QoS event handlers: their wait set is woken by data as well, and as long as the data is
        # not taken the executor spins (9000 rounds a second seen with rclpy 9.1 and Fast DDS 3.2).
        # find_mismatch() says what they would have said.
        self._subscription = node.create_subscription(
            message_type, topic, callback, profile, callback_group=_Never(),
            event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False))

    @property
    def subscription(self) -> Any:
        """The rclpy subscription."""
        return self._subscription

    @property
    def topic(self) -> str:
        """Name of the topic, as it was asked for."""
        return self._topic

    def find_mismatch(self) -> str:
        """Return which publisher of the topic cannot be heard because of its QoS, empty if all can."""
        for info in self._node.get_publishers_info_by_topic(self._topic):
            verdict, reason = qos_check_compatible(info.qos_profile, self._subscription.qos_profile)
            if verdict == QoSCompatibility.ERROR:
                return (
                    f'{self._topic}: what {info.node_name} publishes cannot be heard ({reason.strip()}); '
                    f'change its QoS or the parameters qos.{self._topic}.*')
        return ''

    def poll(self) -> bool:
        """Take what has arrived; False once the node has destroyed the subscription."""
        subscription = self._subscription
        try:
            for _ in range(TAKE_LIMIT):
                with subscription.handle:
                    taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
                if taken is None:
                    return True
                if self._account is not None:
                    self._account.take(taken[1])
                self._callback(taken[0])
        except InvalidHandle:
            return False
        return True
