"""From what happened and what the cameras' pixels show to the facts of a frame."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..sim.configuration import CAMERA_SLOTS, CUBE_COLOURS, FINGER_JOINTS
from ..sim.scene import Scene
from ..sim.tasks import REACH_HEIGHT_M
from .episode_anomaly import Wrongness
from .episode_settings import RATE_HZ
from .episode_trace import EpisodeTrace, TraceFrame
from .scene_facts import OBJECT_LABELS, PICTURE_CLEAN, FrameFacts, ObjectFact
from .scene_facts_questions import state_truths

CLIP_FRAMES = RATE_HZ
"""Statements are about this many frames up to the present one: a second."""

_FEWEST_PIXELS = 6
_LIFTED_M = 0.045
_HAND = ('gripper', *FINGER_JOINTS)


class FactFinder:
    """Finds the facts of one episode's frames, in order.

    :param scene: Scene whose geoms the labels number.
    """

    def __init__(self, scene: Scene, trace: EpisodeTrace) -> None:
        self._trace = trace
        self._owner = _owners(scene.model)
        first = trace.frames[0]
        target = trace.goal.colour
        self._start_m = max(_distance_to_go(first, target), 1e-3)
        self._carry_m = max(math.dist(first.cubes[target][:2], trace.zone_xy), 1e-3)
        self._clip: list[FrameFacts] = []

    def find(self, number: int, labels: Mapping[str, NDArray[np.int32]], wrong: Wrongness,
             shown: Mapping[str, NDArray[np.float64]], pictures: Mapping[str, str]) -> FrameFacts:
        """Return the facts of a frame.

        :param labels: Camera slot to geom numbers; empty arrays for cameras that show nothing.
        :param shown: Colour to where the cube is drawn.
        :param pictures: Camera slot to how its picture is.
        """
        frame, trace = self._trace.frames[number], self._trace
        honest = {c: names for c, names in frame.contacts.items() if c != wrong.cube or not wrong.kind}
        held = [c for c, names in honest.items() if set(FINGER_JOINTS) <= names]
        touched = tuple(c for c, names in honest.items() if names & {*FINGER_JOINTS, 'robot'})
        state = 'done' if frame.success else 'failed' if frame.failed else 'in_progress'
        gone = (wrong.cube,) if wrong.kind == 'vanishes' else ()
        high = wrong.kind in ('floats', 'jumps') and shown[wrong.cube][2] > _LIFTED_M
        hanging = (wrong.cube,) if high else ()
        values: dict[str, Any] = {
            'instruction': trace.instruction, 'task': trace.goal.task, 'target': trace.goal.colour,
            'objects': tuple(thing for camera in CAMERA_SLOTS for thing in self._see(camera, labels[camera])),
            'cubes': {c: _rounded(place) for c, place in shown.items()},
            'zone': _rounded(trace.zone_xy), 'tool': _rounded(frame.tcp),
            'gripper': round(float(frame.state[-1]), 4), 'held': held[0] if held else '', 'touched': touched,
            'doing': frame.doing, 'progress': 1.0 if frame.success else self._progress(frame, held),
            'task_state': state, 'unsupported': hanging, 'jumped': (wrong.cube,) if wrong.jumped else (),
            'vanished': gone, 'pictures': dict(pictures)}
        self._clip = [*self._clip[1 - CLIP_FRAMES:], FrameFacts(**values, statements={})]
        return FrameFacts(**values, statements=state_truths(self._clip))

    def _see(self, camera: str, labels: NDArray[np.int32]) -> list[ObjectFact]:
        if not labels.size:
            return []
        height, width = labels.shape
        # -1, the background, picks the last owner, which is nobody.
        owners = self._owner[labels]
        things: list[ObjectFact] = []
        for index, label in enumerate(OBJECT_LABELS):
            mine = owners == index
            count = int(np.count_nonzero(mine))
            if count < _FEWEST_PIXELS:
                continue
            columns, rows = np.flatnonzero(mine.any(axis=0)), np.flatnonzero(mine.any(axis=1))
            box = (columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height)
            x1, y1, x2, y2 = (round(float(edge), 5) for edge in box)
            colour = CUBE_COLOURS[index] if index < len(CUBE_COLOURS) else ''
            things.append(ObjectFact(label, colour, camera, (x1, y1, x2, y2), round(count / labels.size, 6)))
        return things

    def _progress(self, frame: TraceFrame, held: Sequence[str]) -> float:
        """Return 0..1: how much of the way to the cube, then to the circle, is done."""
        target = self._trace.goal.colour
        near = 1.0 - min(_distance_to_go(frame, target) / self._start_m, 1.0)
        if self._trace.goal.task == 'reach':
            return round(0.99 * near, 3)
        away = math.dist(frame.cubes[target][:2], self._trace.zone_xy)
        moved = 1.0 - min(away / self._carry_m, 1.0)
        if target in held or moved > 0.1:
            return round(0.4 + 0.59 * moved, 3)
        return round(0.4 * near, 3)


def picture_states(wrong: Wrongness) -> dict[str, str]:
    """Return camera slot to how its picture is."""
    broken = wrong.camera if wrong.kind else ''
    return {slot: wrong.kind if slot == broken else PICTURE_CLEAN for slot in CAMERA_SLOTS}


def _owners(model: Any) -> NDArray[np.int8]:
    """Return for each geom the number of the thing that it belongs to; the last entry is the background's."""
    nobody = -1
    owners = np.full(model.ngeom + 1, nobody, np.int8)
    for geom in range(model.ngeom):
        body = str(model.body(int(model.geom_bodyid[geom])).name)
        if body.startswith('cube_'):
            owners[geom] = CUBE_COLOURS.index(body.removeprefix('cube_'))
        elif body == 'zone':
            owners[geom] = len(CUBE_COLOURS)
        elif body in _HAND:
            owners[geom] = len(CUBE_COLOURS) + 1
    return owners


def _distance_to_go(frame: TraceFrame, target: str) -> float:
    goal = frame.cubes[target] + np.array([0.0, 0.0, REACH_HEIGHT_M])
    return float(np.linalg.norm(frame.tcp - goal))


def _rounded(place: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in place)
