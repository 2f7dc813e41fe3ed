"""Read answers to single-purpose questions: boxes, points, plan steps, plausibility, yes or no."""

from collections.abc import Mapping
from dataclasses import dataclass
import re
from typing import Any

from ..contracts import Plausibility, SceneObject
from .boxes import BoxError, read_point
from .json_scan import NoJsonError, brief, first_json, split_reasoning
from .scene_answer import MOST_OBJECTS, UNFINISHED, read_object, shorten

MOST_STEPS = 64
_BULLET = re.compile(r'^\s*(?:[-*•]|\(?\d{1,3}[.):]|[Ss]tep\s+\d{1,3}[.:)])\s*')


@dataclass(frozen=True, slots=True)
class PointAnswer:
    """One point of a trajectory in an image. For display only, never for a robot."""

    label: str
    camera: str
    point_px: tuple[float, float]
    point_normalized: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer as read.

    :param value: By the question's kind: ``boxes`` a tuple of SceneObject, ``points`` a tuple of
        PointAnswer, ``plausibility`` a Plausibility, ``yes_no`` True, False or None, ``steps`` a
        tuple of str, ``text`` a str without reasoning, ``scene`` a SceneAnswer.
    :param problems: One sentence for each thing that was not as asked. Empty: everything fits.
    :param reasoning: What the model thought aloud, if it was asked to.
    """

    value: Any
    problems: tuple[str, ...] = ()
    reasoning: str = ''


def read_short(kind: str, text: str, image_sizes: Mapping[str, tuple[int, int]]) -> Reading:
    """Read ``text`` as an answer of ``kind``; whatever the text, there is a reading.

    :param kind: ``boxes``, ``points``, ``plausibility``, ``yes_no``, ``steps`` or ``text``.
    :param image_sizes: Camera slot to (height, width); entries without a camera belong to the first.
    """
    reasoned = split_reasoning(text)
    reader = _READERS[kind]
    if not reasoned.finished:
        empty, _ = reader('', image_sizes)
        return Reading(empty, (UNFINISHED,), shorten(reasoned.reasoning))
    value, problems = reader(reasoned.answer, image_sizes)
    return Reading(value, tuple(problems), shorten(reasoned.reasoning))


def _read_text(text: str, _sizes: Mapping[str, tuple[int, int]]) -> tuple[str, list[str]]:
    return shorten(text), [] if text else ['the answer is empty']


def _read_plausibility(text: str, _sizes: Mapping[str, tuple[int, int]]) -> tuple[Plausibility, list[str]]:
    words = set(re.findall(r'[a-z]+', text.lower()[:200]))
    possible = bool(words & {'possible'}) or _letter(text) == 'A'
    impossible = bool(words & {'impossible'}) or _letter(text) == 'B'
    if possible != impossible:
        return (Plausibility.POSSIBLE if possible else Plausibility.IMPOSSIBLE), []
    return Plausibility.UNKNOWN, [f'{shorten(text, 60)!r} arrived, A (possible) or B (impossible) is allowed']


def _letter(text: str) -> str:
    match = re.match(r'\s*(?:answer\s*:?\s*)?\(?([ABab])\)?(?![A-Za-z])', text, re.IGNORECASE)
    return match.group(1).upper() if match else ''


def _read_yes_no(text: str, _sizes: Mapping[str, tuple[int, int]]) -> tuple[bool | None, list[str]]:
    match = re.match(r'\W*(yes|no|true|false)(?![A-Za-z])', text, re.IGNORECASE)
    if match:
        return match.group(1).lower() in ('yes', 'true'), []
    return None, [f'{shorten(text, 60)!r} arrived, yes or no is allowed']


def _read_steps(text: str, _sizes: Mapping[str, tuple[int, int]]) -> tuple[tuple[str, ...], list[str]]:
    steps = [shorten(_BULLET.sub('', line), 300) for line in text.splitlines()]
    steps = [step for step in steps if step]
    if not steps:
        return (), ['the answer is empty']
    if len(steps) > MOST_STEPS:
        return tuple(steps[:MOST_STEPS]), [f'{len(steps)} steps arrived, the first {MOST_STEPS} are kept']
    return tuple(steps), []


def _read_boxes(text: str, sizes: Mapping[str, tuple[int, int]]) -> tuple[tuple[SceneObject, ...], list[str]]:
    entries, problems = _entries(text, 'bbox_2d')
    objects: list[SceneObject] = []
    for index, entry in enumerate(entries):
        try:
            objects.append(read_object(entry, sizes))
        except BoxError as error:
            problems.append(f'[{index}]: {error}')
    return tuple(objects), problems


def _read_points(
    text: str, sizes: Mapping[str, tuple[int, int]],
) -> tuple[tuple[PointAnswer, ...], list[str]]:
    entries, problems = _entries(text, 'point_2d')
    points: list[PointAnswer] = []
    camera = next(iter(sizes), '')
    for index, entry in enumerate(entries):
        try:
            if not isinstance(entry, dict) or camera not in sizes:
                raise BoxError(f'{brief(entry)} arrived, an object with point_2d and label is allowed')
            normalized, pixels = read_point(entry.get('point_2d'), sizes[camera])
        except BoxError as error:
            problems.append(f'[{index}]: {error}')
            continue
        label = entry.get('label')
        points.append(PointAnswer(
            shorten(label, 200) if isinstance(label, str) else '', camera, pixels, normalized))
    return tuple(points), problems


def _entries(text: str, key: str) -> tuple[list[Any], list[str]]:
    """Return the list of entries; a single object counts as a list of one."""
    try:
        entries = first_json(text, list)
    except NoJsonError as error:
        try:
            entries = [first_json(text, dict, frozenset({key}))]
        except NoJsonError:
            return [], [shorten(str(error), 300)]
    if len(entries) > MOST_OBJECTS:
        return entries[:MOST_OBJECTS], [f'{len(entries)} entries arrived, the first {MOST_OBJECTS} are kept']
    return entries, []


_READERS: dict[str, Any] = {
    'boxes': _read_boxes, 'points': _read_points, 'plausibility': _read_plausibility, 'yes_no': _read_yes_no,
    'steps': _read_steps, 'text': _read_text,
}
