"""Tell when an answer is complete, so that no token is spent on what nobody reads."""

from typing import Any

from .json_scan import NoJsonError, first_json, split_reasoning
from .scene_answer import SCENE_KEYS

_WANTED: dict[str, tuple[type[Any], frozenset[str] | None]] = {
    'scene': (dict, SCENE_KEYS), 'boxes': (list, None), 'points': (list, None)}


def answer_is_complete(kind: str, text: str) -> bool:
    """Tell whether ``text`` already holds the whole JSON value that a question of ``kind`` wants.

    :param kind: As in ``Question.answer``; kinds that want no JSON are never complete.
    """
    wanted = _WANTED.get(kind)
    reasoned = split_reasoning(text)
    if wanted is None or not reasoned.finished:
        return False
    try:
        first_json(reasoned.answer, *wanted)
    except NoJsonError:
        return False
    return True
