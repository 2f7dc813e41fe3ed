"""Record every topic of the graph into an MCAP bag, without a copy through Python objects.

Subscriptions are raw (the bytes of the wire, exactly) and are polled instead of spun: an executor rebuilds
its wait set for every message, which at 1000 messages a second costs more than the recording itself. The
time of a message is the middleware's reception stamp, so polling does not blur it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
import json
import os
from pathlib import Path
import re
import sys
import time
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from ..evaluation.typestore import Definitions, UnknownTypeError
from ..resources import require

NODE_NAME = 'cosmos3_recorder'
POLL_S = 0.004
DISCOVERY_S = 0.2
LARGE_DEPTH = 90
"""Six seconds of images at 15 Hz: what a slow disk may cost without losing one."""
SMALL_DEPTH = 5000
LARGE_TYPES = frozenset({'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'})
SUMMARY = 'recording.json'
"""Counts per topic, written beside the bag when it is closed."""


@dataclass(slots=True)
class _Stream:
    """One recorded topic."""

    topic: str
    subscription: Any
    message_class: Any
    connection: Any
    received: int = 0
    first_sequence: int = 0
    last_sequence: int = 0
    bytes: int = 0

    @property
    def lost(self) -> int:
        """Messages that the publisher numbered between the first and the last received and that never came.

        Exact for one publisher per topic, which is what this package's graph has.
        """
        if self.received == 0 or self.last_sequence == 0:
            return 0
        return max(0, self.last_sequence - self.first_sequence + 1 - self.received)


class Recorder:
    """Writes all topics whose name does not match ``exclude``.

    :param output: Directory of the bag; must not exist.
    :param exclude: Regular expression on topic names, or None.
    :param domain_id: ROS domain, or None for the one of the environment.
    :raises FileExistsError: The directory exists.
    """

    def __init__(self, output: Path, *, exclude: str | None = None, domain_id: int | None = None) -> None:
        rosbag2 = require('rosbags.rosbag2', 'record')
        if output.exists():
            raise FileExistsError(f'{output} exists already; a recording is never overwritten')
        prefixes = [Path(p) for p in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p]
        self._definitions = Definitions(tuple(dict.fromkeys((*prefixes, Path(sys.prefix)))))
        self._exclude = re.compile(exclude) if exclude else None
        self._output = output
        self._writer: Any = rosbag2.Writer(output, version=9, storage_plugin=rosbag2.StoragePlugin.MCAP)
        # zstd inside the MCAP chunks: rendered images shrink tenfold and readers need no extra step.
        self._writer.set_compression(rosbag2.CompressionMode.STORAGE, rosbag2.CompressionFormat.ZSTD)
        self._context = rclpy.Context()
        self._node: Any = None
        self._domain_id = domain_id
        self._streams: dict[str, _Stream] = {}
        self._refused: dict[str, str] = {}

    def run(self, stopped: Callable[[], bool]) -> dict[str, Any]:
        """Record until ``stopped()`` and return the counts, which also lie beside the bag.

        :return: ``topics``: per topic ``type``, ``received``, ``lost``, ``bytes``; ``refused``: topics that
            cannot be recorded, with the reason.
        """
        rclpy.init(context=self._context, domain_id=self._domain_id)
        self._node = Node(
            NODE_NAME, context=self._context, use_global_arguments=False, enable_rosout=False,
            start_parameter_services=False)
        self._writer.open()
        try:
            next_discovery = 0.0
            while not stopped():
                now = time.monotonic()
                if now >= next_discovery:
                    self._discover()
                    next_discovery = now + DISCOVERY_S
                if self._drain() == 0:
                    time.sleep(POLL_S)
            self._drain()
        finally:
            self._writer.close()
            summary = self._summary()
            (self._output / SUMMARY).write_text(json.dumps(summary, indent=1) + '\n')
            self._node.destroy_node()
            self._context.try_shutdown()
        return summary

    def _discover(self) -> None:
        """Subscribe to every topic that has a publisher and is not known yet."""
        for topic, types in self._node.get_topic_names_and_types():
            if topic in self._streams or topic in self._refused:
                continue
            if self._exclude is not None and self._exclude.search(topic):
                self._refused[topic] = 'excluded on request'
                continue
            publishers = self._node.get_publishers_info_by_topic(topic)
            if not publishers:
                continue
            if len(types) != 1:
                self._refused[topic] = f'several types: {", ".join(types)}'
                continue
            try:
                self._subscribe(topic, types[0], [info.qos_profile for info in publishers])
            except (ImportError, AttributeError, UnknownTypeError) as error:
                self._refused[topic] = str(error)

    def _subscribe(self, topic: str, type_name: str, offered: list[QoSProfile]) -> None:
        """Subscribe as reliably as every publisher allows."""
        self._definitions.add(type_name)
        message_class = load_message_class(type_name)
        reliable = all(qos.reliability == ReliabilityPolicy.RELIABLE for qos in offered)
        latched = all(qos.durability == DurabilityPolicy.TRANSIENT_LOCAL for qos in offered)
        profile = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=LARGE_DEPTH if type_name in LARGE_TYPES else SMALL_DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE)
        connection = self._writer.add_connection(topic, type_name, typestore=self._definitions.store)
        subscription = self._node.create_subscription(
            message_class, topic, _never_called, profile, raw=True)
        self._streams[topic] = _Stream(topic, subscription, message_class, connection)

    def _drain(self) -> int:
        """Write everything that has arrived; return how many messages that was."""
        written = 0
        for stream in self._streams.values():
            handle = stream.subscription.handle
            with handle:
                while (taken := handle.take_message(stream.message_class, True)) is not None:
                    data, info = taken
                    sequence = int(info.get('publication_sequence_number') or 0)
                    if stream.received == 0:
                        stream.first_sequence = sequence
                    stream.last_sequence = max(stream.last_sequence, sequence)
                    stream.received += 1
                    stream.bytes += len(data)
                    self._writer.write(stream.connection, int(info['received_timestamp']), data)
                    written += 1
        return written

    def _summary(self) -> dict[str, Any]:
        topics = {
            stream.topic: {
                'type': stream.connection.msgtype, 'received': stream.received, 'lost': stream.lost,
                'bytes': stream.bytes,
            }
            for stream in sorted(self._streams.values(), key=lambda s: s.topic)
        }
        return {'topics': topics, 'refused': self._refused}


def load_message_class(type_name: str) -> Any:
    """Return the Python class of ``package/kind/Name``.

    :raises ImportError: The package's Python messages are not installed.
    :raises AttributeError: The package has no such type.
    """
    package, kind, name = type_name.split('/')
    module = import_module(f'{package}.{kind}')
    if kind == 'action' and name.endswith('_FeedbackMessage'):
        return getattr(module, name.removesuffix('_FeedbackMessage')).Impl.FeedbackMessage
    return getattr(module, name)


def _never_called(_: bytes) -> None:
    """Stand in for a callback: messages are taken by polling."""
