"""What the expert would do from a moment of an episode, had it been asked for something else.

One picture then shows the way to several cubes. Little is worth more to a policy: from 2000 scenes with one
cube asked for in each, a small network learnt the scenes by heart (37 mm from the cube in new ones); with any
of the four cubes asked for, it found them (14 mm). And it costs little: nothing is drawn (docs/training.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..generator.droid_joint import HORIZON
from ..sim.configuration import SimulationConfig
from ..sim.expert import Expert, ExpertMemory, Phase
from ..sim.still_world import StillWorld
from ..sim.tasks import TASKS, Goal, is_corridor_free
from ..sim.world import World
from .episode_instructions import word_instruction
from .episode_settings import RATE_HZ

_FREE = (Phase.APPROACH, Phase.DESCEND, Phase.RETREAT, Phase.DONE)
_LOWEST_M = 0.10
"""Lower down the way to another cube may lead through the one at hand."""


@dataclass(frozen=True, slots=True, eq=False)
class Alternative:
    """A chunk that begins at a frame of an episode but follows another instruction.

    :param frame: Of the episode.
    :param rows: Shape (32, 8): joints in radians and gripper, 0 open .. 1 closed, as ``TraceFrame.action``.
    """

    frame: int
    instruction: str
    rows: NDArray[np.float64]


def chunk_rows(memories: Sequence[ExpertMemory]) -> NDArray[np.float64]:
    """Return what the expert's memories command, shape (rows, 8): joints in radians and gripper."""
    return np.array([np.append(row.joints, row.gripper) for row in memories])


def other_goals(world: World, goal: Goal, tasks: Sequence[str]) -> list[Goal]:
    """Return what else could be asked for in a scene; a push only where its way is free."""
    colours = world.config.cubes
    points = np.array([*(world.cube_pose(colour)[:2] for colour in colours), world.zone_xy])
    found = [
        Goal(task, colour) for task in TASKS if task in tasks for i, colour in enumerate(colours)
        if task != 'push' or is_corridor_free(points, i)]
    return [other for other in found if other != goal]


class AlternativeRunner:
    """Branches off episodes, in a world of its own.

    :param config: Of the world that the episodes run in.
    :param tasks: What may be asked for.
    :param count: At most so many at one moment.
    :param every: Frames between two such moments; 1 or more.
    """

    def __init__(self, config: SimulationConfig, tasks: Sequence[str], count: int, every: int) -> None:
        self._still = StillWorld(config)
        self._tasks, self._count, self._every = tuple(tasks), count, every
        self._expert = Expert(1.0 / RATE_HZ)

    def branch(
        self, frame: int, world: World, goal: Goal, memory: ExpertMemory, seed: int,
    ) -> list[Alternative]:
        """Return the alternatives at a frame; none where the gripper is busy or low, or it is not their turn.

        :param world: The episode's; it is left as it is.
        :param memory: The expert's, before its row of this frame.
        :param seed: Of the episode; the choice depends on it and the frame.
        """
        free = memory.phase in _FREE and memory.reference.position[2] > _LOWEST_M
        if frame % self._every or not free:
            return []
        rng = np.random.default_rng([seed, frame])
        others = other_goals(world, goal, self._tasks)
        chosen = rng.permutation(len(others))[:self._count]
        return [
            Alternative(frame, word_instruction(others[i], rng), self._follow(world, others[i], memory))
            for i in chosen]

    def _follow(self, world: World, goal: Goal, memory: ExpertMemory) -> NDArray[np.float64]:
        self._still.copy(world)
        fresh = self._expert.begin(self._still, goal)
        # The arm goes on from the row that it follows, with that row's speed.
        memory = replace(fresh, reference=memory.reference, joints=memory.joints)
        return chunk_rows(self._expert.roll_out(self._still, goal, memory, HORIZON))
