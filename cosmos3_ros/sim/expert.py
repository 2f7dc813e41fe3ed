"""The scripted expert: it sees the whole state and does the tasks, one row of joint positions at a time."""

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from .inverse_kinematics import InverseKinematics, tool_yaw
from .reference import MotionLimits, ToolReference
from .surroundings import Surroundings
from .tasks import REACH_HEIGHT_M, Goal

_ABOVE_M = 0.12
CARRY_M = 0.15
# The controller keeps the finger capsules 1 mm off the table in its lab profile, which is the pinch point
# 18.5 mm off it.
_GRASP_M = 0.025
_PLACE_M = 0.0265
PUSH_M = 0.036
PUSH_RUN_UP_M = 0.085
_PUSH_SPEED_M_S = 0.10
PUSH_GRIPPER = 1.0
"""Closed, as a controller with a threshold makes of it (config/robots/panda.yaml: 0.6): what is recorded must
be what is seen in the loop. The fingers are then narrower than a cube."""
_PUSH_DONE_M = 0.012
_VERTICAL_SPEED_M_S = 0.18
_CLOSE_S = 0.75
_OPEN_S = 0.60
_DWELL_S = 0.20
_ARRIVED_M = 0.006
_ARRIVED_YAW_RAD = 0.04
_HELD_M = 0.035
_LOST_CUBE_M = 0.05
_GRASPED = 0.2


class Phase(Enum):
    """What the expert is doing."""

    APPROACH = 'approach'
    DESCEND = 'descend'
    CLOSE = 'close'
    LIFT = 'lift'
    CARRY = 'carry'
    LOWER = 'lower'
    RELEASE = 'release'
    PUSH = 'push'
    RETREAT = 'retreat'
    DONE = 'done'


@dataclass(frozen=True, slots=True, eq=False)
class ExpertMemory:
    """All that the expert carries from one row to the next.

    :param phase_s: Seconds spent waiting in this phase.
    :param grasp_yaw: Yaw that the present approach aims at, radians.
    :param joints: Shape (7,), the last row, where inverse kinematics starts.
    :param anchor: Shape (2,), where a purely vertical motion stands, metres.
    """

    phase: Phase
    phase_s: float
    reference: ToolReference
    grasp_yaw: float
    gripper: float
    joints: NDArray[np.float64]
    anchor: NDArray[np.float64]

    def toward(self, following: 'ExpertMemory', share: float) -> 'ExpertMemory':
        """Return the memory ``share`` (0..1) of a row later; ``following`` is the next row's."""
        if share >= 1.0:
            return following
        if share <= 0.0:
            return self
        return replace(
            self, reference=self.reference.toward(following.reference, share),
            joints=self.joints + share * (following.joints - self.joints))


class Expert:
    """A phase machine that turns the world's state into rows of absolute joint positions and gripper.

    It holds no state of its own: memory goes in and comes out, so a plan can be resumed from any row.

    :param row_s: Seconds between rows.
    """

    def __init__(self, row_s: float, limits: MotionLimits | None = None) -> None:
        self._row_s = row_s
        self._limits = limits or MotionLimits()
        self._kinematics = InverseKinematics()

    def begin(self, world: Surroundings, goal: Goal) -> ExpertMemory:
        """Return the memory of an expert that starts from the arm's present state."""
        state = world.state()
        yaw = tool_yaw(world.tcp_rotation)
        return ExpertMemory(
            phase=Phase.APPROACH, phase_s=0.0,
            reference=ToolReference(world.tcp, np.zeros(3), yaw, 0.0),
            grasp_yaw=self._approach_yaw(world, goal),
            gripper=PUSH_GRIPPER if goal.task == 'push' else 0.0,
            joints=state.position, anchor=world.tcp[:2])

    def restart(self, world: Surroundings, goal: Goal, memory: ExpertMemory) -> ExpertMemory:
        """Return the memory of an expert whose arm was moved off its way by something else.

        What is in the gripper is kept; otherwise the task starts again from where the arm is.
        """
        yaw = tool_yaw(world.tcp_rotation)
        yaw += 2 * np.pi * round((memory.reference.yaw - yaw) / (2 * np.pi))
        anchored = replace(
            memory, reference=ToolReference(world.tcp, np.zeros(3), yaw, 0.0), joints=world.state().position)
        carrying = memory.phase in (Phase.LIFT, Phase.CARRY, Phase.LOWER)
        if carrying and self._is_held(world, goal):
            # Up first: the way across is only free above the other cubes.
            return replace(self._enter(anchored, Phase.LIFT), anchor=world.tcp[:2])
        if memory.phase is Phase.DONE:
            return anchored
        return self._restart(world, goal, anchored)

    def act(self, world: Surroundings, goal: Goal, memory: ExpertMemory) -> ExpertMemory:
        """Return the memory one row later; its ``joints`` and ``gripper`` are the row."""
        step = {'reach': self._reach, 'push': self._push, 'pick_place': self._pick_place}[goal.task]
        memory = step(world, goal, memory)
        joints = self._kinematics.solve(memory.joints, memory.reference.position, memory.reference.yaw)
        return replace(memory, joints=joints)

    def roll_out(
        self, world: Surroundings, goal: Goal, memory: ExpertMemory, rows: int,
    ) -> list[ExpertMemory]:
        """Act for some rows in ``world``, whose arm is led along them, and return the memory of each."""
        found = []
        for _ in range(rows):
            following = self.act(world, goal, memory)
            world.track(memory.joints, following.joints, following.gripper, round(self._row_s * 1e9))
            found.append(following)
            memory = following
        return found

    def _reach(self, world: Surroundings, goal: Goal, memory: ExpertMemory) -> ExpertMemory:
        cube = world.cube_pose(goal.colour)[:3]
        memory, arrived = self._move(memory, cube + np.array([0.0, 0.0, REACH_HEIGHT_M]), memory.grasp_yaw)
        return replace(memory, phase=Phase.DONE) if arrived else memory

    def _pick_place(self, world: Surroundings, goal: Goal, memory: ExpertMemory) -> ExpertMemory:
        cube, zone = world.cube_pose(goal.colour)[:3], world.zone_xy
        yaw = memory.grasp_yaw
        phase = memory.phase
        if phase in (Phase.LIFT, Phase.CARRY, Phase.LOWER) and not self._is_held(world, goal):
            return self._restart(world, goal, memory)
        if phase is Phase.APPROACH:
            memory, arrived = self._move(memory, _over(cube, _ABOVE_M), yaw)
            return self._enter(memory, Phase.DESCEND) if arrived else memory
        if phase is Phase.DESCEND:
            if np.linalg.norm(cube[:2] - memory.reference.position[:2]) > _LOST_CUBE_M:
                return self._restart(world, goal, memory)
            memory, arrived = self._move(memory, _over(cube, _GRASP_M), yaw, _VERTICAL_SPEED_M_S)
            settled = self._dwell(memory) if arrived else memory
            return self._enter(settled, Phase.CLOSE) if settled.phase_s >= _DWELL_S else settled
        if phase is Phase.CLOSE:
            memory, _ = self._move(memory, memory.reference.position, yaw)
            memory = self._dwell(replace(memory, gripper=1.0))
            if memory.phase_s < _CLOSE_S or world.state().gripper < _GRASPED:
                return memory
            return replace(self._enter(memory, Phase.LIFT), anchor=memory.reference.position[:2])
        if phase is Phase.LIFT:
            memory, arrived = self._move(memory, _over(memory.anchor, CARRY_M), yaw, _VERTICAL_SPEED_M_S)
            return self._enter(memory, Phase.CARRY) if arrived else memory
        if phase is Phase.CARRY:
            memory, arrived = self._move(memory, _over(zone, CARRY_M), yaw)
            return self._enter(memory, Phase.LOWER) if arrived else memory
        if phase is Phase.LOWER:
            memory, arrived = self._move(memory, _over(zone, _PLACE_M), yaw, _VERTICAL_SPEED_M_S)
            settled = self._dwell(memory) if arrived else memory
            return self._enter(settled, Phase.RELEASE) if settled.phase_s >= _DWELL_S else settled
        if phase is Phase.RELEASE:
            memory, _ = self._move(memory, memory.reference.position, yaw)
            memory = self._dwell(replace(memory, gripper=0.0))
            if memory.phase_s < _OPEN_S:
                return memory
            return replace(self._enter(memory, Phase.RETREAT), anchor=memory.reference.position[:2])
        memory, arrived = self._move(memory, _over(memory.anchor, CARRY_M), yaw, _VERTICAL_SPEED_M_S)
        if arrived and phase is Phase.RETREAT:
            if np.linalg.norm(cube[:2] - zone) > _LOST_CUBE_M:
                return self._restart(world, goal, memory)
            return self._enter(memory, Phase.DONE)
        return memory

    def _push(self, world: Surroundings, goal: Goal, memory: ExpertMemory) -> ExpertMemory:
        cube, zone = world.cube_pose(goal.colour)[:3], world.zone_xy
        way = zone - cube[:2]
        distance = float(np.linalg.norm(way))
        direction = way / max(distance, 1e-6)
        behind = cube[:2] - direction * PUSH_RUN_UP_M
        tool = memory.reference.position[:2]
        phase = memory.phase
        if phase in (Phase.APPROACH, Phase.DESCEND):
            memory = replace(memory, grasp_yaw=_line_yaw(direction, memory.grasp_yaw))
            height = _ABOVE_M if phase is Phase.APPROACH else PUSH_M
            speed = None if phase is Phase.APPROACH else _VERTICAL_SPEED_M_S
            memory, arrived = self._move(memory, _over(behind, height), memory.grasp_yaw, speed)
            following = Phase.DESCEND if phase is Phase.APPROACH else Phase.PUSH
            return self._enter(memory, following) if arrived else memory
        if phase is Phase.PUSH:
            if distance < _PUSH_DONE_M or float((world.tcp[:2] - zone) @ direction) > 0.0:
                return replace(self._enter(memory, Phase.RETREAT), anchor=tool.copy())
            beside = (tool - cube[:2]) - ((tool - cube[:2]) @ direction) * direction
            if np.linalg.norm(beside) > 0.022 and distance > _LOST_CUBE_M:
                # The cube slid off the fingers: go round it and push again.
                return self._restart(world, goal, memory)
            if distance > _LOST_CUBE_M:
                # Near the zone the direction swings with every millimetre; then it is kept.
                memory = replace(memory, grasp_yaw=_line_yaw(direction, memory.grasp_yaw))
            ahead = tool + direction * 0.10 - beside
            memory, _ = self._move(memory, _over(ahead, PUSH_M), memory.grasp_yaw, _PUSH_SPEED_M_S)
            return memory
        memory, arrived = self._move(
            memory, _over(memory.anchor, CARRY_M), memory.grasp_yaw, _VERTICAL_SPEED_M_S)
        if arrived and phase is Phase.RETREAT:
            if distance > 0.04:
                return self._restart(world, goal, memory)
            return self._enter(memory, Phase.DONE)
        return memory

    def _restart(self, world: Surroundings, goal: Goal, memory: ExpertMemory) -> ExpertMemory:
        """Return a memory that goes straight up first, then approaches again."""
        yaw = self._approach_yaw(world, goal)
        gripper = PUSH_GRIPPER if goal.task == 'push' else 0.0
        memory = replace(self._enter(memory, Phase.RETREAT), grasp_yaw=memory.reference.yaw, gripper=gripper,
                         anchor=memory.reference.position[:2].copy())
        if is_high(memory.reference.position[2]) or goal.task == 'reach':
            return replace(memory, phase=Phase.APPROACH, grasp_yaw=yaw)
        return memory

    def _approach_yaw(self, world: Surroundings, goal: Goal) -> float:
        pose = world.cube_pose(goal.colour)
        if goal.task == 'push':
            # Half a turn about the yaw at which joint 7 stands in the middle of its range.
            return _line_yaw(world.zone_xy - pose[:2], np.pi / 4)
        cube_yaw = 2.0 * float(np.arctan2(pose[6], pose[3]))
        # The cube looks the same every quarter turn: take the one nearest to home.
        return (cube_yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4

    def _is_held(self, world: Surroundings, goal: Goal) -> bool:
        return bool(np.linalg.norm(world.cube_pose(goal.colour)[:3] - world.tcp) < _HELD_M)

    def _move(self, memory: ExpertMemory, target: NDArray[np.float64], yaw: float,
              speed_m_s: float | None = None) -> tuple[ExpertMemory, bool]:
        reference = memory.reference.advance(target, yaw, self._row_s, self._limits, speed_m_s)
        arrived = (np.linalg.norm(target - reference.position) < _ARRIVED_M
                   and abs(yaw - reference.yaw) < _ARRIVED_YAW_RAD)
        return replace(memory, reference=reference), bool(arrived)

    def _dwell(self, memory: ExpertMemory) -> ExpertMemory:
        return replace(memory, phase_s=memory.phase_s + self._row_s)

    def _enter(self, memory: ExpertMemory, phase: Phase) -> ExpertMemory:
        return replace(memory, phase=phase, phase_s=0.0)


def is_high(height_m: float) -> bool:
    """Whether a tool is so high that the expert, beginning anew, need not go up first."""
    return height_m > 0.9 * _ABOVE_M


def _over(point: NDArray[np.float64], height: float) -> NDArray[np.float64]:
    return np.array([point[0], point[1], height])


def _line_yaw(direction: NDArray[np.float64], near: float) -> float:
    """Return the yaw, nearest to ``near``, whose closing axis is perpendicular to ``direction``."""
    angle = float(np.arctan2(direction[1], direction[0]))
    return near + (angle - near + np.pi / 2) % np.pi - np.pi / 2


