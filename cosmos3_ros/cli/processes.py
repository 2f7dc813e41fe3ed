"""Start executables as child processes, watch them, and stop all of them within a deadline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import contextlib
import ctypes
from dataclasses import dataclass
import os
from pathlib import Path
import signal
import subprocess
import time
from typing import IO

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a child gets when the thread that started it ends."""

STOP_BUDGET_S = 1.9
"""All children are gone this long after :meth:`ProcessGroup.stop`; the command promises 2 s."""

ESCALATION: tuple[tuple[signal.Signals, float], ...] = (
    (signal.SIGINT, 0.0),
    (signal.SIGTERM, 1.0),
    (signal.SIGKILL, 1.5),
)
"""Signal and when it is due. SIGINT lets a node brake and tear down; the rest is for those that hang."""

_LIBC = ctypes.CDLL(None, use_errno=True)


class ProcessDiedError(RuntimeError):
    """A child ended that should be running. The text holds the end of its log."""


@dataclass(slots=True)
class ManagedProcess:
    """One child with its own session, so that a signal reaches its children too.

    :param name: How messages call it.
    :param log: File with its stdout and stderr.
    """

    name: str
    command: tuple[str, ...]
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def returncode(self) -> int | None:
        """Exit status, None while it runs; negative: the signal that ended it."""
        return self.popen.poll()

    @property
    def group_alive(self) -> bool:
        """Whether anything of its process group is left: the child itself or its children."""
        self.popen.poll()
        try:
            os.killpg(self.popen.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return _group_has_living(self.popen.pid)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the whole group; a group that is gone is fine."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of the log."""
        try:
            text = self.log.read_text(errors='replace')
        except FileNotFoundError:
            return ''
        return '\n'.join(text.splitlines()[-lines:])

    def failure(self) -> str:
        """Say how it ended, with the end of its log."""
        code = self.returncode
        if code is None:
            how = 'still runs'
        elif code < 0:
            how = f'was ended by signal {signal.Signals(-code).name}'
        else:
            how = f'ended with exit code {code}'
        return f'{self.name} {how}. End of {self.log}:\n{self.tail()}'


class ProcessGroup:
    """The child processes of one command. Use as a context manager: leaving it stops all of them.

    Start processes from the main thread: the kernel ties the death signal to the starting thread.

    :param log_directory: One file per process; created if missing.
    :param environment: Environment of every child.
    """

    def __init__(self, log_directory: Path, environment: Mapping[str, str]) -> None:
        self._log_directory = log_directory
        self._environment = dict(environment)
        self._processes: list[ManagedProcess] = []
        self._logs: list[IO[bytes]] = []
        log_directory.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> ProcessGroup:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything, whatever happened."""
        self.stop()

    @property
    def processes(self) -> tuple[ManagedProcess, ...]:
        """All children that were started, living or not, in order."""
        return tuple(self._processes)

    def start(self, name: str, command: Sequence[str]) -> ManagedProcess:
        """Start one child in its own session; it ends when this process ends, even by SIGKILL.

        :raises OSError: The command cannot be executed.
        """
        log = self._log_directory / f'{name}.log'
        file = log.open('wb')
        self._logs.append(file)
        parent = os.getpid()

        def prepare() -> None:
            # SIGTERM, not SIGKILL: a controller whose terminal died still brakes its arm.
            _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)
            # A shell's background job hands down an ignored SIGINT; our children must hear it.
            signal.signal(signal.SIGINT, signal.SIG_DFL)

        popen = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            env=self._environment, start_new_session=True, preexec_fn=prepare)
        process = ManagedProcess(name, tuple(command), popen, log)
        self._processes.append(process)
        return process

    def check(self) -> None:
        """Raise if a child has ended.

        :raises ProcessDiedError: With the end of its log.
        """
        for process in self._processes:
            if process.returncode is not None:
                raise ProcessDiedError(process.failure())

    def stop_one(self, process: ManagedProcess, patience_s: float) -> int | None:
        """Stop one child ahead of the others, with ``patience_s`` to finish its files after SIGINT."""
        process.send(signal.SIGINT)
        _wait(lambda: not process.group_alive, patience_s)
        if process.group_alive:
            process.send(signal.SIGKILL)
            _wait(lambda: not process.group_alive, 0.3)
        self._processes.remove(process)
        return process.returncode

    def stop(self) -> list[str]:
        """Stop all children and their children: SIGINT, then SIGTERM, then SIGKILL.

        :return: Names of those that had to be killed.
        """
        start = time.monotonic()
        killed: list[str] = []
        for number, due_s in ESCALATION:
            _wait(lambda: not self._living(), start + due_s - time.monotonic())
            living = self._living()
            if not living:
                break
            for process in living:
                process.send(number)
            if number is signal.SIGKILL:
                killed = [process.name for process in living]
        _wait(lambda: not self._living(), start + STOP_BUDGET_S - time.monotonic())
        for file in self._logs:
            file.close()
        self._logs.clear()
        self._processes.clear()
        return killed

    def _living(self) -> list[ManagedProcess]:
        return [process for process in self._processes if process.group_alive]


def _wait(condition: Callable[[], bool], timeout_s: float) -> None:
    """Return when the condition holds or the time is up."""
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)


def _group_has_living(group: int) -> bool:
    """Return whether a process group has a member that is not a zombie.

    An orphaned grandchild that has ended stays a zombie until init reaps it, which may take a while in a
    container; killpg still finds it.
    """
    for entry in Path('/proc').iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / 'stat').read_text().rsplit(')', 1)[1].split()
        except (OSError, IndexError):
            continue
        if int(fields[2]) == group and fields[0] not in 'ZX':
            return True
    return False
