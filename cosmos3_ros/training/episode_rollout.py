"""Run one planned episode: the expert in the simulated world, disturbed, delayed, or made to fail.

The expert's rows are led by the world's own servo (``World.track``), not by the package's controller: a row
is then exactly what the next frame's state should become, and the lag of whatever follows the rows on a real
arm is drawn instead (``EpisodePlan.lag_s``), so that the policy learns rows that fit any follower.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..sim.expert import Expert, ExpertMemory, Phase
from ..sim.inverse_kinematics import InverseKinematics
from ..sim.reference import MotionLimits
from ..sim.surroundings import Surroundings
from ..sim.tasks import Goal
from ..sim.world import World
from .episode_alternatives import Alternative, AlternativeRunner
from .episode_instructions import word_instruction
from .episode_plan import Disturbance, EpisodePlan
from .episode_settings import RATE_HZ
from .episode_trace import EpisodeTrace, TraceFrame, take_frame

LONGEST_FRAMES = 300
_LONGEST_MISSES = 130
_ROW_S = 1.0 / RATE_HZ
_NOISE_CORRELATION_S = 0.35
_GAIN_S = 0.25
# A grasp survives no noise: there it is faded out.
_NOISE_GAIN = {Phase.APPROACH: 1.0, Phase.LIFT: 1.0, Phase.CARRY: 1.0, Phase.RETREAT: 1.0, Phase.PUSH: 0.4,
               Phase.DESCEND: 0.3, Phase.DONE: 0.3}
_DISTURBED = (Phase.APPROACH, Phase.DESCEND, Phase.LIFT, Phase.CARRY, Phase.PUSH)
_LOWEST_M = 0.06
_MISS_M = 0.055
# Dropped nearer to the circle, a cube could come to rest on it.
_DROP_AWAY_M = 0.10
_VISIBLE_STANDSTILL = 10
_VISIBLE_DROP = 6


class _MisledWorld:
    """The world with one cube believed beside where it is: what the expert sees that is made to miss."""

    def __init__(self, world: World, colour: str, shift: NDArray[np.float64]) -> None:
        self._world, self._colour, self._shift = world, colour, shift

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world, name)

    def cube_pose(self, colour: str) -> NDArray[np.float64]:
        pose = self._world.cube_pose(colour)
        if colour == self._colour:
            pose[:2] += self._shift
        return pose


@dataclass(slots=True)
class _Failing:
    """How a failure unfolds."""

    began: int = -1
    visible: bool = False


class EpisodeRunner:
    """Runs episodes in one world.

    :param world: Its cubes must be those of the plans.
    :param alternatives: Branches off episodes that do not fail; None: nothing does.
    """

    def __init__(self, world: World, alternatives: AlternativeRunner | None = None) -> None:
        self._world, self._alternatives = world, alternatives
        self._expert = Expert(_ROW_S)
        self._kinematics = InverseKinematics()
        self._limits = MotionLimits()

    def run(self, plan: EpisodePlan) -> EpisodeTrace:
        """Run an episode to its end, or for :data:`LONGEST_FRAMES`."""
        world = self._world
        goal = world.reset(plan.task, plan.world_seed)
        rng = np.random.default_rng(plan.noise_seed)
        instruction = word_instruction(goal, rng)
        act = self._choose_expert(plan, goal, rng)
        memory = self._expert.begin(world, goal)
        if plan.failure == 'wrong_cube':
            memory = self._expert.begin(world, self._other_goal(plan, goal))
        follower = _Follower(memory.joints, plan, rng)
        failing, astray = _Failing(), _Astray(plan.disturbances)
        frames: list[TraceFrame] = []
        alternatives: list[Alternative] = []
        branches = self._alternatives if not plan.failure and plan.anomaly is None else None
        left = plan.tail
        while len(frames) < LONGEST_FRAMES and left > 0:
            number = len(frames)
            gives_up = plan.failure == 'gives_up' and number >= plan.failure_frame
            following = memory
            if branches is not None:
                alternatives += branches.branch(number, world, goal, memory, plan.noise_seed)
            led = astray.lead(number, memory, self)
            if led is not None:
                following = led
            elif astray.returning:
                astray.returning = False
                memory = self._expert.restart(world, goal, memory)
                following = act(memory)
            elif not gives_up and failing.began < 0:
                following = act(memory)
            following = self._sabotage(plan, memory, following, failing, number, gives_up)
            frames.append(self._frame(following, led is None and not plan.failure, failing.visible))
            start, end = follower.follow(following, quiet=led is not None)
            world.track(start, end, following.gripper, _frame_ns(number, world.config.step_ns))
            memory = following
            if memory.phase is Phase.DONE or failing.visible:
                left -= 1
        return EpisodeTrace(goal, instruction, tuple(frames), world.success(), tuple(alternatives))

    def lead_astray(self, memory: ExpertMemory, target: NDArray[np.float64], yaw: float) -> ExpertMemory:
        """Return the memory one row later on the way to a place that the task has nothing to do with."""
        reference = memory.reference.advance(target, yaw, _ROW_S, self._limits, 0.30)
        joints = self._kinematics.solve(memory.joints, reference.position, reference.yaw)
        return replace(memory, reference=reference, joints=joints)

    def _choose_expert(self, plan: EpisodePlan, goal: Goal, rng: np.random.Generator,
                       ) -> Callable[[ExpertMemory], ExpertMemory]:
        world: Surroundings = self._world
        if plan.failure == 'wrong_cube':
            goal = self._other_goal(plan, goal)
        if plan.failure == 'misses':
            angle = rng.uniform(-np.pi, np.pi)
            shift = _MISS_M * np.array([np.cos(angle), np.sin(angle)])
            world = _MisledWorld(self._world, goal.colour, shift)
        return lambda memory: self._expert.act(world, goal, memory)

    def _other_goal(self, plan: EpisodePlan, goal: Goal) -> Goal:
        others = [colour for colour in plan.cubes if colour != goal.colour]
        return Goal(goal.task, others[plan.noise_seed % len(others)])

    def _sabotage(self, plan: EpisodePlan, memory: ExpertMemory, following: ExpertMemory, failing: _Failing,
                  number: int, gives_up: bool) -> ExpertMemory:
        """Return the row that makes the planned failure happen, and note when it shows."""
        if plan.failure == 'drops' and failing.began < 0 and following.phase is Phase.CARRY:
            distance = np.linalg.norm(following.reference.position[:2] - self._world.zone_xy)
            if distance > _DROP_AWAY_M and number >= plan.failure_frame:
                failing.began = number
        if gives_up and failing.began < 0:
            failing.began = number
        if failing.began >= 0:
            gripper = 0.0 if plan.failure == 'drops' else memory.gripper
            following = replace(memory, gripper=gripper)
            wait = _VISIBLE_DROP if plan.failure == 'drops' else _VISIBLE_STANDSTILL
            failing.visible = number - failing.began >= wait
        elif plan.failure == 'wrong_cube':
            failing.visible = failing.visible or following.phase is Phase.DONE
        elif plan.failure == 'misses':
            failing.visible = number >= _LONGEST_MISSES
        return following

    def _frame(self, following: ExpertMemory, is_expert: bool, failed: bool) -> TraceFrame:
        success = self._world.success()
        return take_frame(
            self._world, np.append(following.joints, following.gripper), following.phase,
            is_expert=is_expert, success=success, failed=failed and not success)


class _Follower:
    """What the arm really does with the rows: it trails them and is never quite there."""

    def __init__(self, start: NDArray[np.float64], plan: EpisodePlan, rng: np.random.Generator) -> None:
        self._rng = rng
        self._sigma_rad = plan.noise_rad
        self._keep = float(np.exp(-_ROW_S / _NOISE_CORRELATION_S))
        self._share = 1.0 if plan.lag_s < 1e-3 else 1.0 - float(np.exp(-_ROW_S / plan.lag_s))
        self._noise = np.zeros(len(start))
        self._gain = 0.0
        self._trailing = start
        self._last = start

    def follow(self, row: ExpertMemory, *, quiet: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the arm's reference now and at the row's time; first-order lag, Ornstein-Uhlenbeck noise."""
        fresh = self._rng.normal(0.0, 1.0, len(self._noise))
        self._noise = self._keep * self._noise + np.sqrt(1.0 - self._keep**2) * fresh
        wanted = 0.0 if quiet else _NOISE_GAIN.get(row.phase, 0.0)
        self._gain += (wanted - self._gain) * (1.0 - float(np.exp(-_ROW_S / _GAIN_S)))
        self._trailing = self._trailing + self._share * (row.joints - self._trailing)
        error = self._sigma_rad * self._gain * self._noise.clip(-2.5, 2.5)
        start, self._last = self._last, self._trailing + error
        return start, self._last


class _Astray:
    """Follows the plan's disturbances."""

    def __init__(self, disturbances: tuple[Disturbance, ...]) -> None:
        self._waiting = list(disturbances)
        self._until = -1
        self._target = np.zeros(3)
        self._yaw = 0.0
        self.returning = False

    def lead(self, number: int, memory: ExpertMemory, runner: EpisodeRunner) -> ExpertMemory | None:
        """Return the disturbed row, or None where the expert acts."""
        if number >= self._until:
            while self._waiting and self._waiting[0].frame < number:
                self._waiting.pop(0)
            due = self._waiting and self._waiting[0].frame == number
            if not due or memory.phase not in _DISTURBED:
                return None
            disturbance = self._waiting.pop(0)
            self._until = number + disturbance.frames
            self._target = memory.reference.position + np.array(disturbance.offset_m)
            self._target[2] = max(self._target[2], _LOWEST_M)
            self._target[:2] = np.clip(self._target[:2], [0.32, -0.28], [0.64, 0.28])
            self._yaw = memory.reference.yaw + disturbance.yaw_rad
        self.returning = True
        return runner.lead_astray(memory, self._target, self._yaw)


def _frame_ns(number: int, step_ns: int) -> int:
    """Return the simulated time of a frame: whole steps, right on average."""
    return (round((number + 1) * 1e9 / RATE_HZ / step_ns) - round(number * 1e9 / RATE_HZ / step_ns)) * step_ns
