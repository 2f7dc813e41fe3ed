"""The oracle: the scripted expert rolled out on a copy of the simulated state. Not a model.

It sees what no robot sees (``msg/SimulationState``) and exists to exercise every stage after it.
"""

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from hashlib import blake2b
from time import perf_counter

import numpy as np

from cosmos3_ros.contracts import ActionChunk, ModelIdentity, Observation
from cosmos3_ros.generator.policy import PolicyError
from cosmos3_ros.sim.configuration import ARM_JOINTS, SimulationConfig, SimulationError
from cosmos3_ros.sim.expert import Expert, ExpertMemory
from cosmos3_ros.sim.snapshot import SimulationSnapshot
from cosmos3_ros.sim.tasks import Goal, parse_instruction
from cosmos3_ros.sim.world import World

HORIZON = 32
RATE_HZ = 15
CONTRACT = 'droid_joint'
IDENTITY = ModelIdentity(
    checkpoint='oracle (scripted expert on the privileged simulator state)', engine='mujoco/float64/cpu',
    trained=True)

_HISTORY = 90
_MAX_DISTANCE_NS = 100_000_000


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """The last rollout: what the expert remembered at which instant."""

    episode: int
    goal: Goal
    stamps_ns: tuple[int, ...]
    memories: tuple[ExpertMemory, ...]


class OraclePolicy:
    """Chunks of 32 rows at 15 Hz that do the episode's task.

    Call :meth:`update_state` with every simulation state; :meth:`generate` then plans from the state
    nearest to the observation. Between calls the expert's memory is carried on along the last rollout
    to the instant of the new observation, so that the arm, which follows the previous chunk
    while this one is computed, finds a continuation of it.

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
        self._world = World(config or SimulationConfig())
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
        stamps, memories = [stamp_ns], [memory]
        for row in range(HORIZON):
            following = self._expert.act(world, goal, memory)
            world.track(memory.joints, following.joints, following.gripper, self.step_ns)
            memory = following
            stamps.append(stamp_ns + (row + 1) * self.step_ns)
            memories.append(memory)
        return memories[1:], _Plan(episode, goal, tuple(stamps), tuple(memories))

    def _recall(self, goal: Goal, episode: int, stamp_ns: int) -> ExpertMemory:
        """Return the memory that the expert should have at ``stamp_ns``."""
        plan = self._plan
        if plan is None or plan.episode != episode or plan.goal != goal or stamp_ns < plan.stamps_ns[0]:
            return self._expert.begin(self._world, goal)
        # Half a step of slack: camera stamps are rounded to the physics step.
        index = bisect_right(plan.stamps_ns, stamp_ns + self.step_ns // 2) - 1
        return self._expert.resume(self._world, goal, plan.memories[index])


def create_oracle(config: SimulationConfig | None = None) -> OraclePolicy:
    """Build the oracle for ``generator.policy.create_policy``.

    :raises resources.MissingDependencyError: The extra ``sim`` is not installed.
    """
    return OraclePolicy(config)
