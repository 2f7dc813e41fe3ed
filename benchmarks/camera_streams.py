"""Load for other benchmarks: ``publish TOPIC HZ`` sends 640x480 images, ``listen TOPIC...`` takes them in.

The last line printed is the count of images, once SIGINT or SIGTERM has come.
"""

import signal
import sys
import threading
import time
from typing import Any

import numpy as np
import rclpy
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

WIDTH, HEIGHT = 640, 480
DEPTH = 15
POLL_S = 0.005
STEPS = 64
"""The picture moves, as a camera's does."""


def publish(node: Any, topic: str, rate_hz: float, ended: threading.Event) -> int:
    """Send images on absolute deadlines until ``ended``; return how many."""
    publisher = node.create_publisher(Image, topic, QoSProfile(depth=DEPTH))
    message = Image(height=HEIGHT, width=WIDTH, encoding='rgb8', step=3 * WIDTH)
    message.header.frame_id = topic
    message.data.frombytes(bytes(3 * WIDTH * HEIGHT))
    pixels = np.frombuffer(message.data, dtype=np.uint8).reshape(HEIGHT, WIDTH, 3)
    noise = np.random.RandomState(0).randint(0, 256, (HEIGHT, WIDTH + STEPS, 3)).astype(np.uint8)
    period_ns, count = round(1e9 / rate_hz), 0
    due_ns = time.monotonic_ns()
    while not ended.wait(max(0.0, (due_ns - time.monotonic_ns()) * 1e-9)):
        pixels[:] = noise[:, count % STEPS:count % STEPS + WIDTH]
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)
        count += 1
        due_ns += period_ns
    return count


def listen(node: Any, topics: list[str], ended: threading.Event) -> int:
    """Take images until ``ended``; return how many."""
    subscriptions = [
        node.create_subscription(Image, topic, lambda _: None, QoSProfile(depth=DEPTH)) for topic in topics]
    count = 0
    while not ended.wait(POLL_S):
        for subscription in subscriptions:
            # Not through an executor, which takes milliseconds for each message.
            with subscription.handle:
                while subscription.handle.take_message(Image, False) is not None:
                    count += 1
    return count


def main() -> None:
    """Run one of the two."""
    ended = threading.Event()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    kind, *rest = sys.argv[1:]
    node = rclpy.create_node(f'{kind}_{rest[0].replace("/", "_")}')
    count = publish(node, rest[0], float(rest[1]), ended) if kind == 'publish' else listen(node, rest, ended)
    sys.stdout.write(f'{count}\n')


if __name__ == '__main__':
    main()
