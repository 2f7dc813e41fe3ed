"""Output of the command: words for people, or exactly one line of JSON for programs."""

from collections.abc import Mapping
import json
import math
import sys
from typing import Any

from rich.console import Console
from rich.table import Table


class CommandError(RuntimeError):
    """The command cannot go on. The text says what arrived, what is allowed and what to change."""


class Output:
    """Where a subcommand writes.

    :param as_json: Words go to stderr and :meth:`result` writes one line to stdout.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(stderr=as_json, highlight=False)

    def say(self, text: str) -> None:
        """Write a line for people."""
        self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Write a line for people that should not be missed."""
        self.console.print(text, style='yellow', markup=False)

    def fail(self, text: str) -> None:
        """Write an error; with JSON it is the one line, so that a program gets the reason too."""
        Console(stderr=True, highlight=False).print(f'error: {text}', style='red', markup=False)
        if self.as_json:
            self._line({'error': text})

    def result(self, values: Mapping[str, Any]) -> None:
        """Write the result, the last thing of a command."""
        if self.as_json:
            self._line(values)
            return
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for key, value in values.items():
            table.add_row(key, _words(value))
        self.console.print(table)

    @staticmethod
    def _line(values: Mapping[str, Any]) -> None:
        sys.stdout.write(json.dumps(_plain(values), allow_nan=False) + '\n')
        sys.stdout.flush()


def _plain(value: Any) -> Any:
    """Return what JSON can carry: NaN and infinities become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | bool):
        return value
    return str(value)


def _words(value: Any) -> str:
    if isinstance(value, float):
        return f'{value:.4g}'
    if isinstance(value, Mapping):
        return ', '.join(f'{key} {_words(item)}' for key, item in value.items()) or '-'
    if isinstance(value, list | tuple):
        return ', '.join(_words(item) for item in value) or '-'
    return str(value)
