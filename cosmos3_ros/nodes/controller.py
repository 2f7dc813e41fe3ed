"""Node ``controller``: chunks and joint states in, joint commands out, inside the limits."""

from collections.abc import Mapping
import sys
import time
from typing import Any

from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64
from std_srvs.srv import Trigger

from cosmos3_ros.contracts import ControllerMode, StopReason
from cosmos3_ros.control import Controller, ControllerConfig
import cosmos3_ros.msg as msg
from cosmos3_ros.robots import load_robot

from .base import LifecycleBase, SetupError, guarded, guarded_service
from .clock import DisciplinedClock, SystemClock
from .command_output import (
    COMMAND_INTERFACES,
    CommandOutput,
    Float64Output,
    JointStateOutput,
    TrajectoryOutput,
    check_interface,
)
from .control_loop import ControlLoop
from .diagnostics import Level, Report
from .joint_reader import JointReader
from .messages import NonFiniteError, chunk_from_message, controller_state_to_message, other_joints
from .parameters import Parameter, ParameterTable
from .polled_subscription import PolledSubscription
from .qos import make_profile, qos_parameters, qos_profile
from .run import run_node

# How long to watch for another controller before this one may command: discovery on one host takes
# some 100 ms, over a network somewhat more.
CONFLICT_WATCH_S = 1.0
CONFLICT_POLL_S = 0.05
# A brake from full speed ends within the profile's braking time (at most 0.5 s in shipped profiles).
BRAKE_WAIT_S = 1.5
BRAKE_POLL_S = 0.005
# Least gap between ticks that counts as a jump to the controller; as its own default.
CLOCK_FORWARD_NS = 200_000_000
# Until the first joint state has come there is nothing to start from; this often it is tried again.
BEGIN_RETRY_S = 0.05
NO_CLOCK = 'use_sim_time is set and no /clock has arrived'
STOPPED_BEFORE = 'a stop is latched from before, call ~/reset'
# A simulator that catches up after a stall sends /clock in a burst; dropped ones would look like a jump.
CLOCK_DEPTH = 100
# stop and speed_scale are looked at this often, the rest before every sample: a look costs some 10 us,
# and 10 ms is little beside the time that an arm takes to brake.
ORDERS_PERIOD_NS = 10_000_000
# controller_state is published between two ticks if this much time is left there, and in any case once it
# is this late.
STATE_SLACK_NS = 1_000_000
STATE_PATIENCE_NS = 200_000_000
# A thread that wants the interpreter's lock waits this long before it asks for it (sys.setswitchinterval): as
# much later the control thread wakes up while another one computes, say while a chunk is spliced in.
SWITCH_INTERVAL_S = 0.0001
MOVING = (ControllerMode.RUNNING, ControllerMode.STOPPING)


def _threshold(name: str, text: str, unit: str, limit: float) -> Parameter:
    return Parameter(name, float, 0.0, f"{text} 0 takes the profile's.", unit=unit, range=(0.0, limit),
                     read_only=True)


class ControllerNode(LifecycleBase):
    """Runs ``control.Controller`` in its own thread and connects it to topics and services.

    Active means SHADOW: everything runs and ``controller_state`` says what would be commanded, but
    nothing is sent. ``~/arm`` starts sending.
    """

    NAME = 'controller'
    THREADS = 1
    """What is frequent is polled by the control thread; see ``polled_subscription``."""
    TABLE = ParameterTable(
        Parameter('robot', str, 'panda', 'Robot, a shipped name or a YAML file.', read_only=True),
        Parameter('profile', str, 'commissioning', 'Profile that scales the limits.', read_only=True),
        Parameter('tracker', str, 'mpc', 'Tracker.', choices=('mpc', 'pid'), read_only=True),
        Parameter('rate_hz', float, 500.0, 'Rate of commands.', unit='Hz', range=(50.0, 1000.0),
                  read_only=True),
        Parameter('command_interface', str, 'joint_state', 'Message type of joint_command.',
                  choices=tuple(COMMAND_INTERFACES), read_only=True),
        Parameter('arm_on_activate', bool, False,
                  'Arm as soon as the first joint state came. For simulation; on a real arm use ~/arm.',
                  read_only=True),
        Parameter('speed_scale_required', bool, False, 'No motion until a speed_scale arrived.',
                  read_only=True),
        Parameter('stop_on_stale_chunk', bool, False,
                  'Latch a stop when chunks end. False holds at rest until the next chunk.', read_only=True),
        _threshold('joint_state_stale_s', 'Joint states older than this stop the arm.', 's', 10.0),
        _threshold('chunk_stale_s', 'Grace after the end of a chunk.', 's', 60.0),
        _threshold('tracking_error_rad', 'Deviation from the command that stops the arm.', 'rad', 3.2),
        Parameter('clock_jump_s', float, 0.1, 'A jump of the clock by more stops the arm.', unit='s',
                  range=(0.01, 10.0), read_only=True),
        Parameter('overrun_stop_s', float, 0.05, 'A control tick later than this stops the arm.', unit='s',
                  range=(0.001, 10.0), read_only=True),
        Parameter('rt_priority', int, 0, 'SCHED_FIFO priority of the control thread; 0 is normal.',
                  range=(0, 98), read_only=True),
        Parameter('cpu_affinity', list[int], [-1],
                  'Processors of the control thread; [-1] is any.', range=(-1, 1023), read_only=True),
        Parameter('trajectory_period_s', float, 0.02, 'Time between two messages of joint_trajectory.',
                  unit='s', range=(0.002, 0.5), read_only=True),
        Parameter('trajectory_spacing_s', float, 0.02, 'Time between two points of joint_trajectory.',
                  unit='s', range=(0.002, 0.1), read_only=True),
        Parameter('trajectory_points', int, 8, 'Points of joint_trajectory.', range=(2, 50), read_only=True),
        Parameter('state_rate_hz', float, 20.0, 'Rate of controller_state.', unit='Hz', range=(1.0, 100.0),
                  read_only=True),
        *qos_parameters('joint_states', 'action_chunk', 'joint_command', 'controller_state', 'stop',
                        'speed_scale'),
    )

    def setup(self) -> None:
        """Load the robot, build the controller, wire the inputs."""
        values = self.values
        self._loop: ControlLoop | None = None
        self._output: CommandOutput | None = None
        self._controller: Controller | None = None
        self._robot = load_robot(values['robot'], values['profile'])
        check_interface(self._robot, values['command_interface'])
        self._refuse_twin()
        self._control_clock = self._make_clock()
        self._controller = Controller(self._robot, self._config(values))
        self._polled: tuple[PolledSubscription, ...] = ()
        self._polled_orders: tuple[PolledSubscription, ...] = ()
        self._orders_due_ns = self._state_due_ns = 0
        self._state_period_ns = round(1e9 / values['state_rate_hz'])
        self._reader = JointReader(self._robot.joint_names, self._robot.gripper)
        self._stop_held = False
        self._waiting = ''
        self._conflict = ''
        self.poller.subscribe(
            msg.ActionChunk, 'action_chunk', qos_profile(values, 'action_chunk'), self._on_chunk)
        self._state = self.create_publisher(
            msg.ControllerState, 'controller_state', qos_profile(values, 'controller_state'))
        for name in ('arm', 'disarm', 'stop', 'reset'):
            self.create_service(
                Trigger, f'~/{name}', getattr(self, f'_serve_{name}'), callback_group=self.service_group)
        # While the control thread runs, it publishes the state.
        self._state_timer = self.create_timer(
            1.0 / values['state_rate_hz'], self._publish_state, callback_group=self.service_group,
            clock=self.steady_clock)

    def _poll_subscription(self, message_type: Any, topic: str, callback: Any) -> PolledSubscription:
        return PolledSubscription(self, message_type, topic, qos_profile(self.values, topic), callback)

    def _make_clock(self) -> SystemClock | DisciplinedClock:
        jump_ns = int(self.values['clock_jump_s'] * 1e9)
        if self.get_parameter('use_sim_time').value:
            return DisciplinedClock(jump_ns=jump_ns)
        return SystemClock(time.time_ns(), time.monotonic_ns(), jump_ns=jump_ns)

    @staticmethod
    def _config(values: Mapping[str, Any]) -> ControllerConfig:
        return ControllerConfig(
            tracker=values['tracker'], rate_hz=values['rate_hz'],
            speed_scale_required=values['speed_scale_required'],
            stop_on_stale_chunk=values['stop_on_stale_chunk'],
            overrun_stop_ns=round(values['overrun_stop_s'] * 1e9),
            # Control time does not jump (see clock.py), so a gap between ticks is a stall of this process.
            clock_forward_ns=max(CLOCK_FORWARD_NS, round(2e9 * min(values['overrun_stop_s'], 5.0))),
            joint_state_stale_s=values['joint_state_stale_s'] or None,
            chunk_stale_s=values['chunk_stale_s'] or None,
            tracking_error_rad=values['tracking_error_rad'] or None)

    def warm_up(self) -> None:
        """Run the planner once, so that the loop's first plan is not the slow one."""
        assert self._controller is not None
        self._controller.warm_up()

    def start(self) -> None:
        """Start the control thread in SHADOW."""
        values, controller = self.values, self._controller
        assert controller is not None
        self._refuse_commander()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        # A fresh clock: while inactive nobody watched it, and what it missed is no jump.
        self._control_clock = self._make_clock()
        self._polled = (
            self._poll_subscription(JointState, 'joint_states', self._on_joints),)
        self._polled_orders = (
            self._poll_subscription(Bool, 'stop', self._on_stop_topic),
            self._poll_subscription(Float64, 'speed_scale', self._on_speed_scale))
        if isinstance(self._control_clock, DisciplinedClock):
            clock = PolledSubscription(
                self, ClockMessage, '/clock', make_profile('best_effort', CLOCK_DEPTH), self._on_clock)
            self._polled = (clock, *self._polled)
        self._output = self._make_output(controller)
        cpus = tuple(cpu for cpu in values['cpu_affinity'] if cpu >= 0)
        self._loop = ControlLoop(
            self._control_clock, round(1e9 / values['rate_hz']), self._tick, on_overrun=self._on_overrun,
            on_jump=self._on_jump, on_error=self._on_tick_error, logger=self.get_logger(), poll=self._poll,
            between=self._between_ticks, priority=values['rt_priority'], cpus=cpus)
        self._state_timer.cancel()
        self._loop.start()
        self.get_logger().warning(
            'stop and limits of this controller are not safety-rated functions: '
            'keep the emergency stop in reach')
        self._waiting = 'waiting for joint states'
        self._begin_timer = self.create_timer(
            BEGIN_RETRY_S, self._begin, callback_group=self.service_group, clock=self.steady_clock)
        self.create_timer(
            CONFLICT_WATCH_S, self._watch_conflict, callback_group=self.service_group,
            clock=self.steady_clock)

    def _make_output(self, controller: Controller) -> CommandOutput:
        values, robot = self.values, self._robot
        profile = qos_profile(values, 'joint_command')

        if values['command_interface'] == 'joint_trajectory':
            return TrajectoryOutput(
                self, robot, profile, self._offset_ns, preview=controller.preview,
                period_ns=round(values['trajectory_period_s'] * 1e9),
                spacing_ns=round(values['trajectory_spacing_s'] * 1e9), points=values['trajectory_points'])
        kind = JointStateOutput if values['command_interface'] == 'joint_state' else Float64Output
        return kind(self, robot, profile, self._offset_ns)

    def stop(self) -> None:
        """Brake, wait for standstill, end the control thread."""
        controller, loop = getattr(self, '_controller', None), getattr(self, '_loop', None)
        if controller is not None and loop is not None:
            if self.closing.is_set():
                controller.stop(StopReason.SHUTDOWN, 'the process ends', self._control_ns())
            elif controller.mode is ControllerMode.RUNNING:
                controller.disarm(self._control_ns())
            deadline = time.monotonic() + BRAKE_WAIT_S
            while controller.mode in MOVING and time.monotonic() < deadline:
                time.sleep(BRAKE_POLL_S)
            if controller.mode in MOVING:
                self.get_logger().error(f'the arm has not come to rest within {BRAKE_WAIT_S:g} s')
            loop.stop()
            if controller.mode is ControllerMode.SHADOW:
                controller.disarm(self._control_ns())
            self._publish_state()
            self._state_timer.reset()
        self._loop = None
        self._output = None

    def teardown(self) -> None:
        """Forget the controller."""
        self._controller = None

    # Other controllers ----------------------------------------------------------------------

    def _refuse_twin(self) -> None:
        """Refuse to configure beside a node of the same name, or beside a commanding controller."""
        deadline = time.monotonic() + CONFLICT_WATCH_S
        name = self.get_fully_qualified_name()
        while time.monotonic() < deadline and not self.closing.is_set():
            if self.get_fully_qualified_node_names().count(name) > 1:
                raise SetupError(
                    f'another node {name} is running. Two controllers of one robot fight each other: end the '
                    'other one, or give this one its own namespace and robot')
            self._refuse_commander()
            time.sleep(CONFLICT_POLL_S)

    def _refuse_commander(self) -> None:
        others = self._commanders()
        # This node's own publisher from before a deactivation takes a moment to leave the graph.
        deadline = time.monotonic() + CONFLICT_WATCH_S
        while self.get_fully_qualified_name() in others and time.monotonic() < deadline:
            time.sleep(CONFLICT_POLL_S)
            others = self._commanders()
        if others:
            raise SetupError(
                f'{", ".join(others)} already publishes {self.resolve_topic_name("joint_command")}. Two '
                'controllers of one robot fight each other: end the other one. If it was killed, its '
                'announcement fades within 20 s')

    def _commanders(self) -> list[str]:
        infos = self.get_publishers_info_by_topic('joint_command')
        return [f'{info.node_namespace.rstrip("/")}/{info.node_name}' for info in infos]

    @guarded
    def _watch_conflict(self) -> None:
        others = self._commanders()
        # One of them is this node's own publisher.
        if len(others) <= 1 or self._controller is None:
            self._conflict = ''
            return
        self._conflict = f'{len(others)} publishers of joint_command: {", ".join(others)}'
        if self._controller.mode is ControllerMode.RUNNING:
            self._controller.stop(StopReason.CONFLICT, self._conflict, self._control_ns())

    # The control thread ---------------------------------------------------------------------

    def _control_ns(self) -> int:
        if self._loop is None:
            return self.now_ns()
        return self._control_clock.now_ns(time.monotonic_ns())

    def _offset_ns(self) -> int:
        """Control time minus the node's clock; they are the same while nothing runs."""
        return 0 if self._loop is None else self._control_clock.offset_ns

    def _poll(self) -> None:
        for subscription in self._polled:
            subscription.poll()
        now_ns = time.monotonic_ns()
        if now_ns >= self._orders_due_ns:
            self._orders_due_ns = now_ns + ORDERS_PERIOD_NS
            for subscription in self._polled_orders:
                subscription.poll()

    def _between_ticks(self, slack_ns: int) -> None:
        now_ns = time.monotonic_ns()
        overdue_ns = now_ns - self._state_due_ns
        if overdue_ns < 0 or (slack_ns < STATE_SLACK_NS and overdue_ns < STATE_PATIENCE_NS):
            return
        self._state_due_ns = max(self._state_due_ns + self._state_period_ns, now_ns)
        self._publish_state()

    def _sample_ns(self) -> int:
        """Return the time of the newest sample. A mode begins there: the loop may be some ms behind now,
        and to the controller a sample before the beginning would look like a clock set back.
        """
        loop = self._loop
        sample_ns = None if loop is None else loop.sample_ns
        return self._control_ns() if sample_ns is None else sample_ns

    def _tick(self, sample_ns: int) -> None:
        controller, output = self._controller, self._output
        if isinstance(self._control_clock, SystemClock):
            self._control_clock.observe(time.time_ns(), time.monotonic_ns())
        if controller is None or output is None:
            return
        command = controller.tick(sample_ns)
        # Asked again here, whatever tick() returns: in SHADOW nothing may leave this process.
        if command is not None and controller.mode in MOVING:
            output.send(command)

    def _on_overrun(self, missed: int) -> None:
        if self._controller is not None:
            self._controller.report_overrun(missed * round(1e9 / self.values['rate_hz']), self._control_ns())

    def _on_jump(self, jump_ns: int) -> None:
        self.counters.add('clock_jumps')
        bound_s = self.values['clock_jump_s']
        text = f'the clock jumped by {jump_ns / 1e9:.3f} s, {bound_s:g} s is allowed (clock_jump_s)'
        if self._controller is None or self._controller.mode is ControllerMode.INACTIVE:
            # Nothing has been planned on the old time: a simulator that starts up may stall or begin anew.
            self.logs.warn('jump', text)
            return
        self.logs.error('jump', text)
        self._controller.stop(StopReason.CLOCK_JUMP, text, self._control_ns())

    def _on_tick_error(self, error: Exception) -> None:
        if self._controller is not None:
            self._controller.stop(
                StopReason.INTERNAL_ERROR, f'{type(error).__name__}: {error}', self._control_ns())
        self.report_exception('tick', error)

    # Input ----------------------------------------------------------------------------------

    @guarded
    def _on_clock(self, message: ClockMessage) -> None:
        arrived_ns = time.monotonic_ns()
        if isinstance(self._control_clock, DisciplinedClock):
            self._control_clock.observe(message.clock.sec * 1_000_000_000 + message.clock.nanosec, arrived_ns)

    @guarded
    def _on_joints(self, message: JointState) -> None:
        robot, controller = self._robot, self._controller
        self.counters.add('joint_states')
        if controller is None or not self._control_clock.ready:
            return
        try:
            measurement = self._reader.read(message, self._offset_ns())
        except NonFiniteError as error:
            self.counters.add('joint_states_invalid')
            controller.stop(StopReason.INVALID_STATE, str(error), self._control_ns())
            raise
        controller.measure(measurement, self._control_ns())
        if self.counters['joint_states'] == 1:
            strangers = other_joints(message, robot.joint_names, robot.gripper.joint_name)
            if strangers:
                self.get_logger().info(f'joint_states: passing over {", ".join(strangers)}')

    @guarded
    def _on_chunk(self, message: msg.ActionChunk) -> None:
        controller = self._controller
        if controller is None or not self.active:
            return
        self.counters.add('chunks')
        chunk = chunk_from_message(message, offset_ns=self._offset_ns())
        now_ns = self._control_ns()
        controller.record_latency((now_ns - chunk.stamp_ns) * 1e-9)
        verdict = controller.submit(chunk, now_ns)
        if not verdict.accepted:
            self.counters.add('chunks_refused')
            self.logs.warn('chunk', f'chunk {chunk.trace_id} refused: {verdict.reason}')
        elif verdict.reason:
            self.logs.warn('chunk_note', f'chunk {chunk.trace_id}: {verdict.reason}')

    @guarded
    def _on_stop_topic(self, message: Bool) -> None:
        self._stop_held = bool(message.data)
        if self._stop_held and self._controller is not None:
            self._controller.stop(StopReason.OPERATOR, 'the stop topic is true', self._control_ns())

    @guarded
    def _on_speed_scale(self, message: Float64) -> None:
        if self._controller is not None:
            self._controller.set_speed_scale(message.data, self._control_ns())

    # Services -------------------------------------------------------------------------------

    def _answer(self, response: Any, verdict: Any) -> Any:
        response.success, response.message = bool(verdict.accepted), verdict.reason
        return response

    def _held(self, response: Any) -> bool:
        """Refuse what an inactive node or a held stop topic does not allow."""
        if not self.active or self._controller is None:
            response.message = f'the controller is {self.state_label}; activate it first'
        elif not self._control_clock.ready:
            response.message = NO_CLOCK
        elif self._stop_held:
            response.message = 'the stop topic is true; publish false on it first'
        elif self._conflict:
            response.message = self._conflict
        else:
            return False
        return True

    @guarded_service
    def _serve_arm(self, _request: Any, response: Any) -> Any:
        if self._held(response) or self._controller is None:
            return response
        self.get_logger().info('arm was asked for')
        return self._answer(response, self._controller.arm(self._sample_ns()))

    @guarded_service
    def _serve_disarm(self, _request: Any, response: Any) -> Any:
        if self._controller is None:
            return response
        return self._answer(response, self._controller.disarm(self._control_ns()))

    @guarded_service
    def _serve_stop(self, _request: Any, response: Any) -> Any:
        if self._controller is None:
            return response
        self._controller.stop(StopReason.OPERATOR, 'the service ~/stop was called', self._control_ns())
        response.success = True
        response.message = f'{self._controller.mode.name}; needs ~/reset'
        return response

    @guarded_service
    def _serve_reset(self, _request: Any, response: Any) -> Any:
        if self._held(response) or self._controller is None:
            return response
        return self._answer(response, self._controller.reset(self._control_ns()))

    @guarded
    def _begin(self) -> None:
        """Go to SHADOW, or arm if that was asked for, as soon as a joint state allows it; once."""
        controller = self._controller
        if controller is None:
            return
        if not self._control_clock.ready:
            self._waiting = NO_CLOCK
            return
        done = controller.mode is not ControllerMode.INACTIVE
        arming = self.values['arm_on_activate'] and not self._stop_held
        if not done:
            begin = controller.arm if arming else controller.start_shadow
            verdict = begin(self._sample_ns())
            done = verdict.accepted
            self._waiting = '' if done else verdict.reason
            if done:
                self.get_logger().info(f'mode {controller.mode.name}. {verdict.reason}')
        elif controller.mode is ControllerMode.STOPPED:
            self.get_logger().warning(f'{STOPPED_BEFORE}: {controller.state(self._control_ns()).stop_detail}')
        if done:
            self._waiting = ''
            self.destroy_timer(self._begin_timer)

    # Output ---------------------------------------------------------------------------------

    @guarded
    def _publish_state(self) -> None:
        controller = self._controller
        if controller is None:
            return
        state = controller.state(self._control_ns())
        self._state.publish(controller_state_to_message(state, offset_ns=self._offset_ns()))
        stopped = state.mode in (ControllerMode.STOPPING, ControllerMode.STOPPED)
        self.logs.edge('stop', stopped and state.stop_reason is not StopReason.NONE,
                       f'stop: {state.stop_reason.name}: {state.stop_detail}', 'the stop was reset')

    def diagnose(self, report: Report) -> None:
        """Mode, stop reason, loop timing and counters."""
        controller, loop, output = self._controller, self._loop, self._output
        if controller is None:
            return
        state = controller.state(self._control_ns())
        report.put(mode=state.mode.name, stop_reason=state.stop_reason.name, profile=self.values['profile'],
                   chunks_accepted=state.chunks_accepted, chunks_rejected=state.chunks_rejected,
                   plans_committed=state.plans_committed, plans_rejected=state.plans_rejected)
        if loop is not None:
            report.put(ticks=loop.ticks, rate_hz=loop.rate_hz(), overruns=loop.overruns,
                       clock_steps=loop.clock_steps, real_time=loop.real_time,
                       **loop.lateness_us.summary('lateness_us'),
                       **loop.tick_us.summary('tick_us'))
        if output is not None:
            report.put(commands_sent=output.sent, **output.publish_us.summary('publish_us'))
        if state.stop_reason is not StopReason.NONE:
            report.add(Level.ERROR, f'{state.mode.name}: {state.stop_reason.name}: {state.stop_detail}')
        if self._conflict:
            report.add(Level.ERROR, self._conflict)
        for subscription in (*self._polled, *self._polled_orders) if self.active else ():
            mismatch = subscription.find_mismatch()
            if mismatch:
                report.add(Level.ERROR, mismatch)
        if self.active and self._waiting:
            report.add(Level.WARN, self._waiting)


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(ControllerNode, args)


if __name__ == '__main__':
    sys.exit(main())
