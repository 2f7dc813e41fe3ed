"""Read a recording of this package's graph: commands, states, clock and images, without ROS."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..resources import require
from .limit_check import CommandLog

Array = NDArray[np.float64]
Stamps = NDArray[np.int64]
Frame = NDArray[np.uint8]


class BagError(ValueError):
    """A bag that cannot be read or lacks a topic. The text says what it holds."""


@dataclass(frozen=True, slots=True, eq=False)
class Commands:
    """The recorded command stream.

    :param log: Commands by their own stamps.
    :param received_ns: Shape (M,), when each arrived at the recorder, machine time.
    :param gripper: Shape (M,), joint position of the gripper, NaN where none was commanded.
    """

    log: CommandLog
    received_ns: Stamps
    gripper: Array


class Bag:
    """An open recording.

    :param reader: A rosbags reader.
    """

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    @property
    def topics(self) -> dict[str, tuple[str, int]]:
        """Topic to message type and count."""
        found: dict[str, tuple[str, int]] = {}
        for connection in self._reader.connections:
            found[connection.topic] = (connection.msgtype, connection.msgcount)
        return found

    def messages(self, *topics: str) -> Iterator[tuple[str, int, Any]]:
        """Yield topic, arrival in nanoseconds and message, in order of arrival.

        :raises BagError: The bag has none of the topics.
        """
        wanted = [c for c in self._reader.connections if c.topic in topics]
        if not wanted:
            raise BagError(f'none of {", ".join(topics)} is in the bag; it has: {", ".join(self.topics)}')
        for connection, arrived_ns, data in self._reader.messages(wanted):
            yield connection.topic, int(arrived_ns), self._reader.deserialize(data, connection.msgtype)


@contextmanager
def open_bag(path: Path) -> Iterator[Bag]:
    """Open a recording; its own message definitions are used.

    :raises BagError: Not a readable bag.
    """
    try:
        reader = _open_reader(path)
    except Exception as error:
        raise BagError(f'{path} is no readable bag: {error}') from error
    try:
        yield Bag(reader)
    finally:
        reader.close()


def _open_reader(path: Path) -> Any:
    highlevel = require('rosbags.highlevel', 'record')
    reader = highlevel.AnyReader([path])
    try:
        reader.open()
    except highlevel.AnyReaderError as error:
        if 'no type definitions' not in str(error):
            raise
        # An older bag without definitions. Reading all that a distribution defines takes a second or two.
        typesys = require('rosbags.typesys', 'record')
        reader = highlevel.AnyReader(
            [path], default_typestore=typesys.get_typestore(typesys.Stores.ROS2_KILTED))
        reader.open()
    return reader


def read_commands(bag: Bag, joint_names: tuple[str, ...], topic: str = '/joint_command') -> Commands:
    """Return the commands of sensor_msgs/JointState or trajectory_msgs/JointTrajectory.

    Of a trajectory the first point counts: it is the command for its own instant.

    :raises BagError: The topic carries no stamps, or lacks one of the joints.
    """
    kind = bag.topics.get(topic, ('', 0))[0]
    if kind not in ('sensor_msgs/msg/JointState', 'trajectory_msgs/msg/JointTrajectory'):
        raise BagError(
            f'{topic} is {kind or "not in the bag"}; commands can be checked on sensor_msgs/msg/JointState '
            'and trajectory_msgs/msg/JointTrajectory')
    trajectory = kind.endswith('JointTrajectory')
    stamps: list[int] = []
    arrivals: list[int] = []
    rows: list[list[Any]] = [[], [], []]
    gripper: list[float] = []
    order: list[int] = []
    for _, arrived_ns, message in bag.messages(topic):
        names = list(message.joint_names if trajectory else message.name)
        if not order:
            missing = [name for name in joint_names if name not in names]
            if missing:
                raise BagError(f'{topic}: {", ".join(missing)} missing among {", ".join(names)}')
            order = [names.index(name) for name in joint_names]
            others = [i for i in range(len(names)) if i not in order]
        point = message.points[0] if trajectory else message
        fields = (
            (point.positions, point.velocities, point.accelerations) if trajectory
            else (point.position, point.velocity, ()))
        stamps.append(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)
        arrivals.append(arrived_ns)
        for target, values in zip(rows, fields, strict=True):
            target.append(np.asarray(values)[order] if len(values) else None)
        gripper.append(float(fields[0][others[0]]) if others else float('nan'))
    columns = [
        np.array(row, dtype=np.float64).reshape(len(stamps), len(joint_names))
        if all(item is not None for item in row) else None for row in rows]
    position = columns[0] if columns[0] is not None else np.empty((0, len(joint_names)))
    log = CommandLog(
        joint_names, np.array(stamps, dtype=np.int64), position,
        columns[1] if len(stamps) else None, columns[2] if len(stamps) else None)
    return Commands(log, np.array(arrivals, dtype=np.int64), np.array(gripper))


def realtime_factor(bag: Bag, topic: str = '/clock') -> float:
    """Return simulated time over machine time, NaN without a simulated clock."""
    if bag.topics.get(topic, ('', 0))[1] < 2:
        return float('nan')
    first = last = None
    for _, arrived_ns, message in bag.messages(topic):
        last = (message.clock.sec * 10**9 + message.clock.nanosec, arrived_ns)
        first = first if first is not None else last
    assert first is not None and last is not None
    return (last[0] - first[0]) / (last[1] - first[1]) if last[1] > first[1] else float('nan')


def decode_image(message: Any) -> Frame:
    """Return uint8 RGB pixels of a raw rgb8/bgr8 or a compressed image.

    :raises BagError: Another encoding, or data that do not fit the size.
    """
    if hasattr(message, 'format'):
        image = require('PIL.Image', 'record').open(io.BytesIO(bytes(message.data)))
        return np.asarray(image.convert('RGB'))
    if message.encoding not in ('rgb8', 'bgr8'):
        raise BagError(f'encoding {message.encoding!r} arrived, rgb8 and bgr8 can be drawn')
    try:
        pixels = np.asarray(message.data, dtype=np.uint8).reshape(message.height, message.step)
    except ValueError as error:
        raise BagError(f'image: {error}') from error
    rgb = pixels[:, :message.width * 3].reshape(message.height, message.width, 3)
    return np.ascontiguousarray(rgb if message.encoding == 'rgb8' else rgb[..., ::-1])
