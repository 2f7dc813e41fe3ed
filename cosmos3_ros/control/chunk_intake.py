"""From a chunk that arrived to a new reference, or to the reason why not."""

from dataclasses import replace
import threading

import numpy as np

from cosmos3_ros.contracts import ActionChunk, ControllerMode, StopReason
from cosmos3_ros.robots import Robot

from .admission import Admission, ChunkRefused
from .config import ControllerConfig
from .latency import LatencyAssessment, LatencyKind, LatencyMonitor, assess_latency
from .projection import Projection
from .supervisor import Supervisor
from .timeline import Timeline
from .verdict import Verdict

# As many as a policy's chunks have.
WARM_UP_ROWS = 32
FOLLOWING = (ControllerMode.SHADOW, ControllerMode.RUNNING)


class ChunkIntake:
    """Admit chunks, pull them out of obstacles, splice them into the reference.

    The heavy work (spline, projection, pace) is done outside of the controller's lock, so it holds up a tick
    for microseconds only. Submissions wait for each other.

    :param lock: The controller's, which guards ``timeline`` and ``supervisor``.
    """

    def __init__(
        self, robot: Robot, config: ControllerConfig, timeline: Timeline, supervisor: Supervisor,
        lock: 'threading.RLock',
    ) -> None:
        self._config = config
        self._timeline, self._supervisor, self._lock = timeline, supervisor, lock
        self._submitting = threading.Lock()
        self._home_rad = robot.home_rad
        self._admission = Admission(robot, config)
        self._projection = Projection(robot)
        self._latency = LatencyMonitor(config.latency_samples)
        self.accepted = self.rejected = 0
        self.last_rejection = ''

    def warm_up(self) -> None:
        """Run everything once that is slow the first time."""
        rows = np.repeat(self._home_rad[None], WARM_UP_ROWS, axis=0)
        self._projection.pull(rows)
        self._timeline.warm_up(rows)

    def submit(self, chunk: ActionChunk, now_ns: int) -> Verdict:
        """Make ``chunk`` part of the reference, or say why not."""
        with self._submitting:
            try:
                return Verdict(True, self._splice(chunk, now_ns))
            except ChunkRefused as refusal:
                with self._lock:
                    self.rejected += 1
                    self.last_rejection = str(refusal)
                return Verdict(False, str(refusal))

    def _splice(self, chunk: ActionChunk, now_ns: int) -> str:
        with self._lock:
            verdict = self._supervisor.allows('submit', FOLLOWING)
            if not verdict.accepted:
                raise ChunkRefused(verdict.reason)
            newest = self._timeline.newest_stamp_ns
            self._check_latency(chunk)
        admitted = self._admission.admit(chunk, newest, now_ns)
        if self._config.project:
            rows, note = self._projection.pull(admitted.rows)
            if note:
                admitted = replace(
                    admitted, rows=rows, note='; '.join(filter(None, (admitted.note, note))))
        while True:
            with self._lock:
                reading, now, base = self._timeline.place(chunk, now_ns)
            splice = self._timeline.prepare(admitted, reading, now, base)
            with self._lock:
                if self._supervisor.mode not in FOLLOWING:
                    raise ChunkRefused(f'submit: the mode became {self._supervisor.mode.name}')
                if self._timeline.install(splice, now_ns):
                    self.accepted += 1
                    return admitted.note

    def _check_latency(self, chunk: ActionChunk) -> None:
        p99_s = self._latency.p99_s
        if p99_s is None:
            return
        assessment = self.assess_latency(chunk.horizon, chunk.step_ns * 1e-9, p99_s)
        self._timeline.governor.set_latency(assessment)
        if assessment.kind is LatencyKind.REFUSE:
            if self._config.stop_on_latency:
                self._supervisor.stop(StopReason.LATENCY, assessment.text)
            raise ChunkRefused(assessment.text)

    def assess_latency(self, horizon: int, step_s: float, p99_s: float) -> LatencyAssessment:
        """Say whether chunks of this shape can overlap a latency."""
        return assess_latency(horizon, step_s, p99_s, self._config.min_latency_scale)

    def record_latency(self, latency_s: float) -> None:
        """Take one measured time from an observation to its chunk's arrival."""
        with self._lock:
            self._latency.record(latency_s)
