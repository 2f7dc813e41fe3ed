"""Glances: scenes of their own, one picture each, with the chunks of what could be asked for in them.

An episode shows one scene a hundred times. A policy that is to find cubes in scenes it has never seen needs
scenes, and a glance costs as much as three frames of an episode.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..generator.droid_joint import HORIZON
from ..sim.configuration import FINGER_TRAVEL_M
from ..sim.expert import Expert, ExpertMemory, Phase
from ..sim.inverse_kinematics import InverseKinematics
from ..sim.reference import ToolReference
from ..sim.scene import simulated_robot
from ..sim.still_world import StillWorld
from ..sim.tasks import Goal
from ..sim.world import World
from .episode_alternatives import Alternative, chunk_rows, other_goals
from .episode_instructions import word_instruction
from .episode_plan import FIRST_WORLD_SEED, EpisodePlan
from .episode_settings import RATE_HZ
from .episode_trace import EpisodeTrace, TraceFrame, take_frame
from .glance_stances import Stance, draw_stance

_STREAM = 0x91A9CE
_RUN_UP_ROWS = 8
"""0.26 m/s are reached in so many rows at 0.5 m/s^2. Joints do not say how fast they move, where the arm is
has to: it rests where it starts, elsewhere it is on its way, as in episodes. (Speeds drawn at random cost a
policy half of its precision eight rows ahead.)"""
_WAY_ROWS = 12
_HELD_BELOW_M = 0.005
_QUIET = 0.3
"""Share of the noise on the joints that is left where the arm is at its goal."""
_DRAWS = 20


class GlanceRunner:
    """Makes episodes of glances in one world.

    :param world: Its cubes must be those of the plans.
    :param tasks: What may be asked for.
    :param glances: Of an episode.
    :param chunks: At most so many of one glance.
    """

    def __init__(self, world: World, tasks: Sequence[str], glances: int, chunks: int) -> None:
        self._world, self._tasks = world, tuple(tasks)
        self._glances, self._chunks = glances, chunks
        self._still = StillWorld(world.config)
        self._expert = Expert(1.0 / RATE_HZ)
        self._kinematics = InverseKinematics()

    def run(self, plan: EpisodePlan) -> EpisodeTrace:
        """Return a plan's glances as the frames of an episode in which nothing is demonstrated."""
        frames: list[TraceFrame] = []
        chunks: list[Alternative] = []
        goals: list[Goal] = []
        for number in range(self._glances):
            rng = np.random.default_rng([_STREAM, plan.noise_seed, number])
            task = self._tasks[int(rng.integers(len(self._tasks)))]
            goals.append(self._world.reset(task, FIRST_WORLD_SEED + int(rng.integers(2**31))))
            stance, joints = self._stand(goals[-1], plan.noise_rad, rng)
            found = self._ask(number, goals[-1], stance, joints, rng)
            frames.append(take_frame(self._world, found[0].rows[0], stance.phase))
            chunks += found
        return EpisodeTrace(goals[0], chunks[0].instruction, tuple(frames), True, tuple(chunks))

    def _stand(
        self, goal: Goal, noise_rad: float, rng: np.random.Generator,
    ) -> tuple[Stance, NDArray[np.float64]]:
        """Put the arm somewhere where it touches nothing; the joints are without the noise."""
        start = self._world.snapshot()
        for _ in range(_DRAWS):
            stance = draw_stance(self._world, goal, self._expert, rng)
            if stance is None:
                break
            joints = self._joints(stance)
            self._put(stance, goal, joints, noise_rad, rng)
            touched = {colour for colour, by in self._world.cube_contacts().items() if by - {'table'}}
            if not touched - ({goal.colour} if stance.held else set()):
                return stance, joints
            self._world.restore(start)
        joints = self._world.state().position
        return Stance(*self._kinematics.tool_pose(joints), at_start=True), joints

    def _joints(self, stance: Stance) -> NDArray[np.float64]:
        """Return joints as the expert would have brought them there: on a way from home."""
        joints = simulated_robot().home_rad
        home, yaw = self._kinematics.tool_pose(joints)
        for share in np.linspace(0.0, 1.0, _WAY_ROWS + 1)[1:]:
            joints = self._kinematics.solve(
                joints, home + share * (stance.position - home), yaw + share * (stance.yaw - yaw))
        return joints

    def _put(
        self, stance: Stance, goal: Goal, joints: NDArray[np.float64], noise_rad: float,
        rng: np.random.Generator,
    ) -> None:
        scene, now = self._world.scene, self._world.snapshot()
        qpos, ctrl = now.qpos.copy(), now.ctrl.copy()
        sigma = noise_rad * (_QUIET if stance.at_goal else 1.0)
        qpos[scene.arm_qpos] = joints + sigma * rng.normal(0.0, 1.0, len(joints)).clip(-2.5, 2.5)
        finger = (1.0 - stance.gripper) * FINGER_TRAVEL_M
        qpos[scene.finger_qpos], ctrl[-1] = finger, finger
        at = scene.cube_qpos[goal.colour]
        if stance.cube is not None:
            qpos[at:at + 2] = stance.cube
        if stance.held:
            position, yaw = self._kinematics.tool_pose(qpos[scene.arm_qpos])
            qpos[at:at + 3] = position - [0.0, 0.0, _HELD_BELOW_M]
            qpos[at + 3:at + 7] = np.cos(0.5 * yaw), 0.0, 0.0, np.sin(0.5 * yaw)
        self._world.restore(replace(now, qpos=qpos, qvel=np.zeros_like(now.qvel), ctrl=ctrl))

    def _ask(
        self, number: int, goal: Goal, stance: Stance, joints: NDArray[np.float64],
        rng: np.random.Generator,
    ) -> list[Alternative]:
        """Return the chunk of the goal, and others where the arm is free."""
        goals = [goal]
        if not stance.at_goal:
            others = other_goals(self._world, goal, self._tasks)
            goals += [others[i] for i in rng.permutation(len(others))[:self._chunks - 1]]
        return [
            Alternative(number, word_instruction(asked, rng), self._roll_out(asked, stance, joints))
            for asked in goals]

    def _roll_out(self, goal: Goal, stance: Stance, joints: NDArray[np.float64]) -> NDArray[np.float64]:
        still, expert = self._still, self._expert
        still.copy(self._world)
        memory = replace(
            expert.begin(still, goal), phase=stance.phase, anchor=stance.position[:2], joints=joints,
            reference=ToolReference(stance.position, np.zeros(3), stance.yaw, 0.0))
        if stance.held:
            memory = replace(memory, gripper=1.0)
        if stance.phase is Phase.RETREAT:
            memory = replace(memory, grasp_yaw=stance.yaw)  # straight up
        memory = self._run_up(goal, memory, 0 if stance.at_start else _RUN_UP_ROWS)
        return chunk_rows(expert.roll_out(still, goal, memory, HORIZON))

    def _run_up(self, goal: Goal, start: ExpertMemory, rows: int) -> ExpertMemory:
        """Return a memory that moves towards the goal as after some rows, without having left its place."""
        memory = start
        for _ in range(rows):
            moving = self._expert.act(self._still, goal, memory).reference
            memory = replace(start, reference=replace(
                moving, position=start.reference.position, yaw=start.reference.yaw))
        return memory
