"""What happened in an episode, before it is drawn."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..sim.expert import Phase
from ..sim.tasks import Goal
from ..sim.world import World
from .episode_alternatives import Alternative


@dataclass(frozen=True, slots=True, eq=False)
class TraceFrame:
    """One frame: the state when the picture is taken, and what is commanded for the next.

    :param qpos: MuJoCo's generalised positions.
    :param zone_xy: Shape (2,), metres.
    :param state: Shape (8,): seven joints in radians, gripper 0 open .. 1 closed, measured.
    :param action: Shape (8,), likewise, due one frame later.
    :param is_expert: False where the action is not what the expert would do.
    :param tcp: Shape (3,), metres.
    :param cubes: Colour to shape (3,), metres.
    :param contacts: Colour to what touches that cube (``World.cube_contacts``).
    :param doing: What the arm is about to do: one of ``scene_facts.ACTIVITIES``.
    :param success: The task is done in this state.
    :param failed: The task can be seen to have failed.
    """

    qpos: NDArray[np.float64]
    zone_xy: NDArray[np.float64]
    state: NDArray[np.float64]
    action: NDArray[np.float64]
    is_expert: bool
    tcp: NDArray[np.float64]
    cubes: dict[str, NDArray[np.float64]]
    contacts: dict[str, frozenset[str]]
    doing: str
    success: bool
    failed: bool


def take_frame(
    world: World, action: NDArray[np.float64], doing: Phase, *, is_expert: bool = False,
    success: bool = False, failed: bool = False,
) -> TraceFrame:
    """Return the frame of a world as it stands; parameters as in :class:`TraceFrame`."""
    state = world.state()
    return TraceFrame(
        qpos=np.array(world.snapshot().qpos), zone_xy=world.zone_xy,
        state=np.append(state.position, state.gripper), action=action, is_expert=is_expert, tcp=state.tcp,
        cubes={colour: world.cube_pose(colour)[:3] for colour in world.config.cubes},
        contacts=world.cube_contacts(), doing=doing.value, success=success, failed=failed)


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeTrace:
    """All frames of an episode.

    :param success: The task was done at the end.
    :param alternatives: What else could have been asked for, and would have been done.
    """

    goal: Goal
    instruction: str
    frames: tuple[TraceFrame, ...]
    success: bool
    alternatives: tuple[Alternative, ...] = ()

    @property
    def zone_xy(self) -> NDArray[np.float64]:
        """Where the zone is at the beginning, shape (2,), metres; during an episode it stays there."""
        return self.frames[0].zone_xy
