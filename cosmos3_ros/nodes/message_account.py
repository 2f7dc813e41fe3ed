"""What became of a topic's messages, from the numbers that each publisher gives them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class _Publisher:
    """Of one publisher, whose messages are numbered from 1.

    :param first: Number of the first message that was heard; likewise ``newest``.
    """

    first: int
    newest: int
    received: int = 0


@dataclass(slots=True)
class MessageAccount:
    """Every message of a topic is received, missed or older than the subscription, and nothing else.

    A middleware that keeps the newest messages only drops the others without a word, so a count of what
    was received says nothing about them. Publishers number what they send (``publication_sequence_number``
    of the message info; Fast DDS and Cyclone DDS fill it in, per writer from 1).

    :param unnumbered: Messages without a number; with any of them the account is incomplete.
    """

    unnumbered: int = 0
    _publishers: dict[bytes, _Publisher] = field(default_factory=dict)

    def take(self, info: Mapping[str, Any]) -> None:
        """Count one message that was received.

        :param info: What rclpy's ``take_message`` returns beside the message.
        """
        number, gid = info.get('publication_sequence_number'), info.get('publisher_gid')
        if number is None or gid is None:
            self.unnumbered += 1
            return
        publisher = self._publishers.get(gid['data'])
        if publisher is None:
            publisher = self._publishers[gid['data']] = _Publisher(number, number)
        # Counted first: who reads meanwhile, in another thread, must not see it missed.
        publisher.received += 1
        # Best effort may bring messages out of order.
        publisher.first, publisher.newest = min(publisher.first, number), max(publisher.newest, number)

    @property
    def received(self) -> int:
        """Messages that were received."""
        return self.unnumbered + sum(one.received for one in list(self._publishers.values()))

    @property
    def missed(self) -> int:
        """Messages between the first and the newest of a publisher that never came.

        They were lost on the way or, where the queue was full, replaced by newer ones.
        """
        return sum(
            max(0, one.newest - one.first + 1 - one.received) for one in list(self._publishers.values()))

    @property
    def before(self) -> int:
        """Messages that were sent before the first that was heard."""
        return sum(one.first - 1 for one in list(self._publishers.values()))

    @property
    def newest(self) -> int:
        """Messages that had been sent, all publishers together, when the newest of each was."""
        return sum(one.newest for one in list(self._publishers.values()))

    def values(self, topic: str) -> dict[str, int]:
        """Return it for diagnostics; empty before the first message and where nothing numbers messages."""
        if not self._publishers or self.unnumbered:
            return {}
        return {f'{topic}_{key}': getattr(self, key) for key in ('missed', 'before', 'newest')}
