"""Yes/no questions about a clip, with their answers, in the four dimensions of HUE.

The dimensions (Visual Integrity, Semantic Alignment, Physical Laws, Geometric Reasoning) are those of
``nvidia/Cosmos-HumanEval-v1``; the questions are our own, about what this simulator shows. A question is
about a clip and its end: what happened is asked of all frames, where things are of the last.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
import math

import numpy as np

from ..robots.camera import SLOTS
from ..sim.configuration import CUBE_COLOURS
from ..sim.scene import ZONE_RADIUS_M
from .lerobot_format import DatasetError
from .scene_facts import PICTURE_CLEAN, FrameFacts, ObjectFact

_AT_M = 0.05
_FAR_M = 0.09
_LIFTED_M = 0.045
_OPEN, _CLOSED = 0.15, 0.45
BESIDE = 0.04
"""Of a picture's width: nearer than this, left and right are a matter of opinion."""
_NEARER_M = 0.03
_MOVED_M = 0.02


class Dimension(Enum):
    """What a question is about."""

    VISUAL_INTEGRITY = 'Visual Integrity'
    SEMANTIC_ALIGNMENT = 'Semantic Alignment'
    PHYSICAL_LAWS = 'Physical Laws'
    GEOMETRIC_REASONING = 'Geometric Reasoning'


@dataclass(frozen=True, slots=True)
class Statement:
    """A question that can be answered by yes or no.

    :param key: Names the question, e.g. ``held_red``.
    :param answer: True is yes.
    """

    key: str
    dimension: Dimension
    question: str
    answer: bool


def list_statements(clip: Sequence[FrameFacts]) -> tuple[Statement, ...]:
    """Return every question that this clip decides, in a fixed order.

    Questions whose answer a person could dispute (two cubes nearly above each other: which is left?) are
    left out.

    :param clip: Frames of one episode, oldest first.
    :raises DatasetError: No frame.
    """
    if not clip:
        raise DatasetError('statements: a clip of 0 frames arrived, at least 1 is needed')
    return (*_visual(clip), *_semantic(clip), *_physical(clip), *_geometric(clip[-1]))


@cache
def question_kind(key: str) -> str:
    """Return a question's key without its cubes: ``left_wrist`` of ``left_wrist_red_blue``."""
    return '_'.join(word for word in key.split('_') if word not in CUBE_COLOURS)


def state_truths(clip: Sequence[FrameFacts]) -> dict[str, bool]:
    """Return key to answer of :func:`list_statements`."""
    return {statement.key: statement.answer for statement in list_statements(clip)}


def draw_questions(clip: Sequence[FrameFacts], rng: np.random.Generator, per_dimension: int = 1,
                   ) -> tuple[Statement, ...]:
    """Draw questions of each dimension; yes and no are equally likely wherever the clip offers both."""
    statements = list_statements(clip)
    drawn: list[Statement] = []
    for dimension in Dimension:
        mine = [s for s in statements if s.dimension is dimension]
        for _ in range(min(per_dimension, len(mine))):
            wanted = bool(rng.random() < 0.5)
            choices = [s for s in mine if s.answer is wanted] or mine
            chosen = choices[int(rng.integers(len(choices)))]
            mine.remove(chosen)
            drawn.append(chosen)
    return tuple(drawn)


def _visual(clip: Sequence[FrameFacts]) -> Iterator[Statement]:
    kind = Dimension.VISUAL_INTEGRITY
    pictures = [facts.pictures for facts in clip]
    for camera in SLOTS:
        mine = [seen.get(camera, PICTURE_CLEAN) for seen in pictures]
        name = _camera(camera)
        yield Statement(f'shows_{camera}', kind, f'Does the {name} show a picture all the time?',
                        'black' not in mine)
        yield Statement(f'free_of_noise_{camera}', kind, f'Is the picture of the {name} free of noise?',
                        'noise' not in mine)
    held_up = any('frozen' in seen.values() for seen in pictures)
    # A frozen picture shows only where something moves.
    if held_up and not _moved(clip):
        return
    yield Statement('keeps_moving', kind, 'Do all cameras keep up with the motion of the robot?',
                    not held_up)
    clean = all(set(seen.values()) == {PICTURE_CLEAN} for seen in pictures)
    yield Statement('clean', kind, 'Are all pictures clear and undisturbed?', clean)
    broken = any(value != PICTURE_CLEAN for seen in pictures for value in seen.values())
    yield Statement('broken', kind, 'Is one of the cameras broken?', broken)


def _semantic(clip: Sequence[FrameFacts]) -> Iterator[Statement]:
    kind, facts = Dimension.SEMANTIC_ALIGNMENT, clip[-1]
    seen = {thing.colour for frame in clip for thing in frame.objects}
    for colour in CUBE_COLOURS:
        # A cube that is there but out of every picture decides nothing.
        if colour in seen or colour not in facts.cubes:
            yield Statement(f'present_{colour}', kind, f'Is there a {colour} cube?', colour in seen)
    for colour in facts.cubes:
        yield Statement(f'held_{colour}', kind, f'Is the gripper holding the {colour} cube?',
                        facts.held == colour)
    yield Statement('holding', kind, 'Is the gripper holding a cube?', bool(facts.held))
    yield Statement('done', kind, f"Is this done: '{facts.instruction}'?", facts.task_state == 'done')
    yield Statement('failed', kind, f"Has the robot failed to do this: '{facts.instruction}'?",
                    facts.task_state == 'failed')
    if facts.gripper < _OPEN or facts.gripper > _CLOSED:
        yield Statement('open', kind, 'Is the gripper open?', facts.gripper < _OPEN)
    for colour, distance in _distances(facts).items():
        if distance < _AT_M or distance > _FAR_M:
            yield Statement(f'at_{colour}', kind, f'Is the gripper at the {colour} cube?', distance < _AT_M)


def _physical(clip: Sequence[FrameFacts]) -> Iterator[Statement]:
    kind = Dimension.PHYSICAL_LAWS
    floating = any(facts.unsupported for facts in clip)
    jumping = any(facts.jumped for facts in clip)
    vanishing = any(facts.vanished for facts in clip)
    yield Statement('supported', kind, 'Does every cube rest on something or hang in the gripper?',
                    not floating)
    yield Statement('floating', kind, 'Does a cube float in the air?', floating)
    yield Statement('moved_by_contact', kind, 'Does every cube move only when something moves it?',
                    not jumping and not floating)
    yield Statement('jumping', kind, 'Does a cube jump from one place to another?', jumping)
    yield Statement('permanent', kind, 'Do all cubes stay in the scene?', not vanishing)
    yield Statement('possible', kind, 'Is what the video shows physically possible?',
                    not (floating or jumping or vanishing))


def _geometric(facts: FrameFacts) -> Iterator[Statement]:
    kind = Dimension.GEOMETRIC_REASONING
    zone = facts.zone
    reach = {c: math.dist(place[:2], zone) for c, place in facts.cubes.items() if c not in facts.vanished}
    for colour, distance in reach.items():
        inside, outside = distance < ZONE_RADIUS_M - 0.015, distance > ZONE_RADIUS_M + 0.02
        if (inside or outside) and facts.cubes[colour][2] < _LIFTED_M:
            yield Statement(f'on_circle_{colour}', kind, f'Is the {colour} cube on the white circle?', inside)
    for colour, distance in _distances(facts).items():
        above = distance < _AT_M and facts.tool[2] > facts.cubes[colour][2] + 0.015
        if above or distance > _FAR_M:
            yield Statement(f'above_{colour}', kind, f'Is the gripper above the {colour} cube?', above)
    for colour, place in facts.cubes.items():
        if colour not in facts.vanished:
            yield Statement(f'lifted_{colour}', kind, f'Is the {colour} cube off the table?',
                            place[2] > _LIFTED_M)
    for first, second in _pairs(tuple(reach)):
        if abs(reach[first] - reach[second]) > _NEARER_M:
            yield Statement(
                f'nearer_{first}_{second}', kind,
                f'Is the {first} cube nearer to the white circle than the {second} cube?',
                reach[first] < reach[second])
    for camera in SLOTS:
        boxes = {thing.colour: thing for thing in facts.seen(camera) if thing.colour}
        for first, second in _pairs(tuple(boxes)):
            apart = _middle(boxes[second]) - _middle(boxes[first])
            if abs(apart) > BESIDE:
                yield Statement(
                    f'left_{camera}_{first}_{second}', kind,
                    f'In the picture of the {_camera(camera)}, is the {first} cube left of the {second} '
                    'cube?',
                    apart > 0.0)


def _pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for first in names:
        for second in names:
            if first != second:
                yield first, second


def _distances(facts: FrameFacts) -> dict[str, float]:
    """Return each cube's horizontal distance from the tool, metres."""
    return {colour: math.dist(place[:2], facts.tool[:2]) for colour, place in facts.cubes.items()
            if colour not in facts.vanished}


def _moved(clip: Sequence[FrameFacts]) -> bool:
    return any(math.dist(clip[0].tool, facts.tool) > _MOVED_M for facts in clip)


def _middle(thing: ObjectFact) -> float:
    return 0.5 * (thing.box[0] + thing.box[2])


def _camera(slot: str) -> str:
    return {'wrist': 'wrist camera', 'exterior_1': 'first exterior camera',
            'exterior_2': 'second exterior camera'}[slot]
