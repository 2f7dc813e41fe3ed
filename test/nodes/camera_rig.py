"""Cameras that publish at 15 Hz and can be stopped or spoiled one by one."""

from typing import Any

import numpy as np
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from sensor_msgs.msg import CompressedImage, Image

from cosmos3_ros.nodes.images import compressed_message, rgb_message

SLOTS = ('wrist', 'exterior_1', 'exterior_2')
SIZE = (24, 32)


class CameraRig:
    """Three cameras of flat colour.

    :param graph: The test's graph; its client node is used.
    """

    def __init__(self, graph: Any, *, transport: str = 'raw', slots: tuple[str, ...] = SLOTS) -> None:
        self.silent: set[str] = set()
        self.shift_ns = 0
        """Added to every stamp."""
        self.spoil: dict[str, Any] = {}
        """Camera slot to a function of the message, called before it is sent."""
        self._transport = transport
        self._node = graph.client
        kind = CompressedImage if transport == 'compressed' else Image
        suffix = '/compressed' if transport == 'compressed' else ''
        self._publishers = {
            slot: self._node.create_publisher(kind, f'{slot}/image_raw{suffix}', 5) for slot in slots}
        self._node.create_timer(1 / 15, self._publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _publish(self) -> None:
        stamp_ns = self._node.get_clock().now().nanoseconds + self.shift_ns
        make = compressed_message if self._transport == 'compressed' else rgb_message
        for index, (slot, publisher) in enumerate(self._publishers.items()):
            if slot in self.silent:
                continue
            pixels = np.full((*SIZE, 3), 40 * (index + 1), dtype=np.uint8)
            message = make(pixels, stamp_ns=stamp_ns, frame_id=slot)
            if slot in self.spoil:
                message = self.spoil[slot](message)
            publisher.publish(message)
