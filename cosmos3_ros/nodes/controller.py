"""Node ``controller``: chunks and joint states in, joint commands out, inside the limits."""

import sys
import time

from rclpy.duration import Duration

from cosmos3_ros.contracts import ControllerMode, StopReason
from cosmos3_ros.control import Controller
import cosmos3_ros.msg as msg
from cosmos3_ros.robots import load_robot

from .base import LifecycleBase, guarded
from .command_output import CommandOutput, check_interface, make_output
from .conflict_watch import WATCH_S, ConflictWatch
from .control_loop import ControlLoop
from .control_time import ControlTime
from .controller_inputs import ControllerInputs
from .controller_parameters import CONTROLLER_TABLE, controller_config
from .controller_services import NO_CLOCK, ControllerServices
from .diagnostics import Level, Report
from .messages import controller_state_to_message
from .qos import qos_profile
from .run import run_node

# A brake ends within the plan's horizon, 0.6 s; then the measured arm is waited for.
BRAKE_WAIT_S = 1.5
BRAKE_POLL_S = 0.005
# A publisher that is destroyed takes with it what a reliable subscriber has not got yet: on a busy machine
# the last state, which says how the stop ended. The arm rests by then.
LAST_STATE_S = 0.5
# Until the first joint state has come there is nothing to start from; this often it is tried again.
BEGIN_RETRY_S = 0.05
STOPPED_BEFORE = 'a stop is latched from before, call ~/reset'
# controller_state is published between two ticks if this much time is left there, and in any case once it
# is this late.
STATE_SLACK_NS = 1_000_000
STATE_PATIENCE_NS = 200_000_000
# A thread that wants the interpreter's lock waits this long before it asks for it (sys.setswitchinterval): as
# much later the control thread wakes up while another one computes, say while a chunk is spliced in.
SWITCH_INTERVAL_S = 0.0001
MOVING = (ControllerMode.RUNNING, ControllerMode.STOPPING)


class ControllerNode(LifecycleBase):
    """Runs ``control.Controller`` in its own thread and connects it to topics and services.

    Active means SHADOW: everything runs and ``controller_state`` says what would be commanded, but
    nothing is sent. ``~/arm`` starts sending.
    """

    NAME = 'controller'
    THREADS = 1
    """What is frequent is polled by the control thread; see ``polled_subscription``."""
    CLOCK_POLL_S = 0.05
    """The control thread listens to /clock itself; the node's own clock stamps diagnostics only."""
    TABLE = CONTROLLER_TABLE

    def setup(self) -> None:
        """Load the robot, build the controller, wire the inputs."""
        values = self.values
        self._loop: ControlLoop | None = None
        self._output: CommandOutput | None = None
        self._controller: Controller | None = None
        self._waiting = ''
        self._state_due_ns = 0
        self._robot = load_robot(values['robot'], values['profile'])
        check_interface(self._robot, values['command_interface'])
        self._conflicts = ConflictWatch(self)
        self._conflicts.refuse_twin()
        self._time = ControlTime(
            simulated=bool(self.get_parameter('use_sim_time').value),
            jump_ns=int(values['clock_jump_s'] * 1e9), node_now_ns=self.now_ns)
        self._controller = Controller(self._robot, controller_config(values))
        self._inputs = ControllerInputs(self, self._robot, self._controller, self._time)
        ControllerServices(self, self._controller, self._time, self._inputs, self._conflicts)
        self._state = self.create_publisher(
            msg.ControllerState, 'controller_state', qos_profile(values, 'controller_state'))
        # While the control thread runs, it publishes the state.
        self._state_timer = self.create_timer(
            1.0 / values['state_rate_hz'], self._publish_state, callback_group=self.service_group,
            clock=self.steady_clock)

    def warm_up(self) -> None:
        """Run the planner once, so that the loop's first plan is not the slow one."""
        assert self._controller is not None
        self._controller.warm_up()

    def start(self) -> None:
        """Start the control thread in SHADOW."""
        values, controller = self.values, self._controller
        assert controller is not None
        self._conflicts.refuse_commander()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._time.renew()
        self._inputs.subscribe()
        self._output = make_output(
            self, self._robot, values, offset_ns=self._time.offset_ns, preview=controller.preview)
        cpus = tuple(cpu for cpu in values['cpu_affinity'] if cpu >= 0)
        self._loop = ControlLoop(
            self._time.clock, round(1e9 / values['rate_hz']), self._tick, on_overrun=self._on_overrun,
            on_jump=self._on_jump, on_error=self._on_tick_error, logger=self.get_logger(),
            poll_clock=self._inputs.poll_clock, poll=self._inputs.poll, between=self._between_ticks,
            priority=values['rt_priority'], cpus=cpus)
        self._time.follow(self._loop)
        self._state_timer.cancel()
        self._loop.start()
        self.get_logger().warning(
            'stop and limits of this controller are not safety-rated functions: '
            'keep the emergency stop in reach')
        self._waiting = 'waiting for joint states'
        self._begin_timer = self.create_timer(
            BEGIN_RETRY_S, self._begin, callback_group=self.service_group, clock=self.steady_clock)
        self.create_timer(
            WATCH_S, self._watch_conflict, callback_group=self.service_group, clock=self.steady_clock)

    def stop(self) -> None:
        """Brake, wait for standstill, end the control thread."""
        controller, loop = getattr(self, '_controller', None), getattr(self, '_loop', None)
        if controller is not None and loop is not None:
            if self.closing.is_set():
                controller.stop(StopReason.SHUTDOWN, 'the process ends', self._time.now_ns())
            elif controller.mode in MOVING:
                controller.disarm(self._time.now_ns())
            deadline = time.monotonic() + BRAKE_WAIT_S
            while controller.mode in MOVING and time.monotonic() < deadline:
                time.sleep(BRAKE_POLL_S)
            if controller.mode in MOVING:
                self.get_logger().error(f'the arm has not come to rest within {BRAKE_WAIT_S:g} s')
            loop.stop()
            if controller.mode is ControllerMode.SHADOW:
                controller.disarm(self._time.now_ns())
            self._publish_state()
            self._state.wait_for_all_acked(Duration(seconds=LAST_STATE_S))
            self._time.follow(None)
            self._state_timer.reset()
        self._loop = None
        self._output = None

    def teardown(self) -> None:
        """Forget the controller."""
        self._controller = None

    # The control thread ---------------------------------------------------------------------

    def _tick(self, sample_ns: int) -> None:
        controller, output = self._controller, self._output
        self._time.observe_system()
        if controller is None or output is None:
            return
        command = controller.tick(sample_ns)
        # Asked again here, whatever tick() returns: in SHADOW nothing may leave this process.
        if command is not None and controller.mode in MOVING:
            output.send(command)

    def _between_ticks(self, slack_ns: int) -> None:
        now_ns = time.monotonic_ns()
        overdue_ns = now_ns - self._state_due_ns
        if overdue_ns < 0 or (slack_ns < STATE_SLACK_NS and overdue_ns < STATE_PATIENCE_NS):
            return
        self._state_due_ns = max(self._state_due_ns + round(1e9 / self.values['state_rate_hz']), now_ns)
        self._publish_state()

    def _on_overrun(self, missed: int) -> None:
        if self._controller is not None:
            self._controller.report_overrun(
                missed * round(1e9 / self.values['rate_hz']), self._time.now_ns())

    def _on_jump(self, jump_ns: int) -> None:
        self.counters.add('clock_jumps')
        bound_s = self.values['clock_jump_s']
        text = f'the clock jumped by {jump_ns / 1e9:.3f} s, {bound_s:g} s is allowed (clock_jump_s)'
        if self._controller is None or self._controller.mode is ControllerMode.INACTIVE:
            # Nothing has been planned on the old time: a simulator that starts up may stall or begin anew.
            self.logs.warn('jump', text)
            return
        self.logs.error('jump', text)
        self._controller.stop(StopReason.CLOCK_JUMP, text, self._time.now_ns())

    def _on_tick_error(self, error: Exception) -> None:
        if self._controller is not None:
            self._controller.stop(
                StopReason.INTERNAL_ERROR, f'{type(error).__name__}: {error}', self._time.now_ns())
        self.report_exception('tick', error)

    # Timers ---------------------------------------------------------------------------------

    @guarded
    def _begin(self) -> None:
        """Go to SHADOW, or arm if that was asked for, as soon as a joint state allows it; once."""
        controller = self._controller
        if controller is None:
            return
        if not self._time.ready:
            self._waiting = NO_CLOCK
            return
        done = controller.mode is not ControllerMode.INACTIVE
        arming = self.values['arm_on_activate'] and not self._inputs.stop_held
        if not done:
            begin = controller.arm if arming else controller.start_shadow
            verdict = begin(self._time.sample_ns())
            done = verdict.accepted
            self._waiting = '' if done else verdict.reason
            if done:
                self.get_logger().info(f'mode {controller.mode.name}. {verdict.reason}')
        elif controller.mode is ControllerMode.STOPPED:
            detail = controller.state(self._time.now_ns()).stop_detail
            self.get_logger().warning(f'{STOPPED_BEFORE}: {detail}')
        if done:
            self._waiting = ''
            self.destroy_timer(self._begin_timer)

    @guarded
    def _watch_conflict(self) -> None:
        controller, text = self._controller, self._conflicts.look()
        if text and controller is not None and controller.mode is ControllerMode.RUNNING:
            controller.stop(StopReason.CONFLICT, text, self._time.now_ns())

    # Output ---------------------------------------------------------------------------------

    @guarded
    def _publish_state(self) -> None:
        controller = self._controller
        if controller is None:
            return
        state = controller.state(self._time.now_ns())
        self._state.publish(controller_state_to_message(state, offset_ns=self._time.offset_ns()))
        stopped = state.mode in (ControllerMode.STOPPING, ControllerMode.STOPPED)
        self.logs.edge('stop', stopped and state.stop_reason is not StopReason.NONE,
                       f'stop: {state.stop_reason.name}: {state.stop_detail}', 'the stop was reset')

    def diagnose(self, report: Report) -> None:
        """Mode, stop reason, loop timing and counters."""
        controller, loop, output = self._controller, self._loop, self._output
        if controller is None:
            return
        state = controller.state(self._time.now_ns())
        report.put(mode=state.mode.name, stop_reason=state.stop_reason.name, profile=self.values['profile'],
                   chunks_accepted=state.chunks_accepted, chunks_rejected=state.chunks_rejected,
                   plans_committed=state.plans_committed, plans_rejected=state.plans_rejected)
        if loop is not None:
            report.put(ticks=loop.ticks, rate_hz=loop.rate_hz(), overruns=loop.overruns,
                       late_over_10ms=loop.late, clock_steps=loop.clock_steps, real_time=loop.real_time,
                       **loop.lateness_us.summary('lateness_us'),
                       **loop.tick_us.summary('tick_us'))
        if output is not None:
            report.put(commands_sent=output.sent, **output.publish_us.summary('publish_us'))
        if state.stop_reason is not StopReason.NONE:
            report.add(Level.ERROR, f'{state.mode.name}: {state.stop_reason.name}: {state.stop_detail}')
        if self._conflicts.text:
            report.add(Level.ERROR, self._conflicts.text)
        if self.active:
            self._inputs.diagnose(report)
            if self._waiting:
                report.add(Level.WARN, self._waiting)


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(ControllerNode, args)


if __name__ == '__main__':
    sys.exit(main())
