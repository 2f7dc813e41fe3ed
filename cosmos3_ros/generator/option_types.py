"""Check the types of options that come from a command line or a YAML file."""

from collections.abc import Mapping
from typing import Any

from .policy import PolicyError


def check_types(options: Mapping[str, Any], kinds: Mapping[str, str]) -> None:
    """Refuse values of another kind than their option's.

    :param kinds: Option to ``integer``, ``number``, ``text``, ``pair``, ``mapping``, each with `` or none``
        if it may be left out.
    :raises PolicyError: Names the option, what arrived and what is allowed.
    """
    for name, kind in kinds.items():
        value = options[name]
        base = kind.removesuffix(' or none')
        if value is None and base != kind:
            continue
        if not _fits(value, base):
            raise PolicyError(f'{name}: {value!r} arrived, {_ALLOWED[base]} is allowed')


_ALLOWED = {
    'integer': 'a whole number', 'number': 'a number', 'text': 'a text', 'pair': 'a list of two numbers',
    'mapping': 'an object of names and values'}


def _fits(value: Any, kind: str) -> bool:
    if kind == 'text':
        return isinstance(value, str) and bool(value)
    if kind == 'mapping':
        return isinstance(value, Mapping)
    if kind == 'pair':
        return isinstance(value, (list, tuple)) and len(value) == 2 and all(_fits(v, 'number') for v in value)
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (kind == 'number' and isinstance(value, float))
