"""One goal of the action ``execute_instruction``: when it ends, and with what result. No ROS."""

from dataclasses import dataclass
import threading

from cosmos3_ros.contracts import SceneReport, TaskState
from cosmos3_ros.reasoner.task_state_edge import TaskStateEdge


@dataclass(frozen=True, slots=True)
class Ending:
    """How a goal ended.

    :param outcome: ``succeeded``, ``aborted`` or ``canceled``, as actions call it.
    :param reason: One sentence.
    """

    outcome: str
    task_state: TaskState
    reason: str


class InstructionGoal:
    """Collects what happens during a goal and decides when it is over. Thread-safe.

    :param instruction: What is to be done.
    :param started_ns: Node's clock at acceptance.
    :param timeout_ns: 0 for no limit.
    :param stop_on_scene: End when scene reports say done or failed.
    :param scene_reports: So many in a row, see :class:`TaskStateEdge`.
    :param stop_on_success: End when the simulator's success predicate holds.
    """

    def __init__(
        self, instruction: str, started_ns: int, timeout_ns: int, *,
        stop_on_scene: bool, stop_on_success: bool, scene_reports: int = 1,
    ) -> None:
        self.instruction = instruction
        self.started_ns = started_ns
        self.timeout_ns = timeout_ns
        self._edge = TaskStateEdge(instruction, started_ns, scene_reports) if stop_on_scene else None
        self._scene_reports = scene_reports
        self._stop_on_success = stop_on_success
        self._lock = threading.Lock()
        self._ending: Ending | None = None
        self._ended = threading.Event()
        self.chunks = 0
        self.scene: SceneReport | None = None

    def end(self, outcome: str, task_state: TaskState, reason: str) -> None:
        """End the goal; the first ending counts."""
        with self._lock:
            if self._ending is None:
                self._ending = Ending(outcome, task_state, reason)
        self._ended.set()

    def take_scene(self, report: SceneReport) -> None:
        """Take a scene report. One that is about something else, or means nothing, ends nothing."""
        self.scene = report
        with self._lock:
            state = None if self._edge is None else self._edge.take(report)
        said = f', {self._scene_reports} reports in a row' if self._scene_reports > 1 else ''
        if state is TaskState.DONE:
            self.end('succeeded', state, f'the reasoner says that the task is done{said}')
        elif state is TaskState.FAILED:
            self.end('aborted', state, f'the reasoner says that the task has failed{said}')

    def take_success(self, stamp_ns: int) -> None:
        """Take the simulator's word that the task is done."""
        if self._stop_on_success and stamp_ns >= self.started_ns:
            self.end('succeeded', TaskState.DONE, "the simulator's success predicate holds")

    def check(self, now_ns: int) -> None:
        """End the goal if its time is over, or if the clock was set back before its start."""
        if now_ns < self.started_ns:
            self.end('aborted', TaskState.UNKNOWN, 'the clock was set back before the goal began')
        elif self.timeout_ns and now_ns - self.started_ns >= self.timeout_ns:
            state = self.scene.task_state if self.scene is not None else TaskState.UNKNOWN
            self.end('aborted', state, f'timeout after {self.timeout_ns / 1e9:g} s')

    def progress(self, now_ns: int) -> float:
        """Return the share of the timeout that is used, 0 without a timeout."""
        if not self.timeout_ns:
            return 0.0
        return min(1.0, max(0.0, (now_ns - self.started_ns) / self.timeout_ns))

    def wait(self, timeout_s: float) -> Ending | None:
        """Wait for the ending; None if it has not come."""
        self._ended.wait(timeout_s)
        with self._lock:
            return self._ending
