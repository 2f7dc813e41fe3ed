"""One thread that takes the messages of all of a node's streams, and of /clock.

Through an rclpy executor each message costs one to three milliseconds of interpreter time besides its own
work: it collects all of the node's entities anew, and a multi-threaded one wakes up twice. A hundred clock
ticks, three 15 Hz cameras and 200 joint states a second are half a core that way, and a twentieth of one when
they are polled.
"""

from __future__ import annotations

from collections.abc import Callable
import threading
from typing import TYPE_CHECKING, Any

from rclpy.qos import QoSProfile

from .diagnostics import Level, Report
from .polled_subscription import PolledSubscription

if TYPE_CHECKING:
    from .base import LifecycleBase

# Adds at most this much to the age of an image, a sixth of the period of a 15 Hz camera.
POLL_PERIOD_S = 0.01
JOIN_TIMEOUT_S = 1.0


class StreamPoller:
    """Polls subscriptions until closed; callbacks run one after the other in its thread.

    :param node: The node that owns the subscriptions.
    :param period_s: Time between two polls, seconds.
    :param clock_period_s: The same for ``/clock``.
    """

    def __init__(
        self, node: LifecycleBase, period_s: float = POLL_PERIOD_S, *,
        clock_period_s: float = POLL_PERIOD_S,
    ) -> None:
        self._node = node
        self._period_s = period_s
        self._clock_every = max(1, round(clock_period_s / period_s))
        self._clock: PolledSubscription | None = None
        # Replaced as a whole, never changed: the thread reads it without a lock.
        self._streams: tuple[PolledSubscription, ...] = ()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name='streams', daemon=True)

    def subscribe(
        self, message_type: Any, topic: str, profile: QoSProfile, callback: Callable[[Any], None],
    ) -> None:
        """Add a subscription; it lasts until the node destroys it.

        :param callback: Must not raise (see ``base.guarded``).
        """
        stream = PolledSubscription(self._node, message_type, topic, profile, callback)
        self._streams = (*self._streams, stream)

    def subscribe_clock(
        self, message_type: Any, topic: str, profile: QoSProfile, callback: Callable[[Any], None],
    ) -> Any:
        """Poll what feeds the node's clock, and return the subscription to its owner, rclpy's time source."""
        self._clock = PolledSubscription(self._node, message_type, topic, profile, callback)
        return self._clock.subscription

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread. Safe to call twice, and before :meth:`start`."""
        self._closing.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(JOIN_TIMEOUT_S)

    def diagnose(self, report: Report) -> None:
        """Name the publishers that cannot be heard because of their QoS."""
        for stream in self._streams:
            mismatch = stream.find_mismatch()
            self._node.logs.edge(
                f'qos {stream.topic}', bool(mismatch), mismatch,
                f'{stream.topic}: all publishers can be heard')
            if mismatch:
                report.add(Level.ERROR, mismatch)

    def _run(self) -> None:
        rounds = 0
        while not self._closing.wait(self._period_s):
            clock = self._clock
            rounds += 1
            if clock is not None and rounds % self._clock_every == 0 and not clock.poll():
                self._clock = None
            gone = [stream for stream in self._streams if not stream.poll()]
            if gone:
                self._streams = tuple(stream for stream in self._streams if stream not in gone)
