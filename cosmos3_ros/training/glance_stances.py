"""Where the arm is in a glance: at the start, in the air, or where the task at hand takes it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..sim.configuration import FINGER_TRAVEL_M
from ..sim.expert import CARRY_M, PUSH_GRIPPER, PUSH_M, PUSH_RUN_UP_M, Expert, Phase, is_high
from ..sim.scene import CUBE_HALF_M
from ..sim.tasks import REACH_HEIGHT_M, Goal
from ..sim.world import World

_START_SHARE, _GOAL_SHARE = 0.15, 0.4
_ABOVE_CUBE_SHARE = 0.5
_ASTRAY_SHARE = 0.3
"""Of pushes: the arm has lost its cube."""
_UNDERWAY_SHARE = 0.4
"""Of pushes: the cube lies on its way,"""
_FARTHEST_SHARE = 0.6
"""up to so far."""
_LOW = np.array([0.32, -0.28, 0.10])
_HIGH = np.array([0.64, 0.28, 0.40])


@dataclass(frozen=True, slots=True, eq=False)
class Stance:
    """Where the arm is, before anything moves.

    :param position: Of the tool, which points down, shape (3,), metres, base frame.
    :param yaw: Radians.
    :param phase: What the expert is doing there.
    :param gripper: Measured, 0 open .. 1 closed.
    :param held: The goal's cube is in the fingers.
    :param cube: Where the goal's cube lies instead, shape (2,), metres, base frame; None: where it was.
    :param at_start: Where episodes begin: it has not moved yet.
    :param at_goal: Made for the scene's own goal: nothing else can be asked for.
    """

    position: NDArray[np.float64]
    yaw: float
    phase: Phase = Phase.APPROACH
    gripper: float = 0.0
    held: bool = False
    cube: NDArray[np.float64] | None = None
    at_start: bool = False
    at_goal: bool = False


def draw_stance(world: World, goal: Goal, expert: Expert, rng: np.random.Generator) -> Stance | None:
    """Draw where the arm could be in a scene; None: where it starts.

    15 % at the start, 40 % where the goal's task takes it, the others in the air, half of them above a cube.
    """
    fate = rng.random()
    if fate < _START_SHARE:
        return None
    if fate < _START_SHARE + _GOAL_SHARE:
        draw = {'reach': _above, 'push': _behind, 'pick_place': _grasping}[goal.task]
        return draw(world, goal, expert, rng)
    gripper = PUSH_GRIPPER if goal.task == 'push' and rng.random() < 0.5 else 0.0
    if rng.random() < _ABOVE_CUBE_SHARE:
        colours = world.config.cubes
        some = Goal('reach', colours[int(rng.integers(len(colours)))])
        around = world.cube_pose(some.colour)[:2] + rng.normal(0.0, 0.04, 2)
        yaw = expert.begin(world, some).grasp_yaw + float(rng.normal(0.0, 0.2))
        return Stance(np.append(around, rng.uniform(_LOW[2], 0.22)), yaw, gripper=gripper)
    return Stance(rng.uniform(_LOW, _HIGH), float(rng.uniform(-0.8, 0.8)), gripper=gripper)


def _above(world: World, goal: Goal, expert: Expert, rng: np.random.Generator) -> Stance:
    cube = world.cube_pose(goal.colour)[:3]
    position = cube + np.append(rng.normal(0.0, 0.02, 2), REACH_HEIGHT_M + rng.uniform(0.0, 0.05))
    yaw = expert.begin(world, goal).grasp_yaw + float(rng.normal(0.0, 0.1))
    return Stance(position, yaw, at_goal=True)


def _grasping(world: World, goal: Goal, expert: Expert, rng: np.random.Generator) -> Stance:
    if rng.random() < 0.35:
        return _holding(world, rng)
    height = float(rng.uniform(0.03, 0.12))
    # The lower, the better aligned it is: the fingers are around the cube by then.
    spread = 0.003 + 0.08 * max(height - 0.05, 0.0)
    position = np.append(world.cube_pose(goal.colour)[:2] + rng.normal(0.0, spread, 2), height)
    yaw = expert.begin(world, goal).grasp_yaw + float(rng.normal(0.0, 0.03 + 0.5 * height))
    return Stance(position, yaw, Phase.DESCEND, at_goal=True)


def _holding(world: World, rng: np.random.Generator) -> Stance:
    fate = rng.random()
    somewhere = rng.uniform(_LOW, _HIGH)[:2]
    if fate < 0.4:
        phase, place = Phase.LOWER, world.zone_xy + rng.normal(0.0, 0.006, 2)
        height = float(rng.uniform(0.03, CARRY_M))
    elif fate < 0.6:
        phase, place, height = Phase.LIFT, somewhere, float(rng.uniform(0.03, 0.14))
    else:
        phase, place, height = Phase.CARRY, somewhere, CARRY_M + float(rng.normal(0.0, 0.006))
    return Stance(
        np.append(place, height), float(rng.uniform(-np.pi / 4, np.pi / 4)), phase,
        1.0 - CUBE_HALF_M / FINGER_TRAVEL_M, held=True, at_goal=True)


def _behind(world: World, goal: Goal, expert: Expert, rng: np.random.Generator) -> Stance:
    fate, cube = rng.random(), world.cube_pose(goal.colour)[:2]
    way = (world.zone_xy - cube) / np.linalg.norm(world.zone_xy - cube)
    if rng.random() < _UNDERWAY_SHARE:
        cube = cube + rng.uniform(0.0, _FARTHEST_SHARE) * (world.zone_xy - cube)
    if fate < _ASTRAY_SHARE:
        return _astray(cube, rng)
    yaw = expert.begin(world, goal).grasp_yaw + float(rng.normal(0.0, 0.05))
    beside = float(rng.normal(0.0, 0.004))
    if fate < _ASTRAY_SHARE + 0.5 * (1.0 - _ASTRAY_SHARE):
        phase, behind = Phase.PUSH, float(rng.uniform(0.034, PUSH_RUN_UP_M))
        height = PUSH_M + abs(float(rng.normal(0.0, 0.002)))
        if rng.random() < 0.3:
            # Not in line any more: the expert mends that, or goes round the cube again.
            beside, yaw = float(rng.uniform(-0.03, 0.03)), yaw + float(rng.normal(0.0, 0.15))
    else:
        phase, behind = Phase.DESCEND, PUSH_RUN_UP_M + float(rng.normal(0.0, 0.01))
        height = float(rng.uniform(PUSH_M, 0.12))
    place = cube - behind * way + beside * np.array([-way[1], way[0]])
    return Stance(np.append(place, height), yaw, phase, PUSH_GRIPPER, cube=cube, at_goal=True)


def _astray(cube: NDArray[np.float64], rng: np.random.Generator) -> Stance:
    """Near the cube that a push has lost, turned anyhow: low, it goes up first, as the expert does."""
    place = cube + rng.normal(0.0, 0.06, 2)
    height, yaw = float(rng.uniform(PUSH_M, 0.15)), float(rng.uniform(-np.pi / 4, 3 * np.pi / 4))
    phase = Phase.APPROACH if is_high(height) else Phase.RETREAT
    return Stance(np.append(place, height), yaw, phase, PUSH_GRIPPER, cube=cube, at_goal=True)
