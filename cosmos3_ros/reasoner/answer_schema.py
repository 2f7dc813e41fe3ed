"""JSON schemas of the answers, for servers that can hold a model to one."""

from typing import Any

_TEXT: dict[str, Any] = {'type': 'string'}
_NUMBER: dict[str, Any] = {'type': 'number', 'minimum': 0, 'maximum': 1000}


def _closed(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {
        'type': 'object', 'properties': properties, 'required': required or list(properties),
        'additionalProperties': False}


def _numbers(count: int) -> dict[str, Any]:
    return {'type': 'array', 'items': _NUMBER, 'minItems': count, 'maxItems': count}


_OBJECT = _closed({'label': _TEXT, 'bbox_2d': _numbers(4), 'camera': _TEXT}, ['label', 'bbox_2d'])

ANSWER_SCHEMAS: dict[str, dict[str, Any]] = {
    'scene': _closed({
        'caption': _TEXT,
        'objects': {'type': 'array', 'items': _OBJECT},
        'next_action': _TEXT,
        'task_state': {'enum': ['unknown', 'in_progress', 'done', 'failed']},
        'hazards': {'type': 'array', 'items': _TEXT},
        'plausibility': {'enum': ['unknown', 'possible', 'impossible']},
    }),
    'boxes': {'type': 'array', 'items': _closed({'bbox_2d': _numbers(4), 'label': _TEXT})},
    'points': {'type': 'array', 'items': _closed({'point_2d': _numbers(2), 'label': _TEXT})},
}
"""By ``Question.answer``: what :mod:`scene_answer` and :mod:`short_answer` read without a problem."""
