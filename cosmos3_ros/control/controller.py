"""The controller: chunks and joint states in, commands inside the limits out.

No threads and no clock of its own: time is an argument. Not a safety-rated function.
"""

from collections.abc import Sequence
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

from .chunk_intake import ChunkIntake
from .config import ControllerConfig
from .effort import EffortLaw
from .latency import LatencyAssessment
from .planner import Planner
from .state_report import report_limits
from .supervisor import ACCEPTED, PLANNING, Supervisor
from .timeline import Timeline
from .verdict import Verdict
from .watchdog import Watchdog

Array = NDArray[np.float64]

# Stops after which the arm itself is not where it was told: they yield to the measured arm.
YIELDING = (StopReason.TRACKING_ERROR, StopReason.EXTERNAL_FORCE)


class Controller:
    """Follow chunks inside the limits of ``robot``.

    Every public method may be called from any thread. One lock guards the state; :meth:`submit`
    does its heavy work outside of it (see :mod:`.chunk_intake`).

    :param robot: The arm under its profile.
    :param config: What an operator may choose.
    """

    def __init__(self, robot: Robot, config: ControllerConfig | None = None) -> None:
        self.robot = robot
        self.config = config = config or ControllerConfig()
        self._lock = threading.RLock()
        self._supervisor = Supervisor()
        self._timeline = Timeline(robot, config)
        self._planner = Planner(robot, config)
        self._intake = ChunkIntake(robot, config, self._timeline, self._supervisor, self._lock)
        self._watchdog = Watchdog(robot, config, self._supervisor, self._planner, self._timeline)
        self._readiness = self._watchdog.readiness
        self._effort = EffortLaw(robot, config.effort) if config.command_effort else None
        self._overruns = 0
        self._rested_ns: int | None = None
        self._yields_until_ns: int | None = None

    @property
    def mode(self) -> ControllerMode:
        """Present mode; tells whether a command of :meth:`tick` may be sent."""
        return self._supervisor.mode

    def warm_up(self) -> None:
        """Run everything once that is slow the first time, then leave UNCONFIGURED."""
        with self._lock:
            self._planner.warm_up()
            self._intake.warm_up()
            self._supervisor.configure()

    # ----------------------------------------------------------------- inputs

    def measure(self, measurement: JointMeasurement, now_ns: int) -> None:
        """Take a joint state in the robot's joint order; an older one than the newest is ignored."""
        with self._lock:
            self._watchdog.take(measurement, now_ns)

    def report_wrench(self, force_n: Array) -> None:
        """Take an external force (3,), newtons; past the bound it stops."""
        with self._lock:
            self._watchdog.check_wrench(force_n)

    def submit(self, chunk: ActionChunk, now_ns: int) -> Verdict:
        """Make ``chunk`` part of the reference, or say why not. Nothing moves faster for it."""
        return self._intake.submit(chunk, now_ns)

    def assess_latency(self, horizon: int, step_s: float, p99_s: float) -> LatencyAssessment:
        """Say whether chunks of this shape can overlap a latency; for configure time."""
        return self._intake.assess_latency(horizon, step_s, p99_s)

    def record_latency(self, latency_s: float) -> None:
        """Take one measured time from an observation to its chunk's arrival."""
        self._intake.record_latency(latency_s)

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
            self._watchdog.check_overrun(late_ns)

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
        self._watchdog.restart(now_ns)
        self._timeline.restart(measurement.position, now_ns, measurement.gripper)
        if self._effort is not None:
            self._effort.restart()
        self._rested_ns = self._yields_until_ns = None
        broken = self._planner.start(measurement.position, now_ns)
        if broken is None:
            return ACCEPTED
        return Verdict(True, (
            f'the arm stands inside a limit and can only move out of it: {broken.describe(now_ns)}'))

    def disarm(self, now_ns: int) -> Verdict:
        """Brake and end in INACTIVE; nothing is latched. A stop does not yield any longer."""
        with self._lock:
            self._yields_until_ns = now_ns
            return self._supervisor.disarm()

    def stop(self, reason: StopReason, detail: str, now_ns: int) -> Verdict:
        """Brake and latch ``reason``; the first reason stays. With SHUTDOWN it does not yield any longer."""
        with self._lock:
            if reason is StopReason.SHUTDOWN:
                self._yields_until_ns = now_ns
            if self._supervisor.stop(reason, detail):
                return ACCEPTED
            return Verdict(True, (
                f'already stopped: {self._supervisor.reason.name}: {self._supervisor.detail}'))

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
            supervisor, watchdog = self._supervisor, self._watchdog
            if supervisor.mode not in PLANNING:
                return None
            now_ns = watchdog.check_clock(now_ns)
            watchdog.check_inputs(now_ns)
            if supervisor.mode in PLANNING:
                self._plan(now_ns)
            if supervisor.mode is ControllerMode.STOPPING:
                self._finish_stop(now_ns)
            if supervisor.mode not in PLANNING:
                return None
            position, velocity, acceleration = self._planner.plan.sample(now_ns)
            watchdog.monitor.command(now_ns, position)
            gripper = self._timeline.gripper.value if supervisor.mode is ControllerMode.STOPPING \
                else self._timeline.gripper_at(now_ns)
            effort = None
            if self._effort is not None and self._readiness.measurement is not None:
                effort = self._effort.command(
                    position, velocity, acceleration, self._readiness.measurement, now_ns)
            return JointCommand(now_ns, position, velocity, acceleration, gripper, effort)

    def _plan(self, now_ns: int) -> None:
        due_ns = self._planner.due(now_ns)
        if due_ns is None:
            return
        if self.mode is ControllerMode.STOPPING:
            self._planner.brake(due_ns, self._yielded_to(now_ns))
            return
        self._planner.follow(due_ns, *self._timeline.horizon(due_ns))
        self._watchdog.check_storm(now_ns)

    def _yielded_to(self, now_ns: int) -> tuple[Array, Array] | None:
        """Return the measured position and velocity that the stop follows, or None if it follows none."""
        measurement = self._readiness.measurement
        if self._supervisor.reason not in YIELDING or measurement is None:
            return None
        if self._yields_until_ns is None:
            self._yields_until_ns = now_ns + round(self.config.stop_yield_s * 1e9)
        if now_ns >= self._yields_until_ns or self._readiness.why_stale(now_ns):
            return None
        return measurement.position, measurement.velocity

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
            intake = self._intake
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
                tracking_error=self._watchdog.monitor.error,
                active_limits=report_limits(self.robot, self._planner, timeline, now_ns) if moving else (),
                chunks_accepted=intake.accepted, chunks_rejected=intake.rejected,
                last_rejection=intake.last_rejection
                or ('' if rejection is None else rejection.describe(now_ns)),
                plans_committed=counts.committed, plans_rejected=counts.rejected,
                overruns=self._overruns, seam=dict(timeline.seam))

    @property
    def planner(self) -> Planner:
        """The planner, for benchmarks and tests that look at committed plans."""
        return self._planner
