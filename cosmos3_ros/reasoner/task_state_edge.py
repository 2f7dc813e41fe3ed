"""When scene reports say that a task is over: not one report, but several in a row."""

from ..contracts import ContractError, SceneReport, TaskState

ENDINGS = (TaskState.DONE, TaskState.FAILED)


class TaskStateEdge:
    """Watches the reports about one task for the edge to ``done`` or ``failed``.

    What is about something else is passed over: another instruction, a clip that began before the task
    did, a report that is not newer than the last one, untrained weights. What is about the task and says
    anything else, or cannot be read, starts the count anew.

    :param instruction: The task.
    :param since_ns: When it began, on the node's clock.
    :param reports: So many reports in a row must say the same, at least 1.
    :raises ContractError: Fewer than 1.
    """

    def __init__(self, instruction: str, since_ns: int, reports: int = 1) -> None:
        if reports < 1:
            raise ContractError(f'reports: {reports} arrived, at least 1 is allowed')
        self._instruction, self._since_ns, self._reports = instruction, since_ns, reports
        self._last_ns = since_ns
        self._state = TaskState.UNKNOWN
        self._count = 0

    def take(self, report: SceneReport) -> TaskState | None:
        """Return ``DONE`` or ``FAILED`` if this report completes the row, otherwise None."""
        if (report.instruction != self._instruction or report.clip_start_ns < self._since_ns
                or report.stamp_ns <= self._last_ns or not report.identity.trained):
            return None
        self._last_ns = report.stamp_ns
        state = report.task_state if report.parsed else TaskState.UNKNOWN
        self._count = self._count + 1 if state is self._state else 1
        self._state = state
        return state if state in ENDINGS and self._count == self._reports else None
