"""The one base class of all nodes: lifecycle, parameters, diagnostics and failure handling."""

from collections.abc import Callable
import threading
import time
import traceback
from typing import Any, ClassVar

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.time_source import TimeSource

from cosmos3_ros.contracts import ContractError

from .diagnostics import Counters, Level, Logs, Report
from .entity_census import EntityCensus
from .guarding import SetupError, guarded, guarded_service, guarded_when_active
from .niceness import MOST, give_way
from .parameters import Parameter, ParameterTable, ParameterValues
from .stream_poller import POLL_PERIOD_S, StreamPoller

__all__ = [
    'BASE_TABLE', 'LifecycleBase', 'SetupError', 'guarded', 'guarded_service', 'guarded_when_active']

DIAGNOSTICS_PERIOD_S = 1.0
# How long close() waits for a transition that another thread is in the middle of.
TRANSITION_WAIT_S = 3.0
TRANSITION_POLL_S = 0.01

# What people cause (a wrong name, a missing file, a missing library) is told in one line. Anything
# else is a bug, and a bug needs its traceback.
_EXPECTED_ERRORS = (ValueError, OSError, ImportError, LookupError)

BASE_TABLE = ParameterTable(
    Parameter('autostart', bool, False,
              'Configure and activate at start, for use without a launch file or a lifecycle manager.',
              read_only=True),
    Parameter('nice', int, 0,
              'Niceness of the whole process: above 0 it gives way to the others on few cores. SCHED_FIFO '
              'threads do not heed it.', range=(0, MOST), read_only=True),
)


class LifecycleBase(LifecycleNode):
    """A managed node that never dies of bad input.

    A subclass sets ``NAME`` and ``TABLE`` and implements ``setup``, ``warm_up``, ``start``, ``stop``,
    ``teardown`` and ``diagnose``. ROS entities that ``setup`` or ``start`` creates are destroyed by the
    base, in whatever partial state they are.

    ``self.values`` holds the parameters, ``self.counters`` what diagnostics count, ``self.logs`` the
    throttled log, ``self.active`` whether the node is active, ``self.poller`` takes streams. Use
    ``self.data_group`` for streams and
    ``self.service_group`` for services that must be served while a transition runs.
    """

    NAME: ClassVar[str] = 'node'
    TABLE: ClassVar[ParameterTable] = ParameterTable()
    THREADS: ClassVar[int] = 3
    """Executor threads: one for transitions, one for data, one for services and diagnostics."""
    CLOCK_POLL_S: ClassVar[float] = POLL_PERIOD_S
    """With simulated time: how often the node's clock is set, seconds."""

    def __init__(self, **kwargs: Any) -> None:
        # First: with use_sim_time the node's clock subscribes while the node is being built.
        self.poller = StreamPoller(self, clock_period_s=self.CLOCK_POLL_S)
        super().__init__(self.NAME, **kwargs)
        self.counters = Counters()
        self.logs = Logs(self.get_logger())
        self.active = False
        self.closing = threading.Event()
        self.data_group = MutuallyExclusiveCallbackGroup()
        self.service_group = ReentrantCallbackGroup()
        self._configured = False
        self._failure = ''
        self._release_lock = threading.RLock()
        self._setup_baseline: EntityCensus | None = None
        self._start_baseline: EntityCensus | None = None
        self._traced: set[str] = set()
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.values: ParameterValues = (BASE_TABLE + self.TABLE).declare(self, self._on_values)
        give_way(self.values['nice'])
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        # On the steady clock: a node that waits for /clock must still be able to say so.
        self.create_timer(
            DIAGNOSTICS_PERIOD_S, self._publish_diagnostics,
            callback_group=MutuallyExclusiveCallbackGroup(), clock=self._steady)
        self._autostart = None
        if self.values['autostart']:
            self._autostart = self.create_timer(0.0, self._start_itself, clock=self._steady)
        self.poller.start()

    def create_subscription(
        self, msg_type: Any, topic: str, callback: Callable[..., None], *args: Any, **kwargs: Any,
    ) -> Any:
        """As rclpy's, but /clock is polled: through the executor it costs each node a tenth of a core."""
        is_clock = isinstance(getattr(callback, '__self__', None), TimeSource)
        # With a callback group it is the poller itself that asks.
        if is_clock and 'callback_group' not in kwargs:
            return self.poller.subscribe_clock(msg_type, topic, args[0], callback)
        return super().create_subscription(msg_type, topic, callback, *args, **kwargs)

    def destroy_node(self) -> None:
        """End the polling thread with the node."""
        self.poller.close()
        super().destroy_node()

    # What a subclass implements -------------------------------------------------------------

    def setup(self) -> None:
        """Build everything. An exception fails the transition with its text; the node stays up."""

    def warm_up(self) -> None:
        """Run the slow first calls, so that the first real one is not slow. Part of configuring."""

    def start(self) -> None:
        """Begin to work. Must be quick; an exception fails the activation."""

    def stop(self) -> None:
        """End what ``start`` began. Must tolerate a ``start`` that stopped half-way."""

    def teardown(self) -> None:
        """Release what ``setup`` took. Must tolerate a ``setup`` that stopped half-way."""

    def diagnose(self, report: Report) -> None:
        """Add level, messages and values to ``report``; called at 1 Hz while configured."""

    def on_values(self, values: ParameterValues) -> None:
        """React to changed parameters."""

    # Helpers for subclasses -----------------------------------------------------------------

    def now_ns(self) -> int:
        """Return the node's clock in nanoseconds (simulated time with ``use_sim_time``)."""
        return int(self.get_clock().now().nanoseconds)

    @property
    def steady_clock(self) -> Clock:
        """The machine's steady clock, for timers that must not follow simulated time."""
        return self._steady

    @property
    def state_label(self) -> str:
        """Lifecycle state, e.g. ``inactive``."""
        return str(self._state_machine.current_state[1])

    @property
    def failure(self) -> str:
        """Why the last transition failed; empty after one that did not."""
        return self._failure

    def report_exception(self, where: str, error: Exception) -> None:
        """Log ``error`` throttled and count it. Refused input counts apart from bugs."""
        if isinstance(error, ContractError):
            self.counters.add('rejected')
            self.logs.warn(f'{where}:rejected', f'{where}: {error}')
            return
        self.counters.add('exceptions')
        text = f'{where}: {type(error).__name__}: {error}'
        if text not in self._traced and len(self._traced) < 100:
            self._traced.add(text)
            text += '\n' + ''.join(traceback.format_exception(error)).rstrip()
        self.logs.error(where, text)

    # Transitions ----------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Run ``setup`` and ``warm_up``; on failure release everything and stay unconfigured."""
        begin = time.monotonic()
        self._setup_baseline = EntityCensus(self)
        if not self._attempt('configure', self.setup, self.warm_up):
            self._release()
            return TransitionCallbackReturn.FAILURE
        self._configured = True
        self.get_logger().info(f'configured in {time.monotonic() - begin:.2f} s')
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Run ``start``; on failure stay inactive."""
        self._start_baseline = EntityCensus(self)
        self.active = True
        if not self._attempt('activate', self.start):
            self._halt()
            return TransitionCallbackReturn.FAILURE
        self.get_logger().info('active')
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Run ``stop``."""
        self._halt()
        self.get_logger().info('inactive')
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything."""
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and release everything."""
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything, so that the node can be configured again."""
        self._release()
        return super().on_error(state)

    def close(self) -> None:
        """Stop and release everything in whatever state the node is. Safe to call twice."""
        self.closing.set()
        deadline = time.monotonic() + TRANSITION_WAIT_S
        while self.state_label not in ('unconfigured', 'inactive', 'active', 'finalized'):
            if time.monotonic() > deadline:
                self.get_logger().error(f'still {self.state_label}; releasing what there is')
                self._release()
                return
            time.sleep(TRANSITION_POLL_S)
        if self.state_label != 'finalized':
            self.trigger_shutdown()

    def _attempt(self, what: str, *steps: Callable[[], None]) -> bool:
        self._failure = ''
        try:
            for step in steps:
                if self.closing.is_set():
                    raise SetupError('the process is shutting down')
                step()
        except Exception as error:
            self._failure = str(error) or type(error).__name__
            text = f'cannot {what}: {self._failure}'
            if not isinstance(error, (*_EXPECTED_ERRORS, SetupError)):
                text += '\n' + ''.join(traceback.format_exception(error)).rstrip()
            self.get_logger().error(text)
            return False
        return True

    def _halt(self) -> None:
        """Run ``stop`` once and destroy what ``start`` created."""
        with self._release_lock:
            if not self.active:
                return
            try:
                self.stop()
            except Exception as error:
                self.report_exception('stop', error)
            self.active = False
            if self._start_baseline is not None:
                self._start_baseline.destroy_newer()

    def _release(self) -> None:
        """The one teardown path: cleanup, shutdown, error and process exit all end here."""
        with self._release_lock:
            self._halt()
            self._configured = False
            try:
                self.teardown()
            except Exception as error:
                self.report_exception('teardown', error)
            if self._setup_baseline is not None:
                self._setup_baseline.destroy_newer()
                self._setup_baseline = None

    # Timers ---------------------------------------------------------------------------------

    def _on_values(self, values: ParameterValues) -> None:
        # Called first from declare(), before the subclass is built.
        if self._configured:
            self.on_values(values)

    def _start_itself(self) -> None:
        if self._autostart is not None:
            self.destroy_timer(self._autostart)
            self._autostart = None
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def _publish_diagnostics(self) -> None:
        try:
            report = Report()
            report.put(state=self.state_label)
            if self._failure:
                report.add(Level.ERROR, self._failure)
            elif not self._configured:
                report.add(Level.WARN, f'{self.state_label}')
            else:
                self.poller.diagnose(report)
                self.diagnose(report)
            report.put(**self.counters.snapshot())
            if self.counters['exceptions']:
                report.add(Level.WARN, f'{self.counters["exceptions"]} exceptions in callbacks, see the log')
            self._diagnostics.publish(report.to_message(
                stamp=self.get_clock().now().to_msg(),
                name=self.get_fully_qualified_name().lstrip('/'), hardware_id=self.hardware_id))
        except Exception as error:
            self.report_exception('diagnostics', error)

    @property
    def hardware_id(self) -> str:
        """What /diagnostics names as hardware: the robot where there is one."""
        return str(self.values['robot']) if 'robot' in self.values else ''
