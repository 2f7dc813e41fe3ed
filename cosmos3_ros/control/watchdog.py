"""The stop sources that the controller sees by itself, tick by tick and measurement by measurement."""

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import ControllerMode, JointMeasurement, StopReason
from cosmos3_ros.robots import Robot

from .config import ControllerConfig
from .planner import Planner
from .readiness import Readiness
from .supervisor import PLANNING, Supervisor
from .tick_clock import TickClock
from .timeline import Timeline
from .tracking_monitor import TrackingMonitor

Array = NDArray[np.float64]


class Watchdog:
    """Turn faults into stops. Not thread-safe; the controller holds the lock.

    :param supervisor: What latches the first reason.
    """

    def __init__(
        self, robot: Robot, config: ControllerConfig, supervisor: Supervisor, planner: Planner,
        timeline: Timeline,
    ) -> None:
        profile = robot.profile
        self._config, self._supervisor = config, supervisor
        self._planner, self._timeline = planner, timeline
        self.clock = TickClock(config)
        self.readiness = Readiness(robot, config)
        self.monitor = TrackingMonitor(
            robot.joint_names, robot.hardware_limits,
            config.tracking_error_rad or profile.tracking_error_rad, config.tracking_lag_s,
            config.measured_jump_rad)
        self._chunk_stale_ns = int(1e9 * (
            profile.chunk_stale_s if config.chunk_stale_s is None else config.chunk_stale_s))
        self._force_n = profile.external_force_n if config.external_force_n is None \
            else config.external_force_n

    def restart(self, now_ns: int) -> None:
        """Forget the past, before a new motion."""
        self.clock.restart(now_ns)
        self.monitor.restart()

    def take(self, measurement: JointMeasurement, now_ns: int) -> None:
        """Judge a joint state; an older one than the newest is ignored."""
        readiness, supervisor = self.readiness, self._supervisor
        old = readiness.measurement
        if old is not None and measurement.stamp_ns <= old.stamp_ns <= now_ns:
            return
        fault = self.monitor.find_fault(measurement, old)
        readiness.take(measurement, fault, now_ns)
        if supervisor.mode not in PLANNING or self.clock.has_gone_back(now_ns):
            # With the clock set back, stamps say nothing; the next tick stops for that.
            return
        if fault:
            supervisor.stop(StopReason.INVALID_STATE, fault)
        elif supervisor.mode is ControllerMode.RUNNING:
            error = self.monitor.find_error(measurement)
            self._planner.observe(self.monitor.error)
            if error:
                supervisor.stop(StopReason.TRACKING_ERROR, error)
            elif residual := readiness.find_effort_residual(self._planner.plan, now_ns):
                supervisor.stop(StopReason.EXTERNAL_FORCE, residual)

    def check_wrench(self, force_n: Array) -> None:
        """Stop for an external force (3,), newtons, past the bound; NaN is past it."""
        force = float(np.linalg.norm(force_n))
        if not force <= self._force_n and self._supervisor.mode in PLANNING:
            self._supervisor.stop(StopReason.EXTERNAL_FORCE, (
                f'external force {force:.1f} N, {self._force_n:g} N is allowed (external_force_n)'))

    def check_overrun(self, late_ns: int) -> None:
        """Stop for a missed deadline past the bound."""
        bound_ns = self._config.overrun_stop_ns
        if late_ns > bound_ns and self._supervisor.mode in PLANNING:
            self._supervisor.stop(StopReason.OVERRUN, (
                f'the control loop was {late_ns * 1e-6:.1f} ms late, {bound_ns * 1e-6:g} ms is allowed '
                '(overrun_stop_ns)'))

    def check_clock(self, now_ns: int) -> int:
        """Stop on a jump and let the plan go on where it was, so that the command never jumps."""
        reading = self.clock.read(now_ns)
        if reading.shift_ns:
            self._planner.move(reading.shift_ns)
            self._supervisor.stop(reading.reason, reading.detail)
        return reading.now_ns

    def check_inputs(self, now_ns: int) -> None:
        """Stop for inputs that have not come."""
        supervisor, timeline = self._supervisor, self._timeline
        stale = self.readiness.why_stale(now_ns)
        if stale:
            supervisor.stop(StopReason.STALE_JOINT_STATE, stale)
        if supervisor.mode is not ControllerMode.RUNNING:
            return
        chunk = timeline.chunk
        if self._config.stop_on_stale_chunk and chunk is not None \
                and now_ns > chunk.end_ns + self._chunk_stale_ns:
            supervisor.stop(StopReason.STALE_CHUNK, (
                f'the last row of the newest chunk was due {(now_ns - chunk.end_ns) * 1e-9:.3f} s ago, '
                f'{self._chunk_stale_ns * 1e-9:g} s is allowed (chunk_stale_s)'))
        if timeline.governor.is_speed_scale_stale(now_ns) and timeline.clock.pace == 0.0 \
                and self._planner.plan.is_still_from(now_ns):
            supervisor.stop(StopReason.SPEED_SCALE_STALE, (
                'no speed scale arrived for a while; the arm has slowed to a stop (speed_scale_stale_s)'))

    def check_storm(self, now_ns: int) -> None:
        """Stop where plan after plan is rejected."""
        in_a_row = self._planner.counts.in_a_row
        if in_a_row >= self._config.limit_storm_plans:
            rejection = self._planner.last_rejection
            self._supervisor.stop(StopReason.LIMIT_STORM, (
                f'{in_a_row} plans in a row were rejected, the last one for '
                f'{rejection.describe(now_ns) if rejection else "no solution"}'))
