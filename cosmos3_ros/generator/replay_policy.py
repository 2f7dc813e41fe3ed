"""The policy ``replay``: recorded actions of a dataset or a bag, on the observation's clock. Not a model.

The recording starts with the first observation, and again when the instruction changes or the clock goes
back. It exercises everything after a policy with motions that a real robot made.
"""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

from cosmos3_ros.contracts import ActionChunk, ModelIdentity, Observation
from cosmos3_ros.robots import Robot, RobotError, load_robot

from . import droid_joint
from .option_types import check_types
from .policy import PolicyError
from .recorded_track import SOURCES, RecordedTrack, read_bag_track, read_dataset_track

ENDINGS = ('hold', 'refuse')


class ReplayPolicy:
    """See :func:`create_replay`. Fits :class:`policy.Policy`."""

    name = 'replay'
    contract = droid_joint.CONTRACT
    horizon = droid_joint.HORIZON
    camera_slots: tuple[str, ...] = ()

    def __init__(
        self, track: RecordedTrack, joint_names: tuple[str, ...], start_tolerance_rad: float, at_end: str,
    ) -> None:
        if track.positions.shape[1] != len(joint_names):
            raise PolicyError(
                f'{track.name} moves {track.positions.shape[1]} joints, the robot {len(joint_names)}')
        self.joint_names = joint_names
        self.step_ns = track.step_ns
        self.identity = ModelIdentity(track.name, 'replay', trained=True)
        self._track, self._tolerance, self._at_end = track, start_tolerance_rad, at_end
        self._start_ns: int | None = None
        self._instruction = ''
        self._requests = 0
        self._closed = False

    def warm_up(self) -> None:
        """Nothing to warm up."""

    def generate(self, observation: Observation, instruction: str, *, seed: int) -> ActionChunk:
        """Return the next rows of the recording; past its end the last row is held.

        :param seed: Recorded in the chunk, without effect.
        :raises PolicyError: At the start the arm is elsewhere; or, with ``at_end: refuse``, the observation
            is past the end.
        """
        if self._closed:
            raise PolicyError('policy replay: it is closed')
        started = perf_counter()
        state = droid_joint.state_row(observation, self.joint_names)[:-1]
        restart = (self._start_ns is None or instruction != self._instruction
                   or observation.stamp_ns < self._start_ns)
        if restart:
            first = self._track.positions[0]
            distance = np.abs(state - first)
            if distance.max() > self._tolerance:
                joint = int(distance.argmax())
                raise PolicyError(
                    f'replay: {self.joint_names[joint]} is at {state[joint]:.3f} rad, the recording starts '
                    f'at {first[joint]:.3f}; move the arm there, or widen start_tolerance_rad '
                    f'({self._tolerance:g})')
            self._start_ns, self._instruction = observation.stamp_ns, instruction
        assert self._start_ns is not None
        passed_s = (observation.stamp_ns - self._start_ns) * 1e-9
        if self._at_end == 'refuse' and passed_s >= self._track.end_s:
            raise PolicyError(
                f'replay: the recording ended {passed_s - self._track.end_s:.2f} s ago (at_end: refuse); '
                'another instruction starts it again')
        times_s = passed_s + self.step_ns * 1e-9 * np.arange(1, self.horizon + 1, dtype=np.float64)
        positions, gripper = self._track.sample(times_s)
        self._requests += 1
        return ActionChunk(
            stamp_ns=observation.stamp_ns, step_ns=self.step_ns, joint_names=self.joint_names,
            positions=positions, gripper=gripper, contract=self.contract, instruction=instruction, seed=seed,
            steps=0, guidance=1.0, policy=self.name, identity=self.identity,
            trace_id=f'replay-{observation.stamp_ns}-{self._requests}', latency_s=perf_counter() - started)

    def close(self) -> None:
        """Nothing is held open."""
        self._closed = True


def create_replay(
    *, joint_names: Sequence[str], dataset: str | None = None, bag: str | None = None, episode: int = 0,
    source: str = 'action', at_end: str = 'hold', start_tolerance_rad: float = 0.1,
    robot: Robot | str | None = None,
) -> ReplayPolicy:
    """Read a recording and build the policy.

    :param joint_names: The robot's arm joints, in the order of the dataset's columns.
    :param dataset: Directory of a LeRobot v3 dataset; either this or ``bag``.
    :param bag: A bag that this package recorded (``cosmos3 record``), MCAP.
    :param episode: Of the dataset.
    :param source: ``action``: what a policy answered (in a bag: ``/action_chunk``); ``command``: what the
        controller commanded, in a bag only; ``state``: what was measured.
    :param at_end: ``hold``: the last row goes on; ``refuse``: no more chunks, so that the controller
        stops as stale.
    :param start_tolerance_rad: Largest distance of a joint from the first row at the start.
    :param robot: The robot, or its name: in a bag it tells what the gripper's position means.
    :raises PolicyError: A setting, the robot or the recording does not fit.
    """
    check_types(locals(), {
        'dataset': 'text or none', 'bag': 'text or none', 'episode': 'integer', 'source': 'text',
        'at_end': 'text', 'start_tolerance_rad': 'number'})
    if (dataset is None) == (bag is None):
        raise PolicyError(
            f'dataset, bag: {"neither" if dataset is None else "both"} arrived, one of them is needed')
    for name, value, allowed in (('source', source, SOURCES), ('at_end', at_end, ENDINGS)):
        if value not in allowed:
            raise PolicyError(f'{name}: {value!r} arrived, one of {", ".join(allowed)} is allowed')
    if not 0.0 < start_tolerance_rad <= 7.0:
        raise PolicyError(f'start_tolerance_rad: {start_tolerance_rad} arrived, above 0 to 7 is allowed')
    joints = droid_joint.check_robot(joint_names)
    if dataset is not None:
        track = read_dataset_track(Path(dataset).expanduser(), episode, source)
    else:
        assert bag is not None
        try:
            found = load_robot(robot) if isinstance(robot, str) else robot
        except RobotError as error:
            raise PolicyError(f'robot: {error}') from error
        track = read_bag_track(Path(bag).expanduser(), source, joints, found)
    return ReplayPolicy(track, joints, float(start_tolerance_rad), at_end)
