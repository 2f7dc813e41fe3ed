"""Camera topics in, checked RGB frames out, with a count and an age for every camera."""

from collections.abc import Callable, Mapping
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image

from cosmos3_ros.contracts import ContractError

from .base import LifecycleBase
from .diagnostics import Level, Report
from .images import SUPPORTED, rgb_from_compressed, rgb_image
from .messages import to_ns
from .parameters import Parameter

TRANSPORTS = ('raw', 'compressed')
# A camera is called silent after this long without an image; 15 periods of a 15 Hz camera.
SILENT_AFTER_S = 1.0

Frame = NDArray[np.uint8]
# Raw encodings whose pixels are a view of the message's bytes; they are checked when they arrive.
CHEAP = ('rgb8', 'bgr8', 'rgba8', 'bgra8', '8UC3')

CAMERA_PARAMETERS = (
    Parameter('cameras', list[str], [],
              "Camera slots in use, e.g. [wrist, exterior_1]; empty takes the robot's slots.",
              read_only=True),
    Parameter('image_transport', str, 'raw',
              'raw subscribes <camera>/image_raw, compressed <camera>/image_raw/compressed.',
              choices=TRANSPORTS, read_only=True),
)


class CameraStreams:
    """Subscribes to one topic per camera slot.

    :param node: The node that owns the subscriptions.
    :param topics: Camera slot to topic of the raw image; remap topics the ROS way.
    :param transport: ``raw`` or ``compressed``.
    :param on_image: Called with slot, header stamp in nanoseconds and uint8 RGB pixels (H, W, 3).
    :param lazy: Hand on a function that returns the pixels where making them costs something: a JPEG
        takes milliseconds, and a policy that is asked twice a second uses one image of eight.
    """

    def __init__(
        self,
        node: LifecycleBase,
        topics: Mapping[str, str],
        *,
        transport: str,
        profile: QoSProfile,
        on_image: Callable[[str, int, Any], None],
        lazy: bool = False,
    ) -> None:
        self._node = node
        self._on_image = on_image
        self._lazy = lazy
        self._arrived: dict[str, float] = {}
        self._began = time.monotonic()
        self._cameras = tuple(topics)
        message_type = CompressedImage if transport == 'compressed' else Image
        self._decode: Callable[[Any], Frame] = rgb_from_compressed if transport == 'compressed' else rgb_image
        for camera, topic in topics.items():
            name = f'{topic}/compressed' if transport == 'compressed' else topic
            node.poller.subscribe(message_type, name, profile, self._callback(camera))

    def _callback(self, camera: str) -> Callable[[Any], None]:
        def receive(message: Any) -> None:
            self._receive(camera, message)
        return receive

    def _receive(self, camera: str, message: Any) -> None:
        node = self._node
        node.counters.add(f'images_received.{camera}')
        try:
            frame = self._decode_later(camera, message) if self._is_costly(message) else self._decode(message)
            self._on_image(camera, to_ns(message.header.stamp), frame)
        except Exception as error:
            if isinstance(error, ContractError):
                node.counters.add(f'images_refused.{camera}')
            node.report_exception(f'camera {camera}', error)
            return
        self._arrived[camera] = time.monotonic()

    def _is_costly(self, message: Any) -> bool:
        if not self._lazy:
            return False
        # What is not supported is refused when it arrives: an older, good image keeps its place.
        encoding = getattr(message, 'encoding', None)
        return encoding is None or (encoding in SUPPORTED and encoding not in CHEAP)

    def _decode_later(self, camera: str, message: Any) -> Callable[[], Frame]:
        def decode() -> Frame:
            try:
                return self._decode(message)
            except ContractError:
                self._node.counters.add(f'images_refused.{camera}')
                raise
        return decode

    def diagnose(self, report: Report) -> None:
        """Name the cameras that are silent and log when one falls silent or comes back."""
        now = time.monotonic()
        for camera in self._cameras:
            age = now - self._arrived.get(camera, self._began)
            silent = age > SILENT_AFTER_S
            never = camera not in self._arrived
            text = f'camera {camera}: no usable image ' + ('yet' if never else f'for {age:.1f} s')
            self._node.logs.edge(f'camera {camera}', silent, text, f'camera {camera}: images arrive')
            if silent:
                report.add(Level.WARN, text)
