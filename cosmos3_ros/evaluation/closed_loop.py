"""Episodes with a policy in the loop, without ROS: world, cameras, a latency, the package's controller.

Simulated time only: the same seeds give the same episodes on every machine. A policy that would be too
slow in real time is given its latency as a number.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..contracts import ActionChunk, ControllerMode, JointMeasurement, Observation
from ..control.config import ControllerConfig
from ..control.controller import Controller
from ..robots import load_robot
from ..sim.configuration import ARM_JOINTS, CAMERA_SLOTS, SimulationConfig
from ..sim.randomization import Randomizer
from ..sim.renderer import Renderer
from ..sim.tasks import Goal, TaskView, is_success
from ..sim.world import World

CAMERA_NS = round(1e9 / 15)
COMMAND_NS = 2_000_000
SETTLE_NS = 500_000_000
"""An episode goes on for so long after success: what is done must stay done."""


class ChunkPolicy(Protocol):
    """The part of :class:`generator.policy.Policy` that is needed here."""

    def generate(self, observation: Observation, instruction: str, *, seed: int) -> ActionChunk:
        """Compute one chunk."""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How a loop is closed.

    :param latency_s: From an observation to its chunk.
    :param replan_s: Between two observations that chunks are asked for.
    :param limit_s: Longest episode.
    :param light_variation: As ``SimulationConfig``'s.
    :param colour_variation: Likewise.
    """

    latency_s: float = 0.3
    replan_s: float = 0.5
    limit_s: float = 20.0
    light_variation: float = 0.0
    colour_variation: float = 0.0


@dataclass(frozen=True, slots=True)
class Episode:
    """How an episode ended.

    :param asked: The instruction that the policy was given.
    :param success: What was asked for is done at the end.
    :param nearest_m: Least distance between the tool and the goal's cube, horizontally.
    :param refusals: Chunks that the controller did not take.
    """

    task: str
    seed: int
    asked: str
    success: bool
    seconds: float
    chunks: int
    refusals: int
    nearest_m: float


class ClosedLoop:
    """One world, one renderer, one policy, many episodes.

    :raises sim.renderer.RendererError: Nothing can be rendered here.
    """

    def __init__(self, policy: ChunkPolicy, settings: LoopSettings | None = None) -> None:
        self._policy, self._settings = policy, settings or LoopSettings()
        config = SimulationConfig(
            light_variation=self._settings.light_variation, colour_variation=self._settings.colour_variation)
        self._world = World(config)
        self._renderer = Renderer(
            self._world.scene, config.image_width, config.image_height, CAMERA_SLOTS,
            sizes={slot: config.picture_size(slot) for slot in CAMERA_SLOTS}, shadows=config.shadows)
        self._randomizer = Randomizer(self._world.scene, config)
        self._robot = load_robot('panda', 'lab')

    def run(self, task: str, seed: int, colour: str | None = None) -> Episode:
        """Run one episode.

        :param colour: Ask for the cube of this colour instead of the episode's own; success is judged
            accordingly.
        """
        world, settings = self._world, self._settings
        goal = world.reset(task, seed)
        self._randomizer.apply(seed)
        if colour is not None:
            goal = Goal(task, colour)
        cube_start = world.cube_pose(goal.colour)[:3]
        controller = Controller(self._robot, ControllerConfig())
        controller.warm_up()
        controller.assess_latency(32, CAMERA_NS * 1e-9, settings.latency_s)
        start_ns = camera_ns = replan_ns = world.time_ns
        pending: tuple[int, ActionChunk] | None = None
        armed, success, chunks, refusals, nearest = False, False, 0, 0, float('inf')
        done_ns: int | None = None
        while world.time_ns - start_ns < settings.limit_s * 1e9:
            now = world.time_ns
            if now >= camera_ns:
                camera_ns += CAMERA_NS
                if now >= replan_ns and pending is None:
                    chunk = self._policy.generate(self._observe(now), goal.instruction, seed=seed)
                    pending = now + round(settings.latency_s * 1e9), chunk
                    replan_ns = now + round(settings.replan_s * 1e9)
                    chunks += 1
            if pending is not None and now >= pending[0]:
                refusals += not controller.submit(pending[1], now).accepted
                pending = None
            measurement = self._measure()
            controller.measure(measurement, now)
            if not armed:
                armed = controller.arm(now).accepted
            command = controller.tick(now)
            if command is not None and controller.mode in (ControllerMode.RUNNING, ControllerMode.STOPPING):
                world.apply(command)
            world.step_until(now + COMMAND_NS)
            nearest = min(
                nearest, float(np.linalg.norm(world.tcp[:2] - world.cube_pose(goal.colour)[:2])))
            success = self._is_done(goal, cube_start)
            if success:
                done_ns = done_ns or world.time_ns
                if world.time_ns - done_ns > SETTLE_NS:
                    break
            else:
                done_ns = None
        return Episode(
            task, seed, goal.instruction, success, (world.time_ns - start_ns) * 1e-9, chunks, refusals,
            nearest)

    def close(self) -> None:
        """Free the renderer."""
        self._renderer.close()

    def _is_done(self, goal: Goal, cube_start: NDArray[np.float64]) -> bool:
        world = self._world
        return is_success(goal.task, TaskView(
            tcp=world.tcp, cube=world.cube_pose(goal.colour)[:3], cube_start=cube_start,
            zone_xy=world.zone_xy, gripper=world.state().gripper))

    def _observe(self, now_ns: int) -> Observation:
        state, snapshot = self._world.state(), self._world.snapshot()
        return Observation(
            now_ns, self._renderer.render(snapshot.qpos, snapshot.zone_xy), ARM_JOINTS, state.position,
            state.gripper, 0)

    def _measure(self) -> JointMeasurement:
        state = self._world.state()
        return JointMeasurement(
            self._world.time_ns, ARM_JOINTS, state.position, state.velocity, state.effort, state.gripper)


def summarise(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Return successes per task and all episodes."""
    tasks = dict.fromkeys(e.task for e in episodes)
    return {
        'success': {t: f'{sum(e.success for e in episodes if e.task == t)}/'
                       f'{sum(e.task == t for e in episodes)}' for t in tasks},
        'refused_chunks': sum(e.refusals for e in episodes), 'episodes': [asdict(e) for e in episodes]}
