"""How fast the reference clock may run: enable ramp, speed scale, latency, and the limits themselves."""

import math

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.robots import Robot

from .config import ControllerConfig
from .latency import LatencyAssessment, LatencyKind
from .reference import Reference
from .reference_clock import FREE_PACE, PaceProfile

Array = NDArray[np.float64]

# Distance of the samples at which a reference's pace is bounded; finer than any chunk's rows.
PACE_STEP_S = 0.01
PACE_SAMPLES = 4096
# Shares of the limits that a reference may use, so that the tracker has room to correct.
VELOCITY_SHARE = 0.93
# With a tracker that looks ahead, velocities count as their mean over MEAN_WINDOW_S where no instant is past
# PEAK_SHARE and the mean asks for no less than BRIEF_PACE. One joint makes up such an excess within the
# window; slowing down for it would make all joints late until a chunk arrives that was observed after it.
# All else counts instant by instant.
PEAK_SHARE = 1.25
BRIEF_PACE = 0.8
ACCELERATION_SHARE = 1.5
# Accelerations count as the mean over this time: what is shorter (a jittering recording) the tracker
# smooths at the cost of a milliradian, while slowing down for it would cost the lag of every stumble.
MEAN_WINDOW_S = 0.2
POINT_SPEED_SHARE = 0.9
# A reference that asks for infinite speed would never end at pace zero.
PACE_MIN = 1e-3


class Governor:
    """Combine everything that slows the reference clock.

    :param robot: Limits that bound a reference's pace.
    """

    def __init__(self, robot: Robot, config: ControllerConfig) -> None:
        self._robot = robot
        self._config = config
        self._stale_s = config.speed_scale_stale_s or robot.profile.speed_scale_stale_s
        self._scale = 0.0 if config.speed_scale_required else 1.0
        self._scale_ns: int | None = None
        self._ramp_ns: int | None = None
        self._latency: LatencyAssessment | None = None
        self._looks_ahead = config.tracker == 'mpc'
        limits, names = robot.limits, robot.kinematics.point_names
        self._bend = ACCELERATION_SHARE * limits.acceleration_rad_s2
        point_limits = {'tool': robot.profile.tcp_speed_m_s, 'elbow': robot.profile.elbow_speed_m_s}
        self._points = [i for i, name in enumerate(names) if name in point_limits]
        self._point_speeds = POINT_SPEED_SHARE * np.array([point_limits[names[i]] for i in self._points])
        self._causes = (
            *(f'{name}:velocity' for name in limits.names),
            *(f'{name}:acceleration' for name in limits.names),
            *(f'{names[i]}:speed' for i in self._points))

    def set_speed_scale(self, scale: float, now_ns: int) -> str:
        """Take a new speed scale; return why not, or an empty string."""
        if not 0.0 <= scale <= 1.0:
            return f'speed scale {scale} arrived, 0 to 1 is allowed'
        self._scale, self._scale_ns = float(scale), now_ns
        return ''

    def set_latency(self, assessment: LatencyAssessment) -> None:
        """Take the newest latency assessment."""
        self._latency = assessment

    def start_ramp(self, now_ns: int) -> None:
        """Begin the enable ramp."""
        self._ramp_ns = now_ns

    def reset(self) -> None:
        """Forget the ramp and the latency; the speed scale is the operator's and stays."""
        self._ramp_ns = None
        self._latency = None

    def is_speed_scale_stale(self, now_ns: int) -> bool:
        """Tell whether a speed scale was in use and has not been renewed."""
        return self._scale_ns is not None and now_ns - self._scale_ns > self._stale_s * 1e9

    def speed_scale(self, now_ns: int) -> float:
        """Return the speed scale that counts now; a stale one counts as zero."""
        return 0.0 if self.is_speed_scale_stale(now_ns) else self._scale

    def target(self, now_ns: int) -> float:
        """Return the pace to go for."""
        target = self.speed_scale(now_ns)
        if self._latency is not None and self._latency.kind is LatencyKind.SLOW:
            target = min(target, self._latency.scale)
        ramp_s = self._config.enable_ramp_s
        if self._ramp_ns is not None and ramp_s > 0.0:
            x = min(max((now_ns - self._ramp_ns) * 1e-9 / ramp_s, 0.0), 1.0)
            # Smoothstep: the pace starts and ends its rise without a kink.
            target = min(target, x * x * (3.0 - 2.0 * x))
        return target

    def causes(self, now_ns: int) -> list[str]:
        """Name what slows the clock, as ``governor:cause``."""
        causes = []
        if self.is_speed_scale_stale(now_ns):
            causes.append('governor:speed_scale_stale')
        elif self._scale < 1.0:
            causes.append('governor:speed_scale')
        if self._latency is not None and self._latency.kind is not LatencyKind.OVERLAP:
            causes.append('governor:latency')
        if self._ramp_ns is not None and now_ns - self._ramp_ns < self._config.enable_ramp_s * 1e9:
            causes.append('governor:enable_ramp')
        return causes

    def profile(self, reference: Reference) -> PaceProfile:
        """Return the pace at which ``reference`` keeps joint velocity, acceleration and point speeds.

        At pace k the velocity of the reference is k r' and its acceleration about k^2 r''. The pace
        may change only by ``clock_slew_per_s``, hence the passes in both directions:
        k dk/dtau <= slew, so k^2 grows by at most 2 slew dtau.
        """
        start_s = reference.splice_s
        if not math.isfinite(start_s):
            return FREE_PACE
        count = int((reference.end_s - start_s) / PACE_STEP_S) + 2
        step_s = PACE_STEP_S
        if count > PACE_SAMPLES:
            step_s, count = (reference.end_s - start_s) / (PACE_SAMPLES - 2), PACE_SAMPLES
        times: Array = start_s + step_s * np.arange(count, dtype=np.float64)
        q, v, _, _ = reference.evaluate(times)
        joints = q.shape[1]
        # One column for each thing that may bound the pace.
        table = np.empty((count, len(self._causes)))
        with np.errstate(divide='ignore', invalid='ignore'):
            table[:, :joints] = self._pace_for_speed(q, v, step_s)
            np.divide(self._bend, np.abs(_mean_acceleration(v, step_s)), out=table[:, joints: 2 * joints])
            np.sqrt(table[:, joints: 2 * joints], out=table[:, joints: 2 * joints])
            np.divide(self._point_speeds * step_s, self._step_lengths(q), out=table[:, 2 * joints:])
        binding = table.argmin(axis=1)
        raw = table[np.arange(count), binding]
        causes = np.where(raw < 1.0, binding, -1)
        return PaceProfile(
            start_s, step_s, self._smooth(np.clip(raw, PACE_MIN, 1.0), step_s), causes.tolist(), self._causes)

    def _step_lengths(self, q: Array) -> Array:
        """Return how far the limited points move from each sample (M, joints) to the next, (M, points)."""
        kinematics = self._robot.kinematics
        path = kinematics.chain_points(kinematics.chain(q))[self._points]
        lengths = np.zeros((len(q), len(path)))
        lengths[:-1] = np.sqrt(((path[..., 1:] - path[..., :-1]) ** 2).sum(axis=1)).T
        return lengths

    def _pace_for_speed(self, q: Array, v: Array, step_s: float) -> Array:
        """Return the pace that the velocity of each joint allows at each sample, (M, joints)."""
        limit = self._speed_limit(q, v)
        instant: Array = limit / np.abs(v)
        pace = VELOCITY_SHARE * instant
        if not self._looks_ahead:
            return pace
        mean = VELOCITY_SHARE * limit / np.abs(_mean_velocity(q, v, step_s))
        brief = np.minimum(mean, PEAK_SHARE * instant)
        # Paced, the window lasts longer in the node's time: hence the bound on the pace.
        return np.where(brief >= BRIEF_PACE, np.maximum(brief, pace), pace)

    def _speed_limit(self, q: Array, v: Array) -> Array:
        """Return how fast each joint may be where the reference is, (joints,) or (M, joints)."""
        limits = self._robot.limits
        if limits.envelope is None:
            return limits.velocity_rad_s
        low, high = limits.velocity_bounds(np.clip(q, limits.lower_rad, limits.upper_rad))
        # Never zero, or a joint at rest where the envelope allows no motion would divide zero by zero.
        return np.maximum(np.where(v > 0.0, high, -low), 1e-9)

    def _smooth(self, pace: Array, step_s: float) -> list[float]:
        """Return the highest pace below ``pace`` (M,) whose square grows and falls by at most 2 slew dtau."""
        ramp = 2.0 * self._config.clock_slew_per_s * step_s * np.arange(len(pace), dtype=np.float64)
        square = np.minimum.accumulate(pace * pace - ramp) + ramp
        square = np.minimum.accumulate((square + ramp)[::-1])[::-1] - ramp
        smooth: list[float] = np.sqrt(np.clip(square, 0.0, pace * pace)).tolist()
        return smooth


def _mean_velocity(position: Array, velocity: Array, step_s: float) -> Array:
    """Return the change of ``position`` (M, joints) over the window around each sample, per second.

    Before the first sample the motion counts as uniform, after the last as rest.
    """
    half = max(1, round(0.5 * MEAN_WINDOW_S / step_s))
    ahead = step_s * np.arange(-half, 0.0)[:, None]
    padded = np.concatenate([
        position[:1] + ahead * velocity[:1], position, np.repeat(position[-1:], half, axis=0)])
    mean: Array = (padded[2 * half:] - padded[: -2 * half]) / (2 * half * step_s)
    return mean


def _mean_acceleration(velocity: Array, step_s: float) -> Array:
    """Return the change of ``velocity`` (M, joints) over the window around each sample, per second."""
    half = max(1, round(0.5 * MEAN_WINDOW_S / step_s))
    padded = np.concatenate([
        np.repeat(velocity[:1], half, axis=0), velocity, np.zeros((half, velocity.shape[1]))])
    mean: Array = (padded[2 * half:] - padded[: -2 * half]) / (2 * half * step_s)
    return mean
