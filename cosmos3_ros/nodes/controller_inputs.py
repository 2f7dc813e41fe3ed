"""What the controller hears: joint states, clock, chunks, stop and speed scale."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64

from cosmos3_ros.contracts import StopReason
from cosmos3_ros.control import Controller
import cosmos3_ros.msg as msg
from cosmos3_ros.robots import Robot

from .clock import DisciplinedClock
from .control_time import ControlTime
from .diagnostics import Level, Report
from .guarding import guarded
from .joint_reader import JointReader
from .message_account import MessageAccount
from .messages import NonFiniteError, chunk_from_message, other_joints
from .polled_subscription import PolledSubscription
from .qos import make_profile, qos_profile

if TYPE_CHECKING:
    from .base import LifecycleBase

# A simulator that catches up after a stall sends /clock in a burst; dropped ones would look like a jump.
CLOCK_DEPTH = 100
# stop and speed_scale are looked at this often, the rest before every sample: a look costs some 10 us,
# and 10 ms is little beside the time that an arm takes to brake.
ORDERS_PERIOD_NS = 10_000_000


class ControllerInputs:
    """Hands what arrives to the controller.

    Chunks come through the node's poller: splicing one in takes milliseconds. All the rest is taken by the
    control thread, which calls :meth:`poll`.

    :param node: The controller's node.
    """

    def __init__(
        self, node: LifecycleBase, robot: Robot, controller: Controller, control_time: ControlTime,
    ) -> None:
        self._node = node
        self._robot = robot
        self._controller = controller
        self._time = control_time
        self._reader = JointReader(robot.joint_names, robot.gripper)
        self._clock: PolledSubscription | None = None
        self._joints: PolledSubscription | None = None
        self._joint_account = MessageAccount()
        self._orders: tuple[PolledSubscription, ...] = ()
        self._orders_due_ns = 0
        self.stop_held = False
        """Whether the stop topic says true."""
        node.poller.subscribe(
            msg.ActionChunk, 'action_chunk', qos_profile(node.values, 'action_chunk'), self._on_chunk)

    def subscribe(self) -> None:
        """Begin to listen to what the control thread polls."""
        self._joint_account = MessageAccount()
        self._joints = self._listen(JointState, 'joint_states', self._on_joints, self._joint_account)
        self._orders = (
            self._listen(Bool, 'stop', self._on_stop_topic),
            self._listen(Float64, 'speed_scale', self._on_speed_scale))
        if isinstance(self._time.clock, DisciplinedClock):
            self._clock = PolledSubscription(
                self._node, ClockMessage, '/clock', make_profile('best_effort', CLOCK_DEPTH), self._on_clock)

    def _listen(
        self, message_type: Any, topic: str, callback: Any, account: MessageAccount | None = None,
    ) -> PolledSubscription:
        return PolledSubscription(
            self._node, message_type, topic, qos_profile(self._node.values, topic), callback, account)

    def poll_clock(self) -> None:
        """Take in what time it is; called by the control thread before :meth:`poll`."""
        if self._clock is not None:
            self._clock.poll()

    def poll(self) -> None:
        """Take in all the rest that has arrived; called by the control thread before each sample."""
        if self._joints is not None:
            self._joints.poll()
        now_ns = time.monotonic_ns()
        if now_ns >= self._orders_due_ns:
            self._orders_due_ns = now_ns + ORDERS_PERIOD_NS
            for subscription in self._orders:
                subscription.poll()

    def diagnose(self, report: Report) -> None:
        """Tell what joint states were missed; name publishers that cannot be heard because of their QoS."""
        report.put(**self._joint_account.values('joint_states'))
        for subscription in (self._clock, self._joints, *self._orders):
            mismatch = '' if subscription is None else subscription.find_mismatch()
            if mismatch:
                report.add(Level.ERROR, mismatch)

    def report_exception(self, where: str, error: Exception) -> None:
        """Pass on what a callback raised."""
        self._node.report_exception(where, error)

    @guarded
    def _on_clock(self, message: ClockMessage) -> None:
        arrived_ns = time.monotonic_ns()
        self._time.observe_clock(message.clock.sec * 1_000_000_000 + message.clock.nanosec, arrived_ns)

    @guarded
    def _on_joints(self, message: JointState) -> None:
        controller, counters = self._controller, self._node.counters
        first = counters.add('joint_states') == 1
        if not self._time.ready:
            return
        try:
            measurement = self._reader.read(message, self._time.offset_ns())
        except NonFiniteError as error:
            counters.add('joint_states_invalid')
            controller.stop(StopReason.INVALID_STATE, str(error), self._time.now_ns())
            raise
        controller.measure(measurement, self._time.now_ns())
        if first:
            robot = self._robot
            strangers = other_joints(message, robot.joint_names, robot.gripper.joint_name)
            if strangers:
                self._node.get_logger().info(f'joint_states: passing over {", ".join(strangers)}')

    @guarded
    def _on_chunk(self, message: msg.ActionChunk) -> None:
        node, controller = self._node, self._controller
        if not node.active:
            return
        node.counters.add('chunks')
        chunk = chunk_from_message(message, offset_ns=self._time.offset_ns())
        now_ns = self._time.now_ns()
        controller.record_latency((now_ns - chunk.stamp_ns) * 1e-9)
        verdict = controller.submit(chunk, now_ns)
        if not verdict.accepted:
            node.counters.add('chunks_refused')
            node.logs.warn('chunk', f'chunk {chunk.trace_id} refused: {verdict.reason}')
        elif verdict.reason:
            node.logs.warn('chunk_note', f'chunk {chunk.trace_id}: {verdict.reason}')

    @guarded
    def _on_stop_topic(self, message: Bool) -> None:
        self.stop_held = bool(message.data)
        if self.stop_held:
            self._controller.stop(StopReason.OPERATOR, 'the stop topic is true', self._time.now_ns())

    @guarded
    def _on_speed_scale(self, message: Float64) -> None:
        self._controller.set_speed_scale(message.data, self._time.now_ns())
