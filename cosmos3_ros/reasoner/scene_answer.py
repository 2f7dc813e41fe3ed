"""Read the model's JSON about a scene; whatever the text, there is a reading and never an exception."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..contracts import Plausibility, SceneObject, TaskState
from .boxes import BoxError, read_box
from .json_scan import NoJsonError, brief, first_json, printable, split_reasoning

SCENE_KEYS = frozenset({'caption', 'objects', 'next_action', 'task_state', 'hazards', 'plausibility'})
"""The keys that the ``scene_report`` prompt asks for."""

MOST_OBJECTS = 64
MOST_HAZARDS = 32
UNFINISHED = 'the reasoning did not end, so there is no answer; raise max_new_tokens'
LONGEST_FIELD = 2000
"""Characters per text field; a model that repeats itself must not fill a topic."""

_TASK_STATES = {state.name.lower(): state for state in TaskState}
_PLAUSIBILITIES = {
    'unknown': Plausibility.UNKNOWN,
    'possible': Plausibility.POSSIBLE, 'a': Plausibility.POSSIBLE,
    'impossible': Plausibility.IMPOSSIBLE, 'b': Plausibility.IMPOSSIBLE,
}


@dataclass(frozen=True, slots=True)
class SceneAnswer:
    """What an answer says about a scene.

    :param problems: One sentence for each thing that was not as asked. Empty: everything fits.
    """

    caption: str = ''
    objects: tuple[SceneObject, ...] = ()
    next_action: str = ''
    task_state: TaskState = TaskState.UNKNOWN
    hazards: tuple[str, ...] = ()
    plausibility: Plausibility = Plausibility.UNKNOWN
    problems: tuple[str, ...] = ()

    @property
    def parsed(self) -> bool:
        """True if the whole answer was as asked."""
        return not self.problems


@dataclass(slots=True)
class _Fields:
    """Takes fields out of an object and collects what does not fit."""

    values: Mapping[str, Any]
    problems: list[str] = field(default_factory=list)

    def text(self, name: str) -> str:
        value = self.values.get(name)
        if isinstance(value, str):
            return shorten(value)
        self.miss(name, value, 'a string')
        return ''

    def items(self, name: str, most: int) -> list[Any]:
        value = self.values.get(name)
        if not isinstance(value, list):
            self.miss(name, value, 'a list')
            return []
        if len(value) > most:
            self.problems.append(f'{name}: {len(value)} entries arrived, the first {most} are kept')
        return value[:most]

    def miss(self, name: str, value: Any, allowed: str) -> None:
        if name in self.values:
            self.problems.append(f'{name}: {brief(value)} arrived, {allowed} is allowed')
        else:
            self.problems.append(f'{name}: missing')


def read_scene(text: str, image_sizes: Mapping[str, tuple[int, int]]) -> SceneAnswer:
    """Read an answer to the ``scene_report`` prompt.

    Fields that fit are kept even if others do not; then :attr:`SceneAnswer.problems` says what is
    wrong.

    :param text: The model's answer, verbatim.
    :param image_sizes: Camera slot to (height, width) in pixels, in the order shown to the model.
        A box without ``camera`` belongs to the first.
    """
    reasoned = split_reasoning(text)
    if not reasoned.finished:
        return SceneAnswer(problems=(UNFINISHED,))
    if not reasoned.answer:
        return SceneAnswer(problems=('the answer is empty',))
    try:
        fields = _Fields(first_json(reasoned.answer, dict, SCENE_KEYS))
    except NoJsonError as error:
        return SceneAnswer(problems=(shorten(str(error), 300),))
    answer = SceneAnswer(
        caption=fields.text('caption'),
        objects=_read_objects(fields, image_sizes),
        next_action=fields.text('next_action'),
        task_state=_read_choice(fields, 'task_state', _TASK_STATES, TaskState.UNKNOWN),
        hazards=_read_hazards(fields),
        plausibility=_read_choice(fields, 'plausibility', _PLAUSIBILITIES, Plausibility.UNKNOWN),
    )
    return replace(answer, problems=tuple(fields.problems))


def _read_objects(fields: _Fields, image_sizes: Mapping[str, tuple[int, int]]) -> tuple[SceneObject, ...]:
    objects: list[SceneObject] = []
    for index, entry in enumerate(fields.items('objects', MOST_OBJECTS)):
        try:
            objects.append(read_object(entry, image_sizes))
        except BoxError as error:
            fields.problems.append(f'objects[{index}]: {error}')
    return tuple(objects)


def read_object(entry: Any, image_sizes: Mapping[str, tuple[int, int]]) -> SceneObject:
    """Read ``{"label": ..., "bbox_2d": [x1, y1, x2, y2]}``, optionally with ``"camera"``.

    :raises BoxError: It is none.
    """
    if not isinstance(entry, dict):
        raise BoxError(f'{brief(entry)} arrived, an object with label and bbox_2d is allowed')
    label = entry.get('label')
    if not isinstance(label, str) or not label.strip():
        raise BoxError(f'label: {brief(label)} arrived, a non-empty string is allowed')
    camera = entry.get('camera', next(iter(image_sizes), ''))
    if not isinstance(camera, str) or camera not in image_sizes:
        raise BoxError(f'camera: {brief(camera)} arrived, one of {list(image_sizes)} is allowed')
    normalized, pixels = read_box(entry.get('bbox_2d'), image_sizes[camera])
    return SceneObject(shorten(label, 200), camera, pixels, normalized)


def _read_hazards(fields: _Fields) -> tuple[str, ...]:
    hazards: list[str] = []
    for index, entry in enumerate(fields.items('hazards', MOST_HAZARDS)):
        if isinstance(entry, str):
            hazards.append(shorten(entry))
        else:
            fields.problems.append(f'hazards[{index}]: {brief(entry)} arrived, a string is allowed')
    return tuple(hazard for hazard in hazards if hazard)


def _read_choice(fields: _Fields, name: str, choices: Mapping[str, Any], otherwise: Any) -> Any:
    value = fields.values.get(name)
    if isinstance(value, str):
        found = choices.get(value.strip().strip('().').lower().replace(' ', '_').replace('-', '_'))
        if found is not None:
            return found
    fields.miss(name, value, f'one of {sorted(choices)}')
    return otherwise


def shorten(text: str, longest: int = LONGEST_FIELD) -> str:
    """Return ``text`` printable and not longer than ``longest`` characters."""
    text = printable(text.strip())
    return text if len(text) <= longest else text[:longest - 1] + '…'
