"""Run one node as a process: executor, signals, orderly end, exit code."""

import faulthandler
import os
import signal
import socket
import sys
import threading
from types import FrameType

import rclpy
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from .base import BASE_TABLE, LifecycleBase
from .parameters import ParameterError

RCLError = rclpy_implementation.RCLError

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
# After a signal the node has this long to stop (the controller brakes); then the process ends anyway,
# because a process that cannot be ended is worse than one that ends untidily.
CLOSE_LIMIT_S = 8.0

# A thread that calls into C many times (a rollout in MuJoCo, torch operators) waits up to this long for the
# interpreter's lock after each call while another thread runs; Python's 5 ms made chunks take seconds.
SWITCH_INTERVAL_S = 0.0005


class _Signals:
    """SIGINT and SIGTERM complete a future of the executor.

    rclpy's own handlers shut the context down first, and then nothing can be published any more: a
    controller could not brake. A Python handler alone would run only after the executor's wait returns.
    So the interpreter writes each signal to a socket, and a thread reads it.
    """

    def __init__(self, stop: 'Future[int]') -> None:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._previous = {
            number: signal.signal(number, self._ignore) for number in (signal.SIGINT, signal.SIGTERM)}
        self._previous_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._wait, args=(stop,), name='signals', daemon=True).start()

    @staticmethod
    def _ignore(number: int, frame: FrameType | None) -> None:
        """Only there so that Python does not raise KeyboardInterrupt or end at once."""

    def _wait(self, stop: 'Future[int]') -> None:
        while data := self._reader.recv(1):
            if data[0] in (signal.SIGINT, signal.SIGTERM) and not stop.done():
                stop.set_result(data[0])

    def restore(self) -> None:
        """Put the former handlers back."""
        signal.set_wakeup_fd(self._previous_fd)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._writer.close()


def _spin(
    executor: MultiThreadedExecutor | SingleThreadedExecutor,
    node: LifecycleBase,
    until: 'Future[int]',
    limit_s: float | None = None,
) -> None:
    """Spin until the future is done; an exception that a callback let through does not end it."""
    while not until.done() and node.context.ok():
        try:
            executor.spin_until_future_complete(until, limit_s)
        except ExternalShutdownException:
            return
        except (InvalidHandle, RCLError):
            # A transition destroyed an entity while the executor was collecting what to wait for (an
            # action server then raises the plainer error).
            node.counters.add('executor_races')
            continue
        except Exception as error:
            node.report_exception('executor', error)
            continue
        if limit_s is not None:
            return


def run_node(node_class: type[LifecycleBase], args: list[str] | None = None) -> int:
    """Run ``node_class`` until SIGINT, SIGTERM or an external shutdown, and return the exit code.

    :param args: Command line without the program name; ``None`` takes ``sys.argv``.
    """
    arguments = sys.argv[1:] if args is None else args
    own = arguments[:arguments.index('--ros-args')] if '--ros-args' in arguments else arguments
    if '-h' in own or '--help' in own:
        sys.stdout.write(
            f'{node_class.NAME} --ros-args [-p parameter:=value]... [--params-file FILE]\n\n'
            f'{(BASE_TABLE + node_class.TABLE).markdown()}\n')
        return EXIT_OK
    faulthandler.enable()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # Before anything that takes time: a signal during the start must end the process in order too.
    stop: Future[int] = Future()
    signals = _Signals(stop)
    try:
        rclpy.init(args=['', *arguments], signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:
        sys.stderr.write(f'{node_class.NAME}: cannot start ROS: {error}\n')
        return EXIT_USAGE
    try:
        node = node_class()
    except ParameterError as error:
        sys.stderr.write(f'{node_class.NAME}: {error}\n')
        rclpy.try_shutdown()
        return EXIT_USAGE
    executor = (
        MultiThreadedExecutor(node_class.THREADS) if node_class.THREADS > 1 else SingleThreadedExecutor())
    executor.add_node(node)
    _spin(executor, node, stop)
    if stop.done():
        node.get_logger().info(f'{signal.Signals(stop.result()).name}: shutting down')

    closed: Future[int] = Future()

    def close() -> None:
        try:
            node.close()
        except Exception as error:
            node.report_exception('close', error)
        finally:
            closed.set_result(0)

    # In a thread, so that joint states still arrive while the controller brakes.
    threading.Thread(target=close, name='close', daemon=True).start()
    _spin(executor, node, closed, CLOSE_LIMIT_S)
    if not closed.done():
        node.get_logger().error(f'not stopped after {CLOSE_LIMIT_S:g} s, ending the process')
        # Not sys.exit: it would join the thread that hangs.
        sys.stderr.flush()
        os._exit(EXIT_FAILURE)
    executor.shutdown(timeout_sec=1.0)
    node.destroy_node()
    rclpy.try_shutdown()
    # Last: launch repeats the signal, and a repeated one must not end an orderly exit with an error.
    signals.restore()
    return EXIT_OK
