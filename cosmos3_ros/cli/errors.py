"""Errors that a user can act on: the command shows their text without a traceback."""

from ..evaluation.lerobot_episode import EpisodeError
from ..evaluation.limit_file import LimitFileError
from ..resources import MissingDependencyError
from .console import CommandError
from .processes import ProcessDiedError

EXPECTED_ERRORS: tuple[type[Exception], ...] = (
    CommandError, EpisodeError, LimitFileError, MissingDependencyError, ProcessDiedError,
    # Missing or existing files and directories; their texts name the path.
    OSError,
)
