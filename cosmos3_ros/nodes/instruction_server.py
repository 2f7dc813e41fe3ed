"""The action ``execute_instruction`` of the generator."""

from collections.abc import Iterator
from contextlib import contextmanager
import threading
import time
from typing import TYPE_CHECKING, Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse

from cosmos3_ros.action import ExecuteInstruction
from cosmos3_ros.contracts import SceneReport, TaskState

from .instruction_goal import Ending, InstructionGoal
from .messages import scene_to_message, to_ns

if TYPE_CHECKING:
    from .generator import GeneratorNode

FEEDBACK_PERIOD_S = 0.2
# How long abort() waits for the goal's thread to send its result.
ABORT_WAIT_S = 1.0
# A goal that was accepted but never began (its client went away in between) frees its place after this.
ABANDONED_AFTER_S = 2.0


class InstructionServer:
    """Serves one goal at a time. A second goal is rejected: two instructions cannot share one arm, and
    silently ending the first one would surprise whoever sent it. Cancel first, then send.

    :param node: The generator.
    """

    def __init__(self, node: 'GeneratorNode') -> None:
        self._node = node
        self._lock = threading.Lock()
        self._goal: InstructionGoal | None = None
        self._accepted_s = 0.0
        self._executing = False
        self._free = threading.Event()
        self._free.set()
        self._server: ActionServer | None = ActionServer(
            node, ExecuteInstruction, 'execute_instruction', self._execute,
            goal_callback=self._on_goal, cancel_callback=self._on_cancel,
            callback_group=node.service_group)

    @property
    def busy(self) -> bool:
        """Whether a goal is running."""
        return self._goal is not None

    @contextmanager
    def idle(self) -> Iterator[bool]:
        """Tell whether no goal is running, and accept none while the block lasts."""
        with self._lock:
            yield self._goal is None

    def close(self) -> None:
        """End the goal and the server. A second call does nothing."""
        self.abort('the generator was shut down')
        server, self._server = self._server, None
        if server is not None:
            server.destroy()

    def abort(self, reason: str) -> None:
        """End the running goal, if any."""
        goal = self._goal
        if goal is not None:
            goal.end('aborted', TaskState.UNKNOWN, reason)
            self._free.wait(ABORT_WAIT_S)

    def take_scene(self, report: SceneReport) -> None:
        """Pass a scene report to the running goal."""
        goal = self._goal
        if goal is not None:
            goal.take_scene(report)

    def take_success(self, stamp_ns: int) -> None:
        """Pass the simulator's success to the running goal."""
        goal = self._goal
        if goal is not None:
            goal.take_success(stamp_ns)

    def count_chunk(self) -> None:
        """Count a published chunk for the running goal."""
        goal = self._goal
        if goal is not None:
            goal.chunks += 1

    def _on_goal(self, request: Any) -> GoalResponse:
        node = self._node
        with self._lock:
            reason = ''
            if not node.active:
                reason = f'the generator is {node.state_label}; activate it first'
            elif not request.instruction.strip():
                reason = 'the instruction is empty'
            elif to_ns(request.timeout) < 0:
                reason = 'the timeout is negative'
            elif self._goal is not None and not self._abandoned():
                reason = f'{self._goal.instruction!r} is running; cancel it first'
            if reason:
                node.counters.add('goals_rejected')
                node.get_logger().warning(f'goal rejected: {reason}')
                return GoalResponse.REJECT
            values = node.values
            self._accepted_s = time.monotonic()
            self._free.clear()
            # From here on the goal holds the place; _execute gives it back.
            self._goal = InstructionGoal(
                request.instruction.strip(), node.now_ns(), to_ns(request.timeout),
                stop_on_scene=values['stop_on_scene_state'], scene_reports=values['scene_state_reports'],
                stop_on_success=values['stop_on_simulation_success'] and values['policy'] == 'oracle')
        return GoalResponse.ACCEPT

    def _abandoned(self) -> bool:
        return not self._executing and time.monotonic() - self._accepted_s > ABANDONED_AFTER_S

    def _on_cancel(self, _handle: Any) -> CancelResponse:
        return CancelResponse.ACCEPT

    def _execute(self, handle: Any) -> Any:
        """Run the goal to its end; occupies one thread of the executor."""
        node = self._node
        goal = self._goal
        assert goal is not None
        self._executing = True
        try:
            node.set_instruction(goal.instruction)
            ending = self._watch(goal, handle)
            node.set_instruction('')
            return self._finish(goal, handle, ending)
        finally:
            with self._lock:
                self._goal = None
                self._executing = False
                self._free.set()

    def _finish(self, goal: InstructionGoal, handle: Any, ending: Ending) -> Any:
        node = self._node
        node.get_logger().info(f'goal {ending.outcome}: {ending.reason}')
        node.counters.add(f'goals_{ending.outcome}')
        if ending.outcome == 'succeeded':
            handle.succeed()
        elif ending.outcome == 'canceled':
            handle.canceled()
        else:
            handle.abort()
        return ExecuteInstruction.Result(
            task_state=int(ending.task_state), reason=ending.reason,
            elapsed_s=max(0.0, (node.now_ns() - goal.started_ns) * 1e-9), chunks=goal.chunks)

    def _watch(self, goal: InstructionGoal, handle: Any) -> Ending:
        node = self._node
        while True:
            if handle.is_cancel_requested:
                goal.end('canceled', TaskState.UNKNOWN, 'canceled by the client')
            goal.check(node.now_ns())
            ending = goal.wait(FEEDBACK_PERIOD_S)
            if ending is not None:
                return ending
            feedback = ExecuteInstruction.Feedback(
                progress=goal.progress(node.now_ns()), chunks=goal.chunks)
            if goal.scene is not None:
                feedback.last_scene = scene_to_message(goal.scene)
            handle.publish_feedback(feedback)
