"""Read a YAML mapping strictly: every key known, none missing, none twice, every length right."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
import yaml

from ..contracts import ContractError, frozen_array
from .errors import RobotError


class StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key standing twice and knows the ``!degrees`` and ``!radians`` tags.

    The tags are those of xacro's YAML files (used by Universal Robots' ``joint_limits.yaml``).
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build one mapping, refusing repeated keys (plain YAML silently keeps the last)."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable) or key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'the key {key!r} stands twice', key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _angle(factor: float) -> Any:
    def construct(loader: StrictLoader, node: yaml.ScalarNode) -> float:
        return float(loader.construct_scalar(node)) * factor
    return construct


StrictLoader.add_constructor('!degrees', _angle(np.pi / 180.0))
StrictLoader.add_constructor('!radians', _angle(1.0))


def read_yaml(path: Path) -> 'Fields':
    """Return the top mapping of a YAML file.

    :raises RobotError: The file cannot be read, is not YAML, repeats a key or holds no mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding='utf-8'), Loader=StrictLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise RobotError(f'{path}: cannot be read: {error}') from error
    except (yaml.YAMLError, ValueError) as error:
        raise RobotError(f'{path}: is not valid YAML: {error}') from error
    return Fields(content, str(path))


class Fields:
    """A mapping whose keys are taken one by one; ``close`` complains about what is left.

    :param content: What YAML delivered.
    :param where: File and path inside it, for errors.
    """

    def __init__(self, content: object, where: str) -> None:
        if not isinstance(content, Mapping):
            raise RobotError(f'{where}: {_kind(content)} arrived, a mapping of keys is needed')
        self._left = dict(content)
        self._known: list[str] = []
        self.where = where

    def has(self, key: str) -> bool:
        """Return whether ``key`` is there, and note that it is a known one."""
        self._note(key)
        return key in self._left

    def peek(self, key: str) -> Any:
        """Return the raw value of a key, or None, and leave it there."""
        return self._left.get(key)

    def names(self) -> tuple[str, ...]:
        """Return the keys not yet taken."""
        return tuple(str(k) for k in self._left)

    def take(self, key: str) -> Any:
        """Return the raw value of a required key.

        :raises RobotError: The key is missing.
        """
        self._note(key)
        if key not in self._left:
            there = ', '.join(map(str, self._left)) or 'nothing'
            raise RobotError(f'{self.where}: the key {key!r} is missing; found: {there}')
        return self._left.pop(key)

    def section(self, key: str) -> 'Fields':
        """Return a nested mapping."""
        return Fields(self.take(key), f'{self.where}: {key}')

    def sections(self, key: str) -> list['Fields']:
        """Return a list of nested mappings."""
        return [Fields(item, f'{self.where}: {key}[{i}]') for i, item in enumerate(self.items(key))]

    def items(self, key: str) -> list[Any]:
        """Return a list."""
        value = self.take(key)
        if not isinstance(value, list):
            raise RobotError(f'{self.where}: {key}: {_kind(value)} arrived, a list is needed')
        return value

    def text(self, key: str) -> str:
        """Return a non-empty string."""
        value = self.take(key)
        if not isinstance(value, str) or not value:
            raise RobotError(f'{self.where}: {key}: {_kind(value)} arrived, a text is needed')
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a tuple of non-empty strings."""
        values = self.items(key)
        for value in values:
            if not isinstance(value, str) or not value:
                raise RobotError(f'{self.where}: {key}: {_kind(value)} arrived in the list, texts are needed')
        return tuple(values)

    def number(self, key: str, *, lower: float = -np.inf, upper: float = np.inf) -> float:
        """Return a finite number within ``lower..upper``."""
        value = self.take(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise RobotError(f'{self.where}: {key}: {_kind(value)} arrived, a finite number is needed')
        if not lower <= value <= upper:
            raise RobotError(
                f'{self.where}: {key}: {value:g} arrived, {lower:g} to {upper:g} is allowed')
        return float(value)

    def optional(self, key: str) -> float | None:
        """Return a finite number, or None where YAML says ``null`` (the key itself is required)."""
        if self.has(key) and self._left[key] is None:
            return self.take(key)  # type: ignore[no-any-return]
        return self.number(key)

    def positive(self, key: str) -> float:
        """Return a finite number above zero."""
        value = self.number(key)
        if value <= 0.0:
            raise RobotError(f'{self.where}: {key}: {value:g} arrived, a positive number is needed')
        return value

    def whole(self, key: str, *, lower: int, upper: int) -> int:
        """Return an integer within ``lower..upper``."""
        value = self.take(key)
        if isinstance(value, bool) or not isinstance(value, int) or not lower <= value <= upper:
            raise RobotError(
                f'{self.where}: {key}: {_kind(value)} arrived, a whole number {lower} to {upper} is allowed')
        return value

    def vector(self, key: str, length: int) -> NDArray[np.float64]:
        """Return ``length`` finite numbers."""
        value = self.items(key)
        if any(isinstance(x, bool) or not isinstance(x, int | float) for x in value):
            raise RobotError(f'{self.where}: {key}: {value!r} arrived, {length} numbers are needed')
        try:
            return frozen_array(key, value, shape=(length,))
        except ContractError as error:
            raise RobotError(f'{self.where}: {error}') from error

    def close(self) -> None:
        """Check that every key was known.

        :raises RobotError: Unknown keys are left; the text lists the known ones.
        """
        if self._left:
            raise RobotError(
                f'{self.where}: unknown key {", ".join(repr(k) for k in self._left)}; '
                f'known keys: {", ".join(self._known)}')

    def _note(self, key: str) -> None:
        if key not in self._known:
            self._known.append(key)


def _kind(value: object) -> str:
    text = repr(value)
    return f'{type(value).__name__} {text if len(text) <= 60 else text[:57] + "..."}'
