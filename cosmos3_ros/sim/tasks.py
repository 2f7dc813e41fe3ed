"""The tasks: what an instruction asks for, where things start, and when it is done."""

from dataclasses import dataclass
import re

import numpy as np
from numpy.typing import NDArray

from .configuration import CUBE_COLOURS, SimulationError
from .scene import CUBE_HALF_M, ZONE_RADIUS_M

INSTRUCTIONS: dict[str, str] = {
    'reach': 'move the gripper above the {colour} cube',
    'push': 'push the {colour} cube onto the white circle',
    'pick_place': 'pick up the {colour} cube and place it on the white circle',
}
TASKS: tuple[str, ...] = tuple(INSTRUCTIONS)

REACH_HEIGHT_M = 0.04
"""The reach task's goal: the tool this far above the cube's middle."""

_REACH_TOLERANCE_M = 0.02
_UNTOUCHED_M = 0.01
_ON_ZONE_M = 0.05
_ON_TABLE_M = CUBE_HALF_M + 0.005
_RELEASED_M = 0.05
_OPEN = 0.5

# Words that mark a task in an instruction, most telling first. "place" alone would also match a
# sentence such as "push ... into place".
_TASK_WORDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ('push', re.compile(r'\b(push|slide|shove)\b')),
    ('pick_place', re.compile(r'\b(pick|place|put|grasp)\b')),
    ('reach', re.compile(r'\b(reach|move the gripper|hover|go to)\b')),
)

_PLACEMENT_LOW = np.array([0.38, -0.22])
_PLACEMENT_HIGH = np.array([0.60, 0.22])
_SPACING_M = 0.115
_PUSH_RUN_UP_M = 0.09
_PUSH_CORRIDOR_M = 0.075
_PUSH_NEAREST_X_M = 0.30
_MAX_DRAWS = 20_000


@dataclass(frozen=True, slots=True)
class Goal:
    """What an episode asks for.

    :param task: One of :data:`TASKS`.
    :param colour: Colour of the cube that it is about.
    """

    task: str
    colour: str

    @property
    def instruction(self) -> str:
        """The sentence that asks for it."""
        return INSTRUCTIONS[self.task].format(colour=self.colour)


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Where an episode starts.

    :param cube_xy: Colour to position, metres, base frame.
    :param cube_yaw: Colour to rotation about the vertical, radians.
    :param zone_xy: Shape (2,), metres.
    """

    goal: Goal
    cube_xy: dict[str, NDArray[np.float64]]
    cube_yaw: dict[str, float]
    zone_xy: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class TaskView:
    """What the success predicates look at.

    :param tcp: Shape (3,), metres.
    :param cube: Shape (3,), the target's middle now.
    :param cube_start: Shape (3,), the target's middle when the episode began.
    :param zone_xy: Shape (2,), metres.
    :param gripper: Measured, 0 open .. 1 closed.
    """

    tcp: NDArray[np.float64]
    cube: NDArray[np.float64]
    cube_start: NDArray[np.float64]
    zone_xy: NDArray[np.float64]
    gripper: float


def check_task(task: str) -> str:
    """Return ``task`` if it exists.

    :raises SimulationError: It does not.
    """
    if task not in INSTRUCTIONS:
        raise SimulationError(f'task: {task!r} arrived, one of {", ".join(TASKS)} is allowed')
    return task


def parse_instruction(instruction: str) -> Goal:
    """Read task and colour out of a sentence.

    :raises SimulationError: It names no task or not exactly one colour; the text lists the sentences
        that are understood.
    """
    text = instruction.lower()
    colours = [c for c in CUBE_COLOURS if re.search(rf'\b{c}\b', text)]
    tasks = [task for task, pattern in _TASK_WORDS if pattern.search(text)]
    if len(colours) != 1 or not tasks:
        known = '; '.join(f"'{s.format(colour='<colour>')}'" for s in INSTRUCTIONS.values())
        raise SimulationError(
            f'instruction: {instruction!r} arrived, a task and one colour of {", ".join(CUBE_COLOURS)} is '
            f'allowed: {known}')
    return Goal(tasks[0], colours[0])


def is_success(task: str, view: TaskView) -> bool:
    """Return whether ``task`` is done, from the present state alone."""
    if task == 'reach':
        goal = view.cube + np.array([0.0, 0.0, REACH_HEIGHT_M])
        untouched = np.linalg.norm(view.cube - view.cube_start) < _UNTOUCHED_M
        return bool(untouched and np.linalg.norm(view.tcp - goal) < _REACH_TOLERANCE_M)
    on_zone = np.linalg.norm(view.cube[:2] - view.zone_xy) < _ON_ZONE_M and view.cube[2] < _ON_TABLE_M
    if task == 'push':
        return bool(on_zone)
    released = view.gripper < _OPEN and np.linalg.norm(view.tcp - view.cube) > _RELEASED_M
    return bool(on_zone and released)


def draw_placement(task: str, colours: tuple[str, ...], rng: np.random.Generator) -> Placement:
    """Draw a start state in which the task can be done: all within reach, apart from each other,
    and for ``push`` with the target's way to the zone free.

    :raises SimulationError: Unknown task, or no such state exists for so many cubes.
    """
    goal = Goal(check_task(task), colours[int(rng.integers(len(colours)))])
    target = colours.index(goal.colour)
    for _ in range(_MAX_DRAWS):
        points = rng.uniform(_PLACEMENT_LOW, _PLACEMENT_HIGH, size=(len(colours) + 1, 2))
        distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
        np.fill_diagonal(distances, np.inf)
        if distances.min() < max(_SPACING_M, ZONE_RADIUS_M + 0.03):
            continue
        if task == 'push' and not is_corridor_free(points, target):
            continue
        yaws = rng.uniform(-np.pi, np.pi, size=len(colours))
        return Placement(
            goal=goal, zone_xy=points[-1],
            cube_xy={c: points[i] for i, c in enumerate(colours)},
            cube_yaw={c: float(yaws[i]) for i, c in enumerate(colours)})
    raise SimulationError(
        f'cubes: no free start state for {len(colours)} cubes and task {task}; use fewer cubes')


def is_corridor_free(points: NDArray[np.float64], target: int) -> bool:
    """Return whether a cube can be pushed straight to the zone, run-up included.

    :param points: Shape (cubes + 1, 2), metres, base frame; the zone is the last.
    :param target: Number of the cube.
    """
    zone = points[-1]
    direction = (zone - points[target]) / np.linalg.norm(zone - points[target])
    start = points[target] - direction * _PUSH_RUN_UP_M
    if start[0] < _PUSH_NEAREST_X_M:
        return False
    length = float(np.linalg.norm(zone - start))
    others = np.delete(points[:-1], target, axis=0)
    along = np.clip((others - start) @ direction, 0.0, length)
    nearest = start + along[:, None] * direction
    return bool((np.linalg.norm(others - nearest, axis=1) > _PUSH_CORRIDOR_M).all())
