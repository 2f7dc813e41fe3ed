"""Find JSON in what a language model wrote: fenced or not, after prose, after reasoning."""

from collections.abc import Iterator
from dataclasses import dataclass
import json
from typing import Any

LONGEST_TEXT = 65536
"""Characters of an answer that are read; a longer answer is a runaway generation."""

_MOST_ATTEMPTS = 64
_THINK_OPEN, _THINK_CLOSE = '<think>', '</think>'


class NoJsonError(ValueError):
    """There is no complete JSON value of the wanted kind. The text says what was seen."""


@dataclass(frozen=True, slots=True)
class Reasoned:
    """A model's text taken apart.

    :param reasoning: What stood in ``<think>``, or an empty string.
    :param answer: What came after it.
    :param finished: False if the reasoning never ended, so there is no answer.
    """

    reasoning: str
    answer: str
    finished: bool


def split_reasoning(text: str) -> Reasoned:
    """Take ``<think>...</think>`` off an answer.

    The opening tag may be missing, since a chat template may already have written it.
    """
    head, tag, tail = text.rpartition(_THINK_CLOSE)
    if tag:
        return Reasoned(head.replace(_THINK_OPEN, '', 1).strip(), tail.strip(), True)
    before, tag, after = text.partition(_THINK_OPEN)
    if tag:
        return Reasoned(after.strip(), before.strip(), False)
    return Reasoned('', text.strip(), True)


def printable(text: str) -> str:
    """Return ``text`` as a ROS string can carry it: valid UTF-8 without NUL."""
    return text.encode('utf-8', 'replace').decode('utf-8').replace('\x00', '\ufffd')


def first_json(
    text: str, kind: type[dict[str, Any]] | type[list[Any]], keys: frozenset[str] | None = None,
) -> Any:
    """Return the first complete JSON value of ``kind`` in ``text``.

    A value that ends with the text unfinished is not searched for smaller values inside it: half a
    report is no report. Commas before a closing bracket are forgiven, and nothing else is, because
    every other repair can change what was said.

    :param kind: ``dict`` or ``list``; a value of the other kind is passed over.
    :param keys: For a ``dict``, at least one of these keys must be there.
    :raises NoJsonError: There is none.
    """
    if len(text) > LONGEST_TEXT:
        text = text[:LONGEST_TEXT]
    failures: list[str] = []
    for candidate in dict.fromkeys((text, without_trailing_commas(text))):
        failures.clear()
        for value in _values(candidate, failures):
            fits = keys is None or (isinstance(value, dict) and bool(keys & value.keys()))
            if isinstance(value, kind) and fits:
                return value
            failures.append(f'{_describe(value)} instead of {_wanted(kind, keys)}')
    detail = failures[0] if failures else 'neither { nor [ occurs'
    raise NoJsonError(f'no complete JSON {_wanted(kind, keys)} in the answer: {detail}')


def _values(text: str, failures: list[str]) -> Iterator[Any]:
    """Yield the outermost complete JSON values in order; note why others failed."""
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    position = 0
    for _ in range(_MOST_ATTEMPTS):
        starts = [at for at in (text.find('{', position), text.find('[', position)) if at >= 0]
        if not starts:
            return
        start = min(starts)
        try:
            value, position = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            failures.append(f'{error.msg} at character {error.pos}')
            if _unfinished(text, start):
                failures.insert(0, f'the value that begins at character {start} is not finished')
                return
            position = start + 1
        except (ValueError, RecursionError) as error:
            failures.append(str(error) or 'it is nested too deeply')
            position = start + 1
        else:
            yield value


def _unfinished(text: str, start: int) -> bool:
    """Tell whether the bracket opened at ``start`` stays open to the end of the text."""
    depth, in_string, escaped = 0, False, False
    for character in text[start:]:
        if in_string:
            if escaped:
                escaped = False
            elif character == '\\':
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif character in '{[':
            depth += 1
        elif character in '}]':
            depth -= 1
            if depth == 0:
                return False
    return True


def without_trailing_commas(text: str) -> str:
    """Drop each comma that stands, outside strings, before a closing bracket."""
    kept: list[str] = []
    comma: int | None = None
    in_string, escaped = False, False
    for character in text:
        if in_string:
            if escaped:
                escaped = False
            elif character == '\\':
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string, comma = True, None
        elif character == ',':
            comma = len(kept)
        elif character in '}]' and comma is not None:
            kept[comma] = ''
            comma = None
        elif not character.isspace():
            comma = None
        kept.append(character)
    return ''.join(kept)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f'{name} is not JSON')


def brief(value: Any) -> str:
    """Return ``value`` as errors show it: short, printable, whatever it is."""
    try:
        text = printable(repr(value))
    except RecursionError:
        text = f'a deeply nested {type(value).__name__}'
    return text if len(text) <= 60 else text[:59] + '…'


def _describe(value: Any) -> str:
    if isinstance(value, dict):
        return f'an object with the keys {brief(sorted(map(str, value)))}'
    return f'a list of {len(value)}' if isinstance(value, list) else type(value).__name__


def _wanted(kind: type, keys: frozenset[str] | None) -> str:
    return ('object' if kind is dict else 'list') + (f' with one of {sorted(keys)}' if keys else '')
