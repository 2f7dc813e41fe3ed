"""Recorded actions as one timeline: from an episode of a dataset, or from a bag of this package's graph."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts.arrays import frozen_array
from cosmos3_ros.evaluation.bag import Bag, BagError, open_bag, read_commands
from cosmos3_ros.evaluation.lerobot_episode import EpisodeError, read_episode
from cosmos3_ros.robots import Robot

from . import droid_joint
from .policy import PolicyError

Array = NDArray[np.float64]

SOURCES = ('action', 'command', 'state')
"""What a policy answered, what the controller commanded, what was measured."""
CHUNKS, COMMANDS, STATES = '/action_chunk', '/joint_command', '/joint_states'


@dataclass(frozen=True, slots=True, eq=False)
class RecordedTrack:
    """Positions over time.

    :param name: What is replayed, for the chunk's identity.
    :param step_ns: Time between the rows of a chunk made from it.
    :param stamps_s: Shape (T,), increasing seconds from the start.
    :param positions: Shape (T, N), radians.
    :param gripper: Shape (T,), 0 open .. 1 closed.
    """

    name: str
    step_ns: int
    stamps_s: Array
    positions: Array
    gripper: Array

    def __post_init__(self) -> None:
        """Check shapes and the order of time, freeze the arrays."""
        stamps = frozen_array('stamps_s', self.stamps_s, shape=(None,))
        if len(stamps) < 2 or (np.diff(stamps) <= 0.0).any():
            raise PolicyError(
                f'{self.name}: {len(stamps)} stamps arrived that do not all increase, at least 2 are needed')
        object.__setattr__(self, 'stamps_s', stamps)
        object.__setattr__(
            self, 'positions', frozen_array('positions', self.positions, shape=(len(stamps), None)))
        object.__setattr__(self, 'gripper', frozen_array(
            'gripper', np.clip(self.gripper, 0.0, 1.0), shape=(len(stamps),)))

    @property
    def end_s(self) -> float:
        """Seconds of the last sample."""
        return float(self.stamps_s[-1])

    def sample(self, times_s: Array) -> tuple[Array, Array]:
        """Return positions (M, N) and gripper (M,), linear between samples, held outside of them."""
        columns = [np.interp(times_s, self.stamps_s, column) for column in self.positions.T]
        return np.column_stack(columns), np.interp(times_s, self.stamps_s, self.gripper)


def read_dataset_track(root: Path, index: int, source: str) -> RecordedTrack:
    """Return an episode of a LeRobot v3 dataset.

    :param source: ``action``, or ``state``.
    :raises PolicyError: The dataset does not hold it.
    """
    try:
        episode = read_episode(root, index)
    except EpisodeError as error:
        raise PolicyError(f'dataset: {error}') from error
    positions, gripper = episode.joint_position, episode.gripper
    if source == 'action':
        if episode.action_position is None or episode.action_gripper is None:
            raise PolicyError(
                f'dataset: {episode.root} holds no actions; set source to state to replay measured positions')
        positions, gripper = episode.action_position, episode.action_gripper
    elif source != 'state':
        raise PolicyError(f'source: {source} arrived, action and state are in a dataset')
    return RecordedTrack(
        f'{episode.root.name} episode {episode.index} ({source})', round(1e9 / episode.fps),
        episode.stamps_s, positions, gripper)


def read_bag_track(path: Path, source: str, joint_names: Sequence[str], robot: Robot | None) -> RecordedTrack:
    """Return what a bag (MCAP, or whatever rosbags reads) recorded.

    :param source: One of :data:`SOURCES`.
    :param robot: Tells what the gripper joint's position means; only ``action`` does without.
    :raises PolicyError: The bag cannot be read, or does not hold it.
    """
    name = f'{path.name} ({source})'
    try:
        with open_bag(path) as bag:
            if source == 'action':
                begin_ns, stamps_ns, positions, gripper = _read_chunks(bag, joint_names)
            else:
                stamps_ns, positions, gripper = _read_joints(bag, source, joint_names, robot)
                begin_ns = int(stamps_ns[0])
    except BagError as error:
        raise PolicyError(f'bag: {error}') from error
    stamps_s = (stamps_ns - begin_ns).astype(np.float64) * 1e-9
    return RecordedTrack(name, droid_joint.STEP_NS, stamps_s, positions, gripper)


def _read_chunks(bag: Bag, joint_names: Sequence[str]) -> tuple[int, NDArray[np.int64], Array, Array]:
    """Return the rows that were followed: each chunk's from when it was there until the next one was.

    :returns: The first observation's stamp, then stamps, positions and gripper of the rows.
    """
    chunks = [message for _, _, message in bag.messages(CHUNKS)]
    _increasing(np.array([_stamp_ns(chunk) for chunk in chunks], dtype=np.int64), 0, CHUNKS)
    stamps: list[NDArray[np.int64]] = []
    rows: list[Array] = []
    grippers: list[Array] = []
    for chunk, following in zip(chunks, [*chunks[1:], None], strict=True):
        order = _order(list(chunk.joint_names), joint_names, CHUNKS)
        positions = np.asarray(chunk.positions, dtype=np.float64).reshape(chunk.horizon, -1)[:, order]
        due_ns = _stamp_ns(chunk) + chunk.step_ns * np.arange(1, chunk.horizon + 1)
        until_ns = _there_ns(following) if following is not None else due_ns[-1] + 1
        # The first chunk counts from its observation on: before it there was nothing to follow.
        since_ns = _there_ns(chunk) if stamps else due_ns[0]
        used = (due_ns >= since_ns) & (due_ns < until_ns)
        stamps.append(due_ns[used])
        rows.append(positions[used])
        grippers.append(np.asarray(chunk.gripper, dtype=np.float64)[used])
    stamps_ns = np.concatenate(stamps)
    # The steps of two chunks fall on different grids, so that a row may be due before the one it follows.
    later = _increasing(stamps_ns, max(chunk.step_ns for chunk in chunks), CHUNKS)
    return (_stamp_ns(chunks[0]), stamps_ns[later], np.concatenate(rows)[later],
            np.concatenate(grippers)[later])


def _read_joints(
    bag: Bag, source: str, joint_names: Sequence[str], robot: Robot | None,
) -> tuple[NDArray[np.int64], Array, Array]:
    if robot is None:
        raise PolicyError(f'source: {source} arrived, which needs the option robot to read the gripper')
    if source == 'command':
        commands = read_commands(bag, tuple(joint_names), COMMANDS)
        stamps_ns, positions, fingers = commands.log.stamps_ns, commands.log.position, commands.gripper
    else:
        wanted = [*joint_names, robot.gripper.joint_name]
        messages = [message for _, _, message in bag.messages(STATES)]
        table = np.array([
            np.asarray(m.position)[_order(list(m.name), wanted, STATES)] for m in messages], dtype=np.float64)
        stamps_ns = np.array([_stamp_ns(m) for m in messages], dtype=np.int64)
        positions, fingers = table[:, :-1], table[:, -1]
    later = _increasing(stamps_ns, 0, COMMANDS if source == 'command' else STATES)
    gripper = np.array([0.0 if np.isnan(x) else robot.gripper.to_normalized(float(x)) for x in fingers])
    return stamps_ns[later], positions[later], gripper[later]


def _increasing(stamps_ns: NDArray[np.int64], back_ns: int, topic: str) -> NDArray[np.bool_]:
    """Return which stamps are later than all before them.

    :param back_ns: Going back by more than this is another run.
    :raises BagError: Stamps go back that far.
    """
    highest = np.maximum.accumulate(stamps_ns)
    if (highest - stamps_ns).max() > back_ns:
        raise BagError(f'{topic}: stamps go back; the bag holds several runs, one is needed')
    return np.concatenate([[True], stamps_ns[1:] > highest[:-1]])


def _order(present: list[str], wanted: Sequence[str], topic: str) -> list[int]:
    missing = [name for name in wanted if name not in present]
    if missing:
        raise BagError(f'{topic}: {", ".join(missing)} missing among {", ".join(present)}')
    return [present.index(name) for name in wanted]


def _stamp_ns(message: Any) -> int:
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


def _there_ns(chunk: Any) -> int:
    return _stamp_ns(chunk) + round(float(chunk.latency_s) * 1e9)
