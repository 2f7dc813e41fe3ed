"""Message definitions for bags, read from the interface files that ROS packages install."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..resources import require

_SEPARATOR = '---'


class UnknownTypeError(LookupError):
    """The definition of a message type is not installed."""


class Definitions:
    """Finds message definitions and puts them into a rosbags type store.

    :param prefixes: Install prefixes, as in ``AMENT_PREFIX_PATH``.
    """

    def __init__(self, prefixes: tuple[Path, ...]) -> None:
        typesys = require('rosbags.typesys', 'record')
        self.store: Any = typesys.get_typestore(typesys.Stores.ROS2_KILTED)
        self._parse: Callable[[str, str], dict[str, Any]] = typesys.get_types_from_msg
        self._prefixes = prefixes

    def add(self, name: str) -> None:
        """Make ``name`` and everything that it is made of known to the store.

        :param name: E.g. ``cosmos3_ros/msg/ActionChunk`` or
            ``cosmos3_ros/action/ExecuteInstruction_FeedbackMessage``.
        :raises UnknownTypeError: No installed package defines it.
        """
        if name in self.store.fielddefs:
            return
        package, _, type_name = name.split('/')
        # Interface files name neighbours without their package; these are messages, also in an .action file.
        alias = f'{package}/msg/{type_name}'
        types = {name if key == alias else key: value
                 for key, value in self._parse(self._text(name), alias).items()}
        self.store.register({key: value for key, value in types.items() if key not in self.store.fielddefs})
        for _, fields in types.values():
            for _, field in fields:
                self._add_field(field)

    def _add_field(self, field: Any) -> None:
        """Follow arrays and sequences down to the message type in them."""
        node, description = int(field[0]), field[1]
        if node == 2:  # a nested message, by name
            self.add(description)
        elif node > 2:  # array or sequence of (field, length)
            self._add_field(description[0])

    def _text(self, name: str) -> str:
        package, kind, type_name = name.split('/')
        if kind == 'action' and type_name.endswith('_FeedbackMessage'):
            base = type_name.removesuffix('_FeedbackMessage')
            # The envelope that rcl_action puts around a feedback (ROS 2 design, actions). Definitions in bags
            # can only nest messages, so the feedback stands in them under msg.
            return f'unique_identifier_msgs/UUID goal_id\n{package}/msg/{base}_Feedback feedback\n'
        if type_name.endswith('_Feedback'):
            text = self._read(package, 'action', f'{type_name.removesuffix("_Feedback")}.action', name)
            return text.split(f'\n{_SEPARATOR}')[-1].lstrip('-\n')
        return self._read(package, kind, f'{type_name}.{kind}', name)

    def _read(self, package: str, kind: str, file: str, name: str) -> str:
        for prefix in self._prefixes:
            path = prefix / 'share' / package / kind / file
            if path.is_file():
                return path.read_text()
        searched = ', '.join(str(p) for p in self._prefixes) or 'nothing'
        raise UnknownTypeError(f'{name}: no definition {package}/{kind}/{file} under: {searched}')
