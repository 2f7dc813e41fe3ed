"""Parameters of a node, declared once: one table gives types, ranges, units, help text and checks."""

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
import math
from types import GenericAlias
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

Kind = type | GenericAlias
Check = Callable[[Mapping[str, Any]], str | None]

_SCALARS: tuple[Kind, ...] = (bool, int, float, str)
_LISTS: dict[Kind, type] = {list[str]: str, list[float]: float, list[int]: int}
_INT64_MAX = 2**63 - 1


def _plain(value: Any) -> Any:
    """Return rclpy's arrays and tuples as lists."""
    return list(value) if isinstance(value, array | tuple) else value


class ParameterError(ValueError):
    """A parameter's value is not allowed. The text names the parameter and what is allowed."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a node.

    :param name: Name, dots group parameters: ``qos.images.depth``.
    :param kind: bool, int, float, str, list[str], list[float] or list[int].
    :param default: Value used without an override. ``None`` means that a value must be given.
    :param description: One sentence in words of the field.
    :param unit: Unit of the value, empty for none.
    :param range: Smallest and largest allowed number, both included.
    :param choices: Allowed strings; empty allows any.
    :param read_only: The value cannot change while the process runs. True for whatever safety rests on.
    """

    name: str
    kind: Kind
    default: Any
    description: str
    unit: str = ''
    range: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    read_only: bool = False

    def __post_init__(self) -> None:
        """Refuse a table row that contradicts itself."""
        if self.kind not in _SCALARS and self.kind not in _LISTS:
            raise ParameterError(
                f'{self.name}: kind {self.kind} is not one of bool, int, float, str, and lists of them')
        self.check(self.default)

    @property
    def kind_name(self) -> str:
        """Name of the kind as the documentation prints it."""
        return self.kind.__name__ if isinstance(self.kind, type) and self.kind in _SCALARS else str(self.kind)

    def check(self, value: Any) -> Any:
        """Return ``value`` as this parameter's kind.

        An integer is taken where a float is asked for, because ``rate_hz:=500`` is what people type.
        ROS has no empty list of strings in YAML, so empty strings are dropped from lists.

        :raises ParameterError: Wrong type, out of range, or not among the choices.
        """
        element = _LISTS.get(self.kind)
        if element is None:
            return self._check_one(value, self.kind)
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            raise ParameterError(f'{self.name}: {value!r} arrived, {self.kind_name} is allowed')
        items = [item for item in value if item != ''] if element is str else list(value)
        return [self._check_one(item, element) for item in items]

    def _check_one(self, given: Any, kind: Kind) -> Any:
        value: Any = float(given) if kind is float and type(given) is int else given
        # By identity of the type: True is an int to isinstance(), but not to a reader.
        if type(value) is not kind:
            raise ParameterError(f'{self.name}: {value!r} arrived, {self.kind_name} is allowed')
        if isinstance(value, float) and math.isnan(value):
            raise ParameterError(f'{self.name}: nan arrived, a number is allowed')
        self._check_range(value)
        if self.choices and value not in self.choices:
            raise ParameterError(f'{self.name}: {value!r} arrived, allowed are: {", ".join(self.choices)}')
        return value

    def _check_range(self, value: Any) -> None:
        if self.range is not None and not self.range[0] <= value <= self.range[1]:
            unit = f' {self.unit}' if self.unit else ''
            allowed = f'{self.range[0]:g} to {self.range[1]:g}{unit}'
            raise ParameterError(f'{self.name}: {value}{unit} arrived, {allowed} is allowed')

    def descriptor(self) -> ParameterDescriptor:
        """Return the ROS descriptor, so that ``ros2 param describe`` tells what the table tells."""
        text = self.description
        if self.unit:
            text += f' [{self.unit}]'
        if self.choices:
            text += f' One of: {", ".join(self.choices)}.'
        descriptor = ParameterDescriptor(name=self.name, description=text, read_only=self.read_only)
        # An integer literal must pass where a float is meant; check() converts it.
        descriptor.dynamic_typing = self.kind is float or self.kind in _LISTS
        if self.range is not None and self.kind is float:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(self.range[0]), to_value=float(self.range[1]))]
        elif self.range is not None and self.kind is int:
            descriptor.integer_range = [
                IntegerRange(from_value=int(self.range[0]), to_value=min(int(self.range[1]), _INT64_MAX))]
        return descriptor


class ParameterValues(Mapping[str, Any]):
    """The present values of a node's parameters, typed as the table says. Thread-safe to read."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> Any:
        """Return the present value of ``name``."""
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._values)

    def __len__(self) -> int:
        """Return the number of parameters."""
        return len(self._values)

    def _replace(self, values: Mapping[str, Any]) -> None:
        # One assignment: a reader in another thread sees the old set or the new one, never a mixture.
        self._values = dict(values)


class ParameterTable:
    """All parameters of one node.

    :param parameters: Rows; a repeated name is an error.
    :param check: Looks at a whole set of values and returns what is wrong with the combination, or None.
    """

    def __init__(self, *parameters: Parameter, check: Check | None = None) -> None:
        names = [parameter.name for parameter in parameters]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ParameterError(f'declared twice: {", ".join(repeated)}')
        self._rows = {parameter.name: parameter for parameter in parameters}
        self._check = check

    def __iter__(self) -> Iterator[Parameter]:
        """Iterate over the rows."""
        return iter(self._rows.values())

    def __add__(self, other: 'ParameterTable') -> 'ParameterTable':
        """Return one table of both; each keeps its check."""
        checks = [check for check in (self._check, other._check) if check is not None]

        def both(values: Mapping[str, Any]) -> str | None:
            return next((text for check in checks if (text := check(values))), None)

        return ParameterTable(*self, *other, check=both)

    def check(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return all of ``values`` typed.

        :raises ParameterError: One value, or the combination, is not allowed.
        """
        typed = {name: row.check(values[name]) for name, row in self._rows.items()}
        if self._check is not None:
            reason = self._check(typed)
            if reason:
                raise ParameterError(reason)
        return typed

    def declare(
        self, node: Node, changed: Callable[[ParameterValues], None] | None = None,
    ) -> ParameterValues:
        """Declare the table on ``node`` and keep the returned values up to date.

        A later set that breaks the table is rejected as a whole with the reason.

        :param changed: Called after an accepted change, with the new values.
        :raises ParameterError: An override is not allowed.
        """
        given = {}
        for row in self:
            default = [''] if row.kind in _LISTS and not row.default else row.default
            try:
                given[row.name] = _plain(node.declare_parameter(row.name, default, row.descriptor()).value)
            except Exception as error:
                # rclpy raises a different class for each of type, range and parse errors.
                raise ParameterError(f'{row.name}: {error}') from error
        values = ParameterValues(self.check(given))

        def on_set(parameters: list[RosParameter[Any]]) -> SetParametersResult:
            news = {p.name: _plain(p.value) for p in parameters if p.name in self._rows}
            try:
                self.check({**values, **news})
            except ParameterError as error:
                return SetParametersResult(successful=False, reason=str(error))
            return SetParametersResult(successful=True)

        def after_set(parameters: list[RosParameter[Any]]) -> None:
            news = {p.name: _plain(p.value) for p in parameters if p.name in self._rows}
            if news:
                values._replace(self.check({**values, **news}))
                if changed is not None:
                    changed(values)

        node.add_on_set_parameters_callback(on_set)
        node.add_post_set_parameters_callback(after_set)
        return values

    def markdown(self) -> str:
        """Return the table as Markdown, the source of docs and of ``--help``."""
        lines = ['| parameter | type | default | allowed | unit | description |', '|---|---|---|---|---|---|']
        for row in self:
            allowed = ', '.join(row.choices)
            if row.range is not None:
                allowed = f'{row.range[0]:g} .. {row.range[1]:g}'
            text = row.description + (' Read-only.' if row.read_only else '')
            lines.append(
                f'| `{row.name}` | {row.kind_name} | `{row.default!r}` | {allowed} | {row.unit} | {text} |')
        return '\n'.join(lines)
