"""The policy ``replay``: a recorded episode's actions, on the observation's clock. Not a model.

The episode starts with the first observation, and again when the instruction changes or the clock goes back.
It exercises everything after a policy with motions that a real robot made.
"""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

from cosmos3_ros.contracts import ActionChunk, ModelIdentity, Observation
from cosmos3_ros.evaluation.lerobot_episode import Episode, EpisodeError, read_episode

from . import droid_joint
from .option_types import check_types
from .policy import PolicyError

SOURCES = ('action', 'state')


class ReplayPolicy:
    """See :func:`create_replay`. Fits :class:`policy.Policy`."""

    name = 'replay'
    contract = droid_joint.CONTRACT
    horizon = droid_joint.HORIZON
    camera_slots: tuple[str, ...] = ()

    def __init__(
        self, episode: Episode, joint_names: tuple[str, ...], source: str, start_tolerance_rad: float,
    ) -> None:
        if source == 'action' and (episode.action_position is None or episode.action_gripper is None):
            raise PolicyError(
                f'dataset: {episode.root} holds no actions; set source to state to replay measured positions')
        acted = source == 'action'
        positions = episode.action_position if acted else episode.joint_position
        gripper = episode.action_gripper if acted else episode.gripper
        assert positions is not None and gripper is not None
        if positions.shape[1] != len(joint_names):
            raise PolicyError(
                f'dataset: {episode.root} moves {positions.shape[1]} joints, the robot {len(joint_names)}')
        self.joint_names = joint_names
        self.step_ns = round(1e9 / episode.fps)
        self.identity = ModelIdentity(
            f'{episode.root.name} episode {episode.index} ({source})', 'replay', trained=True)
        self._episode, self._tolerance = episode, start_tolerance_rad
        self._positions, self._gripper = positions, np.clip(gripper, 0.0, 1.0)
        self._start_ns: int | None = None
        self._instruction = ''
        self._requests = 0
        self._closed = False

    def warm_up(self) -> None:
        """Nothing to warm up."""

    def generate(self, observation: Observation, instruction: str, *, seed: int) -> ActionChunk:
        """Return the next rows of the episode; past its end the last row is held.

        :param seed: Recorded in the chunk, without effect.
        :raises PolicyError: At the episode's start the arm is elsewhere.
        """
        if self._closed:
            raise PolicyError('policy replay: it is closed')
        started = perf_counter()
        state = droid_joint.state_row(observation, self.joint_names)[:-1]
        restart = (self._start_ns is None or instruction != self._instruction
                   or observation.stamp_ns < self._start_ns)
        if restart:
            distance = np.abs(state - self._positions[0])
            if distance.max() > self._tolerance:
                joint = int(distance.argmax())
                raise PolicyError(
                    f'replay: {self.joint_names[joint]} is at {state[joint]:.3f} rad, the episode starts at '
                    f'{self._positions[0, joint]:.3f}; move the arm there, or widen start_tolerance_rad '
                    f'({self._tolerance:g})')
            self._start_ns, self._instruction = observation.stamp_ns, instruction
        assert self._start_ns is not None
        times = (observation.stamp_ns - self._start_ns + self.step_ns * np.arange(1, self.horizon + 1)) / 1e9
        stamps = self._episode.stamps_s
        positions = np.column_stack([np.interp(times, stamps, column) for column in self._positions.T])
        self._requests += 1
        return ActionChunk(
            stamp_ns=observation.stamp_ns, step_ns=self.step_ns, joint_names=self.joint_names,
            positions=positions, gripper=np.interp(times, stamps, self._gripper), contract=self.contract,
            instruction=instruction, seed=seed, steps=0, guidance=1.0, policy=self.name,
            identity=self.identity, trace_id=f'replay-{observation.stamp_ns}-{self._requests}',
            latency_s=perf_counter() - started)

    def close(self) -> None:
        """Nothing is held open."""
        self._closed = True


def create_replay(
    *, dataset: str, joint_names: Sequence[str], episode: int = 0, source: str = 'action',
    start_tolerance_rad: float = 0.1,
) -> ReplayPolicy:
    """Read an episode and build the policy.

    :param dataset: Directory of a LeRobot v3 dataset.
    :param joint_names: The robot's arm joints, in the order of the dataset's columns.
    :param source: ``action``: what was commanded; ``state``: what was measured.
    :param start_tolerance_rad: Largest distance of a joint from the episode's first row at its start.
    :raises PolicyError: A setting, the robot or the dataset does not fit.
    """
    check_types(locals(), {
        'dataset': 'text', 'episode': 'integer', 'source': 'text', 'start_tolerance_rad': 'number'})
    if source not in SOURCES:
        raise PolicyError(f'source: {source!r} arrived, one of {", ".join(SOURCES)} is allowed')
    if not 0.0 < start_tolerance_rad <= 7.0:
        raise PolicyError(f'start_tolerance_rad: {start_tolerance_rad} arrived, above 0 to 7 is allowed')
    joints = droid_joint.check_robot(joint_names)
    try:
        read = read_episode(Path(dataset).expanduser(), episode)
    except EpisodeError as error:
        raise PolicyError(f'dataset: {error}') from error
    return ReplayPolicy(read, joints, source, float(start_tolerance_rad))
