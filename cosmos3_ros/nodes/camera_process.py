"""The simulator's end of its render process: start it, tell it when to draw, end it."""

from collections.abc import Sequence
import json
import socket
import subprocess
import sys
import threading
import time

from cosmos3_ros.sim.shared_state import SharedState

from .base import SetupError

MODULE = 'cosmos3_ros.nodes.simulator_cameras'
READY_TIMEOUT_S = 30.0
POLL_S = 0.1
# The child ends by itself when its socket closes; one that does not is helped along. A child that has to
# be killed leaves its shared-memory segments behind, so it gets time, within the 8 s of run.CLOSE_LIMIT_S.
CLOSE_TIMEOUTS_S = (4.0, 1.5, 0.5)
EXIT_TIMEOUT_S = 2.0
TICK = b'\x01'


class CameraProcess:
    """A child process that draws the shared state each time it is told to.

    It inherits the memory and one end of a socket pair. When this process ends, however it ends, the
    kernel closes the other end and the child ends too.

    :param arguments: Command line of the child after ``--ros-args``, without the two descriptors.
    """

    def __init__(self, shared: SharedState, arguments: Sequence[str]) -> None:
        self.ticks_lost = 0
        self._closing = False
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, '-m', MODULE, '--ros-args', *arguments,
                 '-p', f'state_descriptor:={shared.descriptor}',
                 '-p', f'tick_descriptor:={theirs.fileno()}', '-p', 'autostart:=true'],
                pass_fds=[shared.descriptor, theirs.fileno()], stdin=subprocess.DEVNULL)

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def wait_ready(self, cancelled: threading.Event) -> None:
        """Wait until the child can draw.

        :raises SetupError: It cannot, with its own words; or it did not answer in time.
        """
        deadline = time.monotonic() + READY_TIMEOUT_S
        self._socket.settimeout(POLL_S)
        while time.monotonic() < deadline:
            if cancelled.is_set():
                raise SetupError('the process is shutting down')
            try:
                answer = self._socket.recv(4096)
            except TimeoutError:
                continue
            except OSError as error:
                answer = b''
                reason = str(error)
            else:
                reason = 'it closed its socket'
            if not answer:
                status = self._process.wait(EXIT_TIMEOUT_S)
                raise SetupError(
                    f'the camera process ended with status {status} before it could draw: {reason}')
            problem = json.loads(answer)['error']
            if problem:
                raise SetupError(f'cameras: {problem}')
            self._socket.setblocking(False)
            return
        raise SetupError(f'the camera process did not answer within {READY_TIMEOUT_S:g} s; see its log')

    def tick(self) -> None:
        """Ask for one set of pictures of the shared state. Never waits."""
        try:
            self._socket.send(TICK)
        except OSError:
            # Full (the child is far behind) or closed (failure() tells).
            self.ticks_lost += 1

    def failure(self) -> str:
        """Say how the child ended, or return an empty string while it runs."""
        status = self._process.poll()
        if status is None or self._closing:
            return ''
        return f'the camera process ended with status {status}; deactivate, clean up and configure again'

    def close(self) -> None:
        """End the child. A second call does nothing."""
        self._closing = True
        self._socket.close()
        helps = (lambda: None, self._process.terminate, self._process.kill)
        for help_along, timeout_s in zip(helps, CLOSE_TIMEOUTS_S, strict=True):
            help_along()
            try:
                self._process.wait(timeout_s)
                return
            except subprocess.TimeoutExpired:
                continue


def inherited_arguments(arguments: Sequence[str]) -> list[str]:
    """Return those ROS arguments of this process that its child should share.

    Remappings of topics and log levels are passed on; the node's own name, namespace and parameters
    are not, because they are meant for this process.

    :param arguments: The process' command line.
    """
    if '--ros-args' not in arguments:
        return []
    mine = list(arguments[list(arguments).index('--ros-args') + 1:])
    if '--' in mine:
        mine = mine[:mine.index('--')]
    passed: list[str] = []
    for flag, value in zip(mine, [*mine[1:], ''], strict=True):
        renames = value.partition(':=')[0].rpartition(':')[2] in ('__node', '__name', '__ns')
        if (flag in ('-r', '--remap') and not renames) or flag in ('--log-level', '--log-config-file'):
            passed += [flag, value]
    return passed

