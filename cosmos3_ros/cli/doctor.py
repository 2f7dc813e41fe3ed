"""``cosmos3 doctor``: what this machine has and lacks, and what to do about it."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
import os
from pathlib import Path
import platform
import resource
import shutil
import sys
from typing import Any

from ..resources import shared_file
from .arguments import add_json
from .console import CommandError, Output
from .environment import child_environment, fast_dds_variable
from .shared_memory import SHARED_MEMORY, dead_files

OK, WARN, FAIL = 'ok', 'warn', 'fail'
LEAST_SHARED_MEMORY_BYTES = 512 * 2**20
"""Six processes with segments of 64 MB, and some room."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One examined thing.

    :param level: ok, warn (works, but …) or fail (the demo will not run).
    :param advice: What to do; empty if nothing.
    """

    name: str
    level: str
    found: str
    advice: str = ''


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser('doctor', help='examine this machine and say what to do')
    add_json(parser)
    parser.set_defaults(run=run)


def run(_: argparse.Namespace, output: Output) -> int:
    """Examine everything; fails if the demo cannot run here."""
    findings = [examine(check) for check in CHECKS]
    if not output.as_json:
        styles = {OK: 'green', WARN: 'yellow', FAIL: 'red'}
        for finding in findings:
            output.console.print(
                f'[{styles[finding.level]}]{finding.level:4}[/]  {finding.name:16} ', end='')
            output.say(finding.found + (f'\n      → {finding.advice}' if finding.advice else ''))
    failed = any(finding.level == FAIL for finding in findings)
    if output.as_json:
        output.result({
            'ok': not failed,
            'findings': [
                {'name': f.name, 'level': f.level, 'found': f.found, 'advice': f.advice} for f in findings]})
    return int(failed)


def examine(check: Callable[[], Finding]) -> Finding:
    """Run one check; a check that itself fails is a finding, not a crash."""
    try:
        return check()
    except Exception as error:
        return Finding(check.__name__.strip('_'), FAIL, f'{type(error).__name__}: {error}',
                       'this check should not fail; please report it')


def _interpreter() -> Finding:
    found = f'Python {platform.python_version()} in {sys.prefix}'
    return Finding('interpreter', OK, found)


def _ros() -> Finding:
    try:
        import rclpy
    except ImportError as error:
        return Finding('ros', FAIL, f'rclpy cannot be imported: {error}',
                       'source a ROS 2 workspace, or: '
                       'pip install ros-kilted-rclpy ros-kilted-rmw-fastrtps-cpp')
    distribution = os.environ.get('ROS_DISTRO') or 'ROS_DISTRO not set'
    return Finding('ros', OK, f'rclpy from {Path(rclpy.__file__).parent} ({distribution})')


def _middleware() -> Finding:
    from rclpy.utilities import get_rmw_implementation_identifier
    name = get_rmw_implementation_identifier()
    if 'fastrtps' not in name:
        return Finding('middleware', WARN, name, 'measured with rmw_fastrtps_cpp only')
    return Finding('middleware', OK, name)


def _profile() -> Finding:
    variable = fast_dds_variable(os.environ)
    given = os.environ.get(variable)
    if given and not Path(given).is_file():
        return Finding('fast dds profile', FAIL, f'{variable}={given} does not exist',
                       f'unset {variable}, then the shipped profile is used')
    path = given or str(shared_file('config', 'fastdds_shm.xml'))
    how = 'set by you' if given else f'shipped; camera drivers outside need {variable} too'
    return Finding('fast dds profile', OK, f'{path} ({how})')


def _messages() -> Finding:
    try:
        from rclpy.serialization import deserialize_message, serialize_message

        import cosmos3_ros.msg as msg
        sample = msg.ActionChunk(horizon=1, positions=[0.5], gripper=[0.0], trace_id='doctor')
        back = deserialize_message(serialize_message(sample), msg.ActionChunk)
    except ImportError as error:
        return Finding('messages', FAIL, f'the interfaces cannot be imported: {error}',
                       'build them: colcon build, or pip install -e .')
    if back != sample:
        return Finding('messages', FAIL, 'a message does not survive serialisation',
                       'the interfaces were built for another ROS distribution; build again')
    return Finding('messages', OK, 'generated, loaded and serialised')


def _rendering() -> Finding:
    try:
        version = metadata.version('mujoco')
    except metadata.PackageNotFoundError:
        return Finding('simulation', WARN, 'mujoco is not installed', "pip install 'cosmos3_ros[sim]'")
    backend = os.environ.get('MUJOCO_GL', 'egl')
    os.environ.setdefault('MUJOCO_GL', 'egl')
    try:
        import mujoco
        model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><light/></worldbody></mujoco>')
        with mujoco.Renderer(model, 16, 16) as renderer:
            renderer.update_scene(mujoco.MjData(model))
            renderer.render()
    except Exception as error:
        return Finding('simulation', FAIL, f'mujoco {version} cannot render with {backend}: {error}',
                       'apt-get install libegl1 libgl1-mesa-dri, or libosmesa6 and MUJOCO_GL=osmesa')
    return Finding('simulation', OK, f'mujoco {version} renders with {backend}')


def _torch() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding('torch', WARN, f'cannot be imported: {error}', "pip install 'cosmos3_ros[model]'")
    if not torch.cuda.is_available():
        return Finding('torch', OK, f'{torch.__version__}, CPU only',
                       'enough for the tiny checkpoint; Nano needs a GPU')
    return Finding('torch', OK, f'{torch.__version__}, {torch.cuda.get_device_name(0)}')


def _recording() -> Finding:
    missing = []
    for name in ('rosbags', 'mcap', 'av', 'matplotlib', 'pyarrow'):
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding('recording', WARN, f'missing: {", ".join(missing)}',
                       "pip install 'cosmos3_ros[record]'")
    return Finding('recording', OK, 'bags, videos and figures can be written')


def _real_time() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_RTPRIO)
    cores = len(os.sched_getaffinity(0))
    if soft > 0 or os.geteuid() == 0:
        return Finding('real time', OK, f'{cores} cores, SCHED_FIFO permitted')
    return Finding('real time', WARN, f'{cores} cores, SCHED_FIFO not permitted',
                   'works without; for less jitter add "@realtime - rtprio 98" to /etc/security/limits.conf')


def _shared_memory() -> Finding:
    if not SHARED_MEMORY.is_dir():
        return Finding('shared memory', FAIL, f'{SHARED_MEMORY} does not exist', 'mount a tmpfs there')
    free = shutil.disk_usage(SHARED_MEMORY).free
    found = f'{free / 2**20:.0f} MiB free in {SHARED_MEMORY}'
    if free < LEAST_SHARED_MEMORY_BYTES:
        return Finding('shared memory', FAIL, found,
                       'docker run --shm-size=1g; or remove dead segments: fastdds shm clean')
    dead = dead_files()
    if dead:
        return Finding('shared memory', WARN, f'{found}, {len(dead)} segments of processes that were killed',
                       'fastdds shm clean removes the dead ones')
    return Finding('shared memory', OK, found)


def _package() -> Finding:
    environment = child_environment(os.environ)
    try:
        robots = sorted(path.stem for path in shared_file('config', 'robots').glob('*.yaml'))
    except FileNotFoundError as error:
        raise CommandError(str(error)) from error
    return Finding('package', OK, f'robots: {", ".join(robots)}; '
                                  f'AMENT_PREFIX_PATH={environment["AMENT_PREFIX_PATH"]}')


CHECKS: tuple[Callable[[], Finding], ...] = (
    _interpreter, _package, _ros, _middleware, _profile, _messages, _shared_memory, _real_time, _rendering,
    _torch, _recording)
