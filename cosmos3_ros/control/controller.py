"""The controller: chunks and joint states in, commands inside the limits out.

No threads and no clock of its own: time is an argument. Not a safety-rated function.
"""

from collections.abc import Sequence
from dataclasses import replace
import threading

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import (
    ActionChunk,
    ControllerMode,
    ControllerState,
    JointCommand,
    JointMeasurement,
    StopReason,
)
from cosmos3_ros.robots import Robot

from .admission import Admission, ChunkRefused
from .config import ControllerConfig
from .effort import EffortLaw
from .latency import LatencyAssessment, LatencyKind, LatencyMonitor, assess_latency
from .planner import Planner
from .projection import Projection
from .readiness import Readiness
from .state_report import report_limits
from .supervisor import ACCEPTED, PLANNING, Supervisor
from .tick_clock import TickClock
from .timeline import Timeline
from .tracking_monitor import TrackingMonitor
from .verdict import Verdict

Array = NDArray[np.float64]

# Stops after which the arm itself is not where it was told: they yield to the measured arm.
YIELDING = (StopReason.TRACKING_ERROR, StopReason.EXTERNAL_FORCE)


class Controller:
    """Follow chunks inside the limits of ``robot``.

    Every public method may be called from any thread. One lock guards the state; :meth:`submit`
    does its heavy work (spline, projection, pace) outside of it, so it holds up a tick for
    microseconds only. Submissions wait for each other.

    :param robot: The arm under its profile.
    :param config: What an operator may choose.
    """

    def __init__(self, robot: Robot, config: ControllerConfig | None = None) -> None:
        self.robot = robot
        self.config = config = config or ControllerConfig()
        profile = robot.profile
        self._lock = threading.RLock()
        self._submitting = threading.Lock()
        self._supervisor = Supervisor()
        self._admission = Admission(robot, config)
        self._timeline = Timeline(robot, config)
        self._planner = Planner(robot, config)
        self._projection = Projection(robot)
        self._effort = EffortLaw(robot, config.effort) if config.command_effort else None
        self._latency = LatencyMonitor(config.latency_samples)
        self._ticks = TickClock(config)
        self._readiness = Readiness(robot, config)
        self._monitor = TrackingMonitor(
            robot.joint_names, robot.hardware_limits,
            config.tracking_error_rad or profile.tracking_error_rad, config.tracking_lag_s,
            config.measured_jump_rad)
        self._chunk_stale_ns = int(1e9 * (
            profile.chunk_stale_s if config.chunk_stale_s is None else config.chunk_stale_s))
        self._force_n = profile.external_force_n if config.external_force_n is None \
            else config.external_force_n
        self._accepted = self._rejected = self._overruns = 0
        self._last_rejection = ''
        self._rested_ns: int | None = None

    @property
    def mode(self) -> ControllerMode:
        """Present mode; tells whether a command of :meth:`tick` may be sent."""
        return self._supervisor.mode

    def warm_up(self) -> None:
        """Run everything once that is slow the first time, then leave UNCONFIGURED."""
        with self._lock:
            self._planner.warm_up()
            self._timeline.governor.profile(self._timeline.reference)
            self._supervisor.configure()

    # ----------------------------------------------------------------- inputs

    def measure(self, measurement: JointMeasurement, now_ns: int) -> None:
        """Take a joint state in the robot's joint order; an older one than the newest is ignored."""
        with self._lock:
            old = self._readiness.measurement
            if old is not None and measurement.stamp_ns <= old.stamp_ns <= now_ns:
                return
            fault = self._monitor.find_fault(measurement, old)
            self._readiness.take(measurement, fault, now_ns)
            if self.mode not in PLANNING or self._ticks.has_gone_back(now_ns):
                # With the clock set back, stamps say nothing; the next tick stops for that.
                return
            if fault:
                self._stop(StopReason.INVALID_STATE, fault)
            elif self.mode is ControllerMode.RUNNING:
                error = self._monitor.find_error(measurement)
                self._planner.observe(self._monitor.error)
                if error:
                    self._stop(StopReason.TRACKING_ERROR, error)
                elif residual := self._readiness.find_effort_residual(self._planner.plan, now_ns):
                    self._stop(StopReason.EXTERNAL_FORCE, residual)

    def report_wrench(self, force_n: Array) -> None:
        """Take an external force (3,), newtons; past the bound it stops."""
        force = float(np.linalg.norm(force_n))
        if force <= self._force_n:
            return
        with self._lock:
            if self.mode in PLANNING:
                self._stop(StopReason.EXTERNAL_FORCE, (
                    f'external force {force:.1f} N, {self._force_n:g} N is allowed (external_force_n)'))

    def submit(self, chunk: ActionChunk, now_ns: int) -> Verdict:
        """Make ``chunk`` part of the reference, or say why not. Nothing moves faster for it."""
        with self._submitting:
            try:
                note = self._splice(chunk, now_ns)
            except ChunkRefused as refusal:
                with self._lock:
                    self._rejected += 1
                    self._last_rejection = str(refusal)
                return Verdict(False, str(refusal))
            return Verdict(True, note)

    def _splice(self, chunk: ActionChunk, now_ns: int) -> str:
        with self._lock:
            verdict = self._supervisor.allows('submit', (ControllerMode.SHADOW, ControllerMode.RUNNING))
            if not verdict.accepted:
                raise ChunkRefused(verdict.reason)
            newest = self._timeline.newest_stamp_ns
            self._assess_latency(chunk)
        admitted = self._admission.admit(chunk, newest, now_ns)
        if self.config.project:
            rows, note = self._projection.pull(admitted.rows)
            admitted = replace(admitted, rows=rows, note='; '.join(filter(None, (admitted.note, note))))
        while True:
            with self._lock:
                reading, now, base = self._timeline.place(chunk, now_ns)
            splice = self._timeline.prepare(admitted, reading, now, base)
            with self._lock:
                if self.mode not in (ControllerMode.SHADOW, ControllerMode.RUNNING):
                    raise ChunkRefused(f'submit: the mode became {self.mode.name}')
                if self._timeline.install(splice, now_ns):
                    self._accepted += 1
                    return admitted.note

    def _assess_latency(self, chunk: ActionChunk) -> None:
        p99_s = self._latency.p99_s
        if p99_s is None:
            return
        assessment = self.assess_latency(chunk.horizon, chunk.step_ns * 1e-9, p99_s)
        self._timeline.governor.set_latency(assessment)
        if assessment.kind is LatencyKind.REFUSE:
            if self.config.stop_on_latency:
                self._stop(StopReason.LATENCY, assessment.text)
            raise ChunkRefused(assessment.text)

    def assess_latency(self, horizon: int, step_s: float, p99_s: float) -> LatencyAssessment:
        """Say whether chunks of this shape can overlap a latency; for configure time."""
        return assess_latency(horizon, step_s, p99_s, self.config.min_latency_scale)

    def record_latency(self, latency_s: float) -> None:
        """Take one measured time from an observation to its chunk's arrival."""
        with self._lock:
            self._latency.record(latency_s)

    def set_speed_scale(self, scale: float, now_ns: int) -> Verdict:
        """Set the pace of the reference, 0 (slow to a stop) to 1; must be renewed or counts as 0."""
        with self._lock:
            reason = self._timeline.governor.set_speed_scale(scale, now_ns)
        return Verdict(not reason, reason)

    def report_overrun(self, late_ns: int, now_ns: int) -> None:
        """Count a missed deadline; one later than ``overrun_stop_ns`` stops."""
        del now_ns
        with self._lock:
            self._overruns += 1
            if late_ns > self.config.overrun_stop_ns and self.mode in PLANNING:
                self._stop(StopReason.OVERRUN, (
                    f'the control loop was {late_ns * 1e-6:.1f} ms late, '
                    f'{self.config.overrun_stop_ns * 1e-6:g} ms is allowed (overrun_stop_ns)'))

    # ------------------------------------------------------------------ modes

    def arm(self, now_ns: int) -> Verdict:
        """Start sending, from INACTIVE or SHADOW, standing where the arm stands.

        Chunks from before are forgotten, so that nothing moves before a new one arrives.
        """
        with self._lock:
            verdict = self._supervisor.allows('arm', (ControllerMode.INACTIVE, ControllerMode.SHADOW))
            if not verdict.accepted:
                return verdict
            reason = self._readiness.why_not_arm(now_ns)
            if reason:
                return Verdict(False, f'arm: {reason}')
            self._supervisor.arm()
            return self._begin(now_ns)

    def start_shadow(self, now_ns: int) -> Verdict:
        """Run everything and send nothing, from INACTIVE."""
        with self._lock:
            verdict = self._supervisor.allows('shadow', (ControllerMode.INACTIVE,))
            if not verdict.accepted:
                return verdict
            reason = self._readiness.why_stale(now_ns)
            if reason:
                return Verdict(False, f'shadow: {reason}')
            self._supervisor.start_shadow()
            return self._begin(now_ns)

    def _begin(self, now_ns: int) -> Verdict:
        measurement = self._readiness.measurement
        assert measurement is not None  # why_stale has said so
        self._ticks.restart(now_ns)
        self._timeline.restart(measurement.position, now_ns, measurement.gripper)
        self._monitor.restart()
        if self._effort is not None:
            self._effort.restart()
        self._rested_ns = None
        broken = self._planner.start(measurement.position, now_ns)
        if broken is None:
            return ACCEPTED
        return Verdict(True, (
            f'the arm stands inside a limit and can only move out of it: {broken.describe(now_ns)}'))

    def disarm(self, now_ns: int) -> Verdict:
        """Brake and end in INACTIVE; nothing is latched."""
        del now_ns
        with self._lock:
            return self._supervisor.disarm()

    def stop(self, reason: StopReason, detail: str, now_ns: int) -> Verdict:
        """Brake and latch ``reason``; the first reason stays."""
        del now_ns
        with self._lock:
            if self._stop(reason, detail):
                return ACCEPTED
            return Verdict(True, (
                f'already stopped: {self._supervisor.reason.name}: {self._supervisor.detail}'))

    def _stop(self, reason: StopReason, detail: str) -> bool:
        return self._supervisor.stop(reason, detail)

    def reset(self, now_ns: int) -> Verdict:
        """Leave STOPPED for INACTIVE after a deliberate request; never moves, never arms."""
        with self._lock:
            verdict = self._supervisor.allows('reset', (ControllerMode.STOPPED,))
            if not verdict.accepted:
                return verdict
            reason = self._readiness.why_not_reset(now_ns)
            return Verdict(False, f'reset: {reason}') if reason else self._supervisor.reset()

    # ------------------------------------------------------------------- loop

    def tick(self, now_ns: int) -> JointCommand | None:
        """Plan if a planning instant is due, then return the committed plan's sample.

        None in UNCONFIGURED, INACTIVE and STOPPED. In SHADOW the command must not be sent.
        """
        with self._lock:
            if self.mode not in PLANNING:
                return None
            now_ns = self._check_clock(now_ns)
            self._check_inputs(now_ns)
            if self.mode in PLANNING:
                self._plan(now_ns)
            if self.mode is ControllerMode.STOPPING:
                self._finish_stop(now_ns)
            if self.mode not in PLANNING:
                return None
            position, velocity, acceleration = self._planner.plan.sample(now_ns)
            self._monitor.command(now_ns, position)
            gripper = self._timeline.gripper.value if self.mode is ControllerMode.STOPPING \
                else self._timeline.gripper_at(now_ns)
            effort = None
            if self._effort is not None and self._readiness.measurement is not None:
                effort = self._effort.command(
                    position, velocity, acceleration, self._readiness.measurement, now_ns)
            return JointCommand(now_ns, position, velocity, acceleration, gripper, effort)

    def _check_clock(self, now_ns: int) -> int:
        """Stop on a jump and let the plan go on where it was, so that the command never jumps."""
        reading = self._ticks.read(now_ns)
        if reading.shift_ns:
            self._planner.move(reading.shift_ns)
            self._stop(reading.reason, reading.detail)
        return reading.now_ns

    def _check_inputs(self, now_ns: int) -> None:
        stale = self._readiness.why_stale(now_ns)
        if stale:
            self._stop(StopReason.STALE_JOINT_STATE, stale)
        if self.mode is not ControllerMode.RUNNING:
            return
        chunk = self._timeline.chunk
        if self.config.stop_on_stale_chunk and chunk is not None \
                and now_ns > chunk.end_ns + self._chunk_stale_ns:
            self._stop(StopReason.STALE_CHUNK, (
                f'the last row of the newest chunk was due {(now_ns - chunk.end_ns) * 1e-9:.3f} s ago, '
                f'{self._chunk_stale_ns * 1e-9:g} s is allowed (chunk_stale_s)'))
        governor = self._timeline.governor
        if governor.is_speed_scale_stale(now_ns) and self._timeline.clock.pace == 0.0 \
                and self._planner.plan.is_still_from(now_ns):
            self._stop(StopReason.SPEED_SCALE_STALE, (
                'no speed scale arrived for a while; the arm has slowed to a stop (speed_scale_stale_s)'))

    def _plan(self, now_ns: int) -> None:
        due_ns = self._planner.due(now_ns)
        if due_ns is None:
            return
        if self.mode is ControllerMode.STOPPING:
            measurement = self._readiness.measurement
            yields = self._supervisor.reason in YIELDING and measurement is not None \
                and not self._readiness.why_stale(now_ns)
            self._planner.brake(
                due_ns, (measurement.position, measurement.velocity)
                if yields and measurement is not None else None)
            return
        self._planner.follow(due_ns, *self._timeline.horizon(due_ns))
        if self._planner.counts.in_a_row >= self.config.limit_storm_plans:
            rejection = self._planner.last_rejection
            self._stop(StopReason.LIMIT_STORM, (
                f'{self._planner.counts.in_a_row} plans in a row were rejected, the last one for '
                f'{rejection.describe(now_ns) if rejection else "no solution"}'))

    def _finish_stop(self, now_ns: int) -> None:
        """End the stop once the plan has ended and the arm is seen to stand, or after the timeout."""
        if not self._planner.plan.is_still_from(now_ns):
            self._rested_ns = None
            return
        if self._rested_ns is None:
            self._rested_ns = now_ns
        waited_ns = now_ns - self._rested_ns
        if waited_ns == 0:
            # The resting command itself has to be sent before commands end.
            return
        if self._readiness.is_standing(now_ns) or waited_ns > self.config.stop_timeout_s * 1e9:
            self._supervisor.standstill()

    # ---------------------------------------------------------------- outputs

    def preview(self, now_ns: int, offsets_s: Sequence[float]) -> tuple[Array, Array, Array]:
        """Return the committed plan ahead: position, velocity, acceleration, each (M, joints).

        :param offsets_s: M times from ``now_ns`` on, seconds; past the plan's end it rests.
        """
        with self._lock:
            times = now_ns + (np.asarray(offsets_s, dtype=np.float64) * 1e9).astype(np.int64)
            return self._planner.plan.sample_many(times)

    def state(self, now_ns: int) -> ControllerState:
        """Return a snapshot."""
        with self._lock:
            timeline, counts, chunk = self._timeline, self._planner.counts, self._timeline.chunk
            moving = self.mode in PLANNING
            rejection = self._planner.last_rejection
            return ControllerState(
                stamp_ns=now_ns, mode=self.mode, stop_reason=self._supervisor.reason,
                stop_detail=self._supervisor.detail,
                speed_scale=timeline.clock.pace if moving and chunk else
                timeline.governor.speed_scale(now_ns),
                chunk_age_s=float('nan') if chunk is None else (now_ns - chunk.stamp_ns) * 1e-9,
                chunk_trace_id='' if chunk is None else chunk.trace_id,
                joint_names=self.robot.joint_names,
                commanded_position=self._planner.plan.sample(now_ns)[0],
                tracking_error=self._monitor.error,
                active_limits=report_limits(self.robot, self._planner, timeline, now_ns) if moving else (),
                chunks_accepted=self._accepted, chunks_rejected=self._rejected,
                last_rejection=self._last_rejection
                or ('' if rejection is None else rejection.describe(now_ns)),
                plans_committed=counts.committed, plans_rejected=counts.rejected,
                overruns=self._overruns, seam=dict(timeline.seam))

    @property
    def planner(self) -> Planner:
        """The planner, for benchmarks and tests that look at committed plans."""
        return self._planner
