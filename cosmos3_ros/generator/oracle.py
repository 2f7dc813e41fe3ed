"""The oracle: the scripted expert rolled out on a copy of the simulated state. Not a model.

It sees what no robot sees (``msg/SimulationState``) and exists to exercise every stage after it.
"""

from collections import deque
from dataclasses import dataclass, replace
from hashlib import blake2b
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import ActionChunk, ModelIdentity, Observation
from cosmos3_ros.generator.policy import PolicyError
from cosmos3_ros.sim.configuration import ARM_JOINTS, CUBE_COLOURS, SimulationConfig, SimulationError
from cosmos3_ros.sim.expert import Expert, ExpertMemory
from cosmos3_ros.sim.snapshot import SimulationSnapshot
from cosmos3_ros.sim.tasks import Goal, parse_instruction
from cosmos3_ros.sim.world import World

HORIZON = 32
RATE_HZ = 15
ROLLOUT_RATE_HZ = 250
CONTRACT = 'droid_joint'
IDENTITY = ModelIdentity(
    checkpoint='oracle (scripted expert on the privileged simulator state)', engine='mujoco/float64/cpu',
    trained=True)

_HISTORY = 90
# Rows closer than this are one place; the arm within this of where time puts it is on time; farther than
# this from the plan it was moved by something else.
_STANDSTILL_RAD = 1e-4
_SAME_PLACE_RAD = 1e-3
_SAME_TIME_ROWS = 0.1
_OFF_COURSE_RAD = 0.06
_MAX_DISTANCE_NS = 100_000_000


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """The last rollout: what the expert remembered, row by row, from ``stamp_ns`` on."""

    episode: int
    goal: Goal
    stamp_ns: int
    memories: tuple[ExpertMemory, ...]

    def progress(self, joints: NDArray[np.float64], most: float) -> tuple[float, float]:
        """Return how many rows of the plan the arm has done, and its distance from the plan, radians.

        The nearest point of the plan's joint path is taken, because a controller may follow more slowly
        than the rows are due. Where the plan stands still, time decides.

        :param joints: Shape (7,), where the arm is.
        :param most: Rows that can have been done since the plan began.
        """
        path = np.array([memory.joints for memory in self.memories])
        starts, steps = path[:-1], np.diff(path, axis=0)
        lengths = np.maximum((steps * steps).sum(axis=1), 1e-12)
        rows = np.arange(len(steps))
        share = np.clip(((joints - starts) * steps).sum(axis=1) / lengths, 0.0, 1.0)
        share[lengths < _STANDSTILL_RAD**2] = 1.0
        share = np.minimum(share, np.maximum(most - rows, 0.0))
        distance = np.abs(starts + share[:, None] * steps - joints).max(axis=1)
        distance[rows > most] = np.inf
        near = np.flatnonzero(distance <= distance.min() + _SAME_PLACE_RAD)
        best = int(near[-1])
        done = best + float(share[best])
        return (most if most - done < _SAME_TIME_ROWS else done), float(distance[best])


class OraclePolicy:
    """Chunks of 32 rows at 15 Hz that do the episode's task.

    Call :meth:`update_state` with every simulation state; :meth:`generate` then plans from the state
    nearest to the observation. Between calls the expert's memory is carried on along the last rollout
    to where the arm has got on it, so that the arm, which follows the previous chunk while this
    one is computed, finds a continuation of it.

    :param config: Must describe the same scene (cubes) as the simulator's.
    """

    name = 'oracle'
    contract = CONTRACT
    identity = IDENTITY
    joint_names = ARM_JOINTS
    camera_slots: tuple[str, ...] = ()
    horizon = HORIZON
    step_ns = round(1e9 / RATE_HZ)

    def __init__(self, config: SimulationConfig | None = None) -> None:
        # Half the simulator's rate: the rollout is a prediction, and time to plan is latency.
        self._world = World(replace(config or SimulationConfig(), physics_rate_hz=ROLLOUT_RATE_HZ))
        self._expert = Expert(self.step_ns * 1e-9)
        self._history: deque[SimulationSnapshot] = deque(maxlen=_HISTORY)
        self._plan: _Plan | None = None

    def update_state(self, snapshot: SimulationSnapshot) -> None:
        """Take one simulation state. A new episode or a step back in time forgets the older ones."""
        if self._history:
            newest = self._history[-1]
            if snapshot.episode != newest.episode or snapshot.stamp_ns < newest.stamp_ns:
                self._history.clear()
        self._history.append(snapshot)

    def warm_up(self) -> None:
        """Roll out a row in the private world, so that the first request is not the slow one."""
        goal = self._world.reset('reach', 0)
        self._expert.act(self._world, goal, self._expert.begin(self._world, goal))

    def generate(self, observation: Observation, instruction: str, *, seed: int) -> ActionChunk:
        """Roll the expert out from the observation's instant.

        :param observation: Only its stamp is used.
        :param instruction: Must ask for what the running episode asks for.
        :param seed: Recorded in the chunk; the expert draws nothing.
        :raises PolicyError: No simulation state near the observation, or an instruction that is not
            understood or is not the episode's.
        """
        started = perf_counter()
        snapshot = self._nearest(observation.stamp_ns)
        goal = self._check_goal(instruction, snapshot)
        try:
            self._world.restore(snapshot)
            rows, plan = self._roll_out(goal, snapshot.episode, observation.stamp_ns)
        except SimulationError as error:
            raise PolicyError(f'policy oracle: {error}') from error
        self._plan = plan
        gripper = np.array([memory.gripper for memory in rows])
        positions = np.array([memory.joints for memory in rows])
        digest = blake2b(positions.tobytes() + gripper.tobytes(), digest_size=4).hexdigest()
        return ActionChunk(
            stamp_ns=observation.stamp_ns, step_ns=self.step_ns, joint_names=ARM_JOINTS,
            positions=positions, gripper=gripper, contract=CONTRACT, instruction=instruction, seed=seed,
            steps=0, guidance=1.0, policy=self.name, identity=IDENTITY,
            trace_id=f'oracle-{observation.stamp_ns}-{digest}', latency_s=perf_counter() - started)

    def close(self) -> None:
        """Forget states and plan."""
        self._history.clear()
        self._plan = None

    def _nearest(self, stamp_ns: int) -> SimulationSnapshot:
        if not self._history:
            raise PolicyError(
                'policy oracle: no simulation state has arrived; it needs the topic simulation_state of '
                'the simulator, which a real robot does not have (use policy: cosmos3 there)')
        snapshot = min(tuple(self._history), key=lambda s: abs(s.stamp_ns - stamp_ns))
        distance_ns = abs(snapshot.stamp_ns - stamp_ns)
        if distance_ns > _MAX_DISTANCE_NS:
            raise PolicyError(
                f'policy oracle: the simulation state nearest to the observation is '
                f'{distance_ns * 1e-9:.3f} s away, {_MAX_DISTANCE_NS * 1e-9:g} s is allowed; '
                'check that simulator and generator run on the same clock (use_sim_time) and that '
                'simulation_state is published')
        return snapshot

    def _check_goal(self, instruction: str, snapshot: SimulationSnapshot) -> Goal:
        try:
            asked, running = parse_instruction(instruction), parse_instruction(snapshot.instruction)
        except SimulationError as error:
            raise PolicyError(f'policy oracle: {error}') from error
        if asked != running:
            raise PolicyError(
                f'policy oracle: the instruction {instruction!r} asks for {asked.task} with the '
                f'{asked.colour} cube, but the running episode is {snapshot.instruction!r}; send that '
                'sentence or reset the episode')
        return asked

    def _roll_out(self, goal: Goal, episode: int, stamp_ns: int) -> tuple[list[ExpertMemory], _Plan]:
        world = self._world
        if stamp_ns > world.time_ns:
            world.step_until(stamp_ns)
        memory = self._recall(goal, episode, stamp_ns)
        memories = self._expert.roll_out(world, goal, memory, HORIZON)
        return memories, _Plan(episode, goal, stamp_ns, (memory, *memories))

    def _recall(self, goal: Goal, episode: int, stamp_ns: int) -> ExpertMemory:
        """Return the memory that the expert should have at ``stamp_ns``."""
        plan = self._plan
        if plan is None or plan.episode != episode or plan.goal != goal or stamp_ns < plan.stamp_ns:
            return self._expert.begin(self._world, goal)
        # Camera stamps are rounded to the physics step, hence the rounding to a tenth of a row.
        most = min(round((stamp_ns - plan.stamp_ns) / self.step_ns, 1), float(HORIZON))
        done, distance_rad = plan.progress(self._world.state().position, most)
        row = min(int(done), HORIZON - 1)
        memory = plan.memories[row].toward(plan.memories[row + 1], done - row)
        if distance_rad > _OFF_COURSE_RAD:
            return self._expert.restart(self._world, goal, memory)
        return memory


def create_oracle(cubes: str = ','.join(CUBE_COLOURS)) -> OraclePolicy:
    """Build the oracle for ``generator.policy.create_policy``.

    :param cubes: Colours of the simulator's cubes, separated by commas.
    :raises PolicyError: A colour that does not exist.
    :raises resources.MissingDependencyError: The extra ``sim`` is not installed.
    """
    try:
        return OraclePolicy(SimulationConfig(cubes=tuple(c.strip() for c in cubes.split(','))))
    except SimulationError as error:
        raise PolicyError(f'policy oracle: {error}') from error
