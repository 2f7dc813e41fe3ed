"""The environment in which the package's executables run, and where these executables are."""

from collections.abc import Mapping
import configparser
from importlib import metadata
import os
from pathlib import Path
import shutil
import sys

from ..resources import PACKAGE, shared_file

FAST_DDS_VARIABLES = ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE')
"""Fast DDS 3 (Kilted and later) reads the first and warns about the second; Fast DDS 2 reads the second."""

FAST_DDS_2_DISTRIBUTIONS = ('humble', 'iron', 'jazzy')
FIRST_RCLPY_ON_FAST_DDS_3 = 9
"""Major version of rclpy in Kilted; Jazzy has 7. Asked only where ROS_DISTRO is not set (pip wheels)."""


class ExecutableNotFoundError(FileNotFoundError):
    """An executable of the package is not installed. The text says how to install it."""


def child_environment(base: Mapping[str, str], domain_id: int | None = None) -> dict[str, str]:
    """Return the environment for a node process; whatever the user has set stays as it is.

    * ``AMENT_PREFIX_PATH``: the ROS wheels do not set it, so this interpreter's prefix is the default.
    * Fast DDS profile: its default shared-memory segment (512 kB) is smaller than one camera image, and
      images are lost without the shipped profile.
    * ``ROS_AUTOMATIC_DISCOVERY_RANGE``: nothing leaves this machine unless the user asks for it.
    * ``OMP_NUM_THREADS``: several processes share few cores; a thread pool in each slows the control loop.

    :param base: Usually ``os.environ``.
    :param domain_id: ROS domain, or None to keep the one in ``base``.
    """
    environment = dict(base)
    if not environment.get('AMENT_PREFIX_PATH'):
        environment['AMENT_PREFIX_PATH'] = sys.prefix
    if not any(environment.get(name) for name in FAST_DDS_VARIABLES):
        environment[fast_dds_variable(base)] = str(shared_file('config', 'fastdds_shm.xml'))
    environment.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    environment.setdefault('OMP_NUM_THREADS', '1')
    environment.setdefault('RCUTILS_COLORIZED_OUTPUT', '0')
    environment['PYTHONUNBUFFERED'] = '1'
    if domain_id is not None:
        environment['ROS_DOMAIN_ID'] = str(domain_id)
    return environment


def fast_dds_variable(environment: Mapping[str, str]) -> str:
    """Return the variable that names the Fast DDS profile in this ROS distribution."""
    distribution = environment.get('ROS_DISTRO', '')
    if distribution:
        return FAST_DDS_VARIABLES[distribution in FAST_DDS_2_DISTRIBUTIONS]
    try:
        major = int(metadata.version('ros-rclpy').split('.')[0])
    except metadata.PackageNotFoundError:
        return FAST_DDS_VARIABLES[0]
    return FAST_DDS_VARIABLES[major < FIRST_RCLPY_ON_FAST_DDS_3]


def executable_command(name: str) -> list[str]:
    """Return the command line that starts the package's executable ``name``.

    Searched: ``lib/cosmos3_ros`` of every prefix in ``AMENT_PREFIX_PATH`` and of this interpreter, then
    ``setup.cfg`` of the checkout that this file lies in, which runs the same entry point uninstalled.

    :raises ExecutableNotFoundError: It is in none of them.
    """
    prefixes = [Path(p) for p in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p]
    searched = []
    for prefix in dict.fromkeys((*prefixes, Path(sys.prefix))):
        path = prefix / 'lib' / PACKAGE / name
        if path.is_file() and os.access(path, os.X_OK):
            # Not by its own first line: that names whichever python3 is first on PATH.
            return [sys.executable, str(path)]
        searched.append(str(path.parent))
    setup = Path(__file__).resolve().parents[2] / 'setup.cfg'
    if setup.is_file():
        entry = _entry_points(setup).get(name)
        if entry is not None:
            module, _, function = entry.partition(':')
            code = f'import sys; from {module} import {function}; sys.exit({function}())'
            return [sys.executable, '-c', code]
        searched.append(str(setup))
    raise ExecutableNotFoundError(
        f"The executable '{name}' of {PACKAGE} was not found; searched: {', '.join(searched)}. "
        'Build and source the workspace, or run: pip install -e .')


def cosmos3_command() -> list[str]:
    """Return the command line of ``cosmos3`` itself, for helpers that run in their own process."""
    try:
        return executable_command('cosmos3')
    except ExecutableNotFoundError:
        found = shutil.which('cosmos3')
        if found is None:
            raise
        return [found]


def _entry_points(setup: Path) -> dict[str, str]:
    """Read the console scripts out of ``setup.cfg``: name to ``module:function``."""
    parser = configparser.ConfigParser()
    parser.read(setup)
    lines = parser.get('options.entry_points', 'console_scripts', fallback='').splitlines()
    pairs = (line.split('=', 1) for line in lines if '=' in line)
    return {name.strip(): target.strip() for name, target in pairs}
