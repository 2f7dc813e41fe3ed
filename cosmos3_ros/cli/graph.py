"""The nodes of a run: start them as processes, configure and activate them, say why one refuses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
import os
from pathlib import Path
import re
from typing import Any

import yaml

from ..resources import shared_file
from .console import CommandError
from .environment import cosmos3_command, executable_command
from .lifecycle_client import LifecycleClient, LifecycleError
from .processes import ManagedProcess, ProcessGroup
from .session import RosSession

PARAMETER_FILES = ('manipulation.yaml', 'simulation.yaml')
"""The same files that the launch files use; each holds its nodes' sections."""
CONFIGURE_TIMEOUT_S = 300.0
"""Configuring loads models."""
ACTIVATE_TIMEOUT_S = 30.0
RECORDER = 'recorder'
COMPRESSED_IMAGES = '/image_raw/compressed$'
"""Left out of recordings: they show the raw images again, and JPEG is only encoded for a subscriber."""
RECORDER_READY_S = 10.0
_ERROR_LINE = re.compile(r'^\[ERROR\] \[[\d.]+\] \[[^\]]*\]: (.*)$')


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node to start.

    :param name: Name of the executable and of the node.
    :param parameters: What differs from the shipped parameter files.
    :param remappings: Topics under other names, ``from:=to``.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    remappings: tuple[str, ...] = ()


class Graph:
    """The started nodes.

    :param session: Node of the command line, spinning.
    :param processes: Owns the child processes.
    :param directory: For parameter files; the logs lie beside them.
    """

    def __init__(self, session: RosSession, processes: ProcessGroup, directory: Path) -> None:
        self._session = session
        self._processes = processes
        self._directory = directory
        self._clients: dict[str, LifecycleClient] = {}
        self._members: dict[str, ManagedProcess] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the started nodes, in order."""
        return tuple(self._clients)

    def start(self, specs: Iterable[NodeSpec], settings: Mapping[str, Mapping[str, Any]]) -> None:
        """Start the processes of all nodes.

        :param settings: Node name to parameters that the user set; they win over everything.
        :raises CommandError: A setting names a node that is not started.
        """
        specs = tuple(specs)
        known = {spec.name for spec in specs}
        for name in settings:
            if name not in known:
                raise CommandError(
                    f"--set: there is no node '{name}' here; allowed: {', '.join(sorted(known))}")
        self._directory.mkdir(parents=True, exist_ok=True)
        for spec in specs:
            path = self._directory / f'{spec.name}.yaml'
            # ROS parameter files have no empty list of strings; the nodes drop empty strings.
            parameters = {key: [''] if value == [] else value
                          for key, value in {**spec.parameters, **settings.get(spec.name, {})}.items()}
            path.write_text(yaml.safe_dump({f'/**/{spec.name}': {'ros__parameters': parameters}}))
            command = [*executable_command(spec.name), '--ros-args', '-r', f'__node:={spec.name}']
            for remapping in spec.remappings:
                command += ['-r', remapping]
            for file in (*_shipped_files(), path):
                command += ['--params-file', str(file)]
            process = self._processes.start(spec.name, command)
            self._members[spec.name] = process
            if spec.name not in self._clients:
                self._clients[spec.name] = LifecycleClient(
                    self._session.node, spec.name, alive=self._processes.check,
                    explain=lambda name=spec.name: explain_failure(self._members[name]))  # type: ignore[misc]

    def start_recorder(self, output: Path) -> ManagedProcess:
        """Record all topics but the compressed images from now on, in a process of its own."""
        command = [*cosmos3_command(), 'record', '--output', str(output), '--json',
                   '--exclude', COMPRESSED_IMAGES]
        return self._processes.start(RECORDER, command)

    def wait_for_recorder(self, topics: Sequence[str]) -> None:
        """Wait until the recorder hears every topic, so that the first message is in the bag too.

        :raises CommandError: It does not.
        """
        node = self._session.node

        def deaf() -> list[str]:
            return [topic for topic in topics
                    if not any(info.node_name == 'cosmos3_recorder'
                               for info in node.get_subscriptions_info_by_topic(topic))]

        if not self._session.wait_for(lambda: not deaf(), RECORDER_READY_S, self._processes.check):
            raise CommandError(f'the recorder did not subscribe to: {", ".join(deaf())}')

    def process(self, name: str) -> ManagedProcess:
        """Return the process of a node."""
        return self._members[name]

    def retire(self, name: str) -> None:
        """End what is left of a node's process; it may then be started anew."""
        self._processes.stop_one(self._members[name], 0.0)

    def configure(self, names: Iterable[str] | None = None) -> None:
        """Configure nodes, all of them by default, at the same time: models load in parallel.

        :raises LifecycleError: A node refused; with its reason.
        """
        pending = [self._clients[name].begin('configure', CONFIGURE_TIMEOUT_S)
                   for name in (names if names is not None else self._clients)]
        for transition in pending:
            transition.wait()

    def activate(self, names: Iterable[str] | None = None) -> None:
        """Activate nodes in the given order, all of them by default.

        :raises LifecycleError: A node refused; with its reason.
        """
        for name in names if names is not None else self._clients:
            self._clients[name].run('activate', ACTIVATE_TIMEOUT_S)

    def deactivate(self, name: str) -> None:
        """Deactivate one node.

        :raises LifecycleError: It refused; with its reason.
        """
        self._clients[name].run('deactivate', ACTIVATE_TIMEOUT_S)

    def clean_up(self, name: str) -> None:
        """Bring an inactive node back to unconfigured.

        :raises LifecycleError: It refused; with its reason.
        """
        self._clients[name].run('cleanup', ACTIVATE_TIMEOUT_S)

    def check(self) -> None:
        """Raise if a process has ended.

        :raises ProcessDiedError: With the end of its log.
        """
        self._processes.check()


def explain_failure(process: ManagedProcess) -> str:
    """Return the node's last error line, or the end of its log where it wrote none."""
    tail = process.tail(200)
    errors = [match.group(1) for line in tail.splitlines() if (match := _ERROR_LINE.match(line))]
    return f'{errors[-1]} (log: {process.log})' if errors else f'end of {process.log}:\n{process.tail()}'


def parse_settings(texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return ``['controller.tracker=pid']`` as ``{'controller': {'tracker': 'pid'}}``.

    :raises CommandError: A text is not NODE.PARAMETER=VALUE.
    """
    settings: dict[str, dict[str, Any]] = {}
    for text in texts:
        left, equals, value = text.partition('=')
        node, dot, parameter = left.partition('.')
        if not (equals and dot and node and parameter):
            raise CommandError(f"--set: '{text}' arrived, NODE.PARAMETER=VALUE is allowed")
        settings.setdefault(node, {})[parameter] = yaml.safe_load(value)
    return settings


def _shipped_files() -> list[Path]:
    files = []
    for name in PARAMETER_FILES:
        try:
            files.append(shared_file('config', name))
        except FileNotFoundError:
            # A stripped installation; the nodes' own defaults apply.
            continue
    return files


def default_log_directory() -> Path:
    """Return where logs go if nothing else is said: beside ROS's own."""
    home = Path(os.environ.get('ROS_HOME') or Path.home() / '.ros')
    return Path(os.environ.get('ROS_LOG_DIR') or home / 'log') / 'cosmos3' / str(os.getpid())


__all__ = [
    'Graph', 'LifecycleError', 'NodeSpec', 'default_log_directory', 'explain_failure', 'parse_settings']
