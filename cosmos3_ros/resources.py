"""Find what the package ships, and say which extra to install when a library is missing."""

from importlib import import_module
import os
from pathlib import Path
import sys
from types import ModuleType

PACKAGE = 'cosmos3_ros'


class MissingDependencyError(ImportError):
    """A library of an optional extra is not installed. The text names the extra."""


def share_directories() -> tuple[Path, ...]:
    """Return the directories that may hold the package's shared files, best first.

    A sourced ROS workspace wins, then this interpreter's prefix (pip), then a checkout.
    """
    prefixes = [Path(p) for p in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p]
    candidates = [prefix / 'share' / PACKAGE for prefix in (*prefixes, Path(sys.prefix))]
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / 'package.xml').is_file():
        # Working in a checkout, its files are the newer ones.
        candidates.insert(0, checkout)
    return tuple(dict.fromkeys(path for path in candidates if path.is_dir()))


def shared_file(*parts: str) -> Path:
    """Return the path of a shipped file, e.g. ``shared_file('config', 'robots', 'panda.yaml')``.

    :raises FileNotFoundError: It is in none of the searched directories, which the text lists.
    """
    directories = share_directories()
    for directory in directories:
        path = directory.joinpath(*parts)
        if path.exists():
            return path
    searched = ', '.join(str(d) for d in directories) or 'no directory at all'
    raise FileNotFoundError(
        f'{Path(*parts)} is not among the files of {PACKAGE}; searched: {searched}. '
        'Build the workspace and source it, or reinstall the package.')


def require(module: str, extra: str) -> ModuleType:
    """Import ``module`` or say how to get it.

    :param extra: Extra of setup.cfg that brings it, e.g. ``sim``.
    :raises MissingDependencyError: The module cannot be imported.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f'{module} is needed here but cannot be imported ({error}). '
            f"Install it with: pip install 'cosmos3_ros[{extra}]'") from error
