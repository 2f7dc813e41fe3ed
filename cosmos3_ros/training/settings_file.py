"""Read a training run's YAML into :mod:`settings`, strictly: an unknown key is a mistake, not a wish."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, fields, is_dataclass, replace
import hashlib
import json
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from .settings import DatasetEntry, TrainingError, TrainingSettings, section_names


def load_settings(path: Path) -> TrainingSettings:
    """Read a file.

    :raises TrainingError: It is missing, not YAML, or something in it is not allowed; names file and key.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f'{path} cannot be read: {error}') from error
    except yaml.YAMLError as error:
        raise TrainingError(f'{path} is not YAML: {error}') from error
    try:
        settings: TrainingSettings = read_section(TrainingSettings, document, '')
    except TrainingError as error:
        raise TrainingError(f'{path}: {error}') from error
    return settings


def read_section(kind: Any, document: Any, where: str) -> Any:
    """Build a dataclass from what YAML holds.

    :param where: Keys that lead here, for errors.
    :raises TrainingError: A key is unknown or missing, or a value of another type.
    """
    place = where or 'the file'
    if not isinstance(document, Mapping):
        raise TrainingError(
            f'{place}: {type(document).__name__} arrived, a mapping with {", ".join(section_names(kind))} is '
            'needed')
    unknown = [str(key) for key in document if key not in section_names(kind)]
    if unknown:
        raise TrainingError(
            f'{place}: {", ".join(unknown)} arrived, {", ".join(section_names(kind))} are allowed')
    hints = get_type_hints(kind)
    values = {}
    for entry in fields(kind):
        name = f'{where}.{entry.name}' if where else entry.name
        if entry.name in document:
            values[entry.name] = _value(hints[entry.name], document[entry.name], name)
        elif _is_needed(entry):
            raise TrainingError(f'{name}: missing')
    try:
        return kind(**values)
    except TrainingError as error:
        raise TrainingError(f'{place}: {error}' if where else str(error)) from error


def with_datasets(settings: TrainingSettings, paths: Sequence[str]) -> TrainingSettings:
    """Return the settings with other datasets, or the same if ``paths`` is empty.

    As many as the file has take the file's places one by one, with their weights and uses; otherwise all
    count alike.
    """
    if not paths:
        return settings
    if len(paths) == len(settings.data.datasets):
        placed = tuple(
            replace(entry, path=path) for entry, path in zip(settings.data.datasets, paths, strict=True))
        return replace(settings, data=replace(settings.data, datasets=placed))
    stride = settings.data.datasets[0].window_stride
    entries = tuple(DatasetEntry(path, window_stride=stride) for path in paths)
    return replace(settings, data=replace(settings.data, datasets=entries))


def settings_digest(settings: TrainingSettings, stage: str) -> str:
    """Return 16 hexadecimal digits over what decides a stage's result, batch by batch.

    A snapshot carries it: going on with other settings would be another run.
    """
    whole = asdict(settings)
    kept = {name: whole[name] for name in ('seed', 'data', 'start', stage)}
    for section in kept.values():  # the number of processes decides nothing
        if isinstance(section, dict):
            section.pop('workers', None)
            section.pop('lesson_workers', None)
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def _is_needed(entry: 'Field[Any]') -> bool:
    return entry.default is MISSING and entry.default_factory is MISSING


def _value(kind: Any, value: Any, where: str) -> Any:
    if isinstance(kind, UnionType):
        options = [option for option in get_args(kind) if option is not NoneType]
        return None if value is None else _value(options[0], value, where)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise TrainingError(f'{where}: {value!r} arrived, a list is allowed')
        return tuple(_value(get_args(kind)[0], item, f'{where}[{i}]') for i, item in enumerate(value))
    if is_dataclass(kind):
        return read_section(kind, value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, str):
        return _number(value, where)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TrainingError(f'{where}: {value!r} arrived, a value of type {kind.__name__} is allowed')
    return value


def _number(text: str, where: str) -> float:
    """YAML 1.1 reads ``1e-4`` as text: it wants a point."""
    try:
        return float(text)
    except ValueError as error:
        raise TrainingError(f'{where}: {text!r} arrived, a number is allowed') from error
