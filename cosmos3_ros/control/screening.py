"""Sufficient conditions for a plan's limits, in few calls; where one fails, the exact check decides.

A screen never admits what the exact check would refuse: it uses bounds over the whole plan that are never
below the exact extrema of a segment (:class:`.plan.Peaks`), in formulas that grow with each of them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.robots import Robot

from .effort_bound import EffortBound
from .envelope import Chord
from .leverage import Leverage
from .plan import Peaks, Plan

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class SpaceSamples:
    """What the limits in space look at, at the K + 1 nodes of a plan.

    :param speeds_m_s: Shape (points, K + 1).
    :param distances_m: Shape (K + 1, pairs), between capsules.
    :param clearances_m: Shape (K + 1, planes), of the nearest capsule.
    """

    speeds_m_s: Array
    distances_m: Array
    clearances_m: Array


class Screen:
    """Tell quickly that a whole plan is inside of its limits.

    :param robot: Limits.
    :param chords: Lines inside the position-dependent velocity limits.
    :param point_speeds_m_s: Shape (points,), limit of every point, infinite where there is none.
    :param pair_levers_m: Shape (joints, pairs), see :func:`.leverage.pair_levers`.
    :param pair_distances_m: Shape (pairs,), required.
    :param plane_distances_m: Shape (planes,), required.
    :param effort_bound: None without inertial parameters.
    """

    def __init__(
        self, robot: Robot, chords: tuple[Chord, ...], leverage: Leverage, point_speeds_m_s: Array,
        pair_levers_m: Array, pair_distances_m: Array, plane_distances_m: Array,
        effort_bound: EffortBound | None,
    ) -> None:
        limits = robot.limits
        self._joint_bounds = np.stack([
            -limits.lower_rad, limits.upper_rad, limits.velocity_rad_s, limits.acceleration_rad_s2,
            limits.jerk_rad_s3])
        self._effort_nm, self._effort_rate_nm_s = limits.effort_nm, limits.effort_rate_nm_s
        self._leverage = leverage
        self._point_speeds = point_speeds_m_s
        self._pair_levers, self._pair_distances = pair_levers_m, pair_distances_m
        self._plane_distances = plane_distances_m
        self._effort_bound = effort_bound
        # sign (v - slope q) <= sign offset of all chords, as two products.
        count, joints = len(chords), len(limits.names)
        self._chord_q, self._chord_v = np.zeros((joints, count)), np.zeros((joints, count))
        self._chord_limit = np.zeros(count)
        for k, chord in enumerate(chords):
            sign = 1.0 if chord.upper else -1.0
            self._chord_q[chord.joint, k], self._chord_v[chord.joint, k] = -sign * chord.slope, sign
            self._chord_limit[k] = sign * chord.offset
        self._chord_q_size, self._chord_v_size = np.abs(self._chord_q), np.abs(self._chord_v)
        # The same as one product with the peaks, in the order in which admits_envelope joins them.
        self._chord_peaks = np.vstack([
            np.minimum(self._chord_q, 0.0), np.maximum(self._chord_q, 0.0), self._chord_v_size])

    # Every comparison is written so that NaN is not admitted.

    def admits_joints(self, peaks: Peaks) -> bool:
        """Tell whether position, velocity, acceleration and jerk are inside of the limits."""
        found = np.stack([
            -peaks.position_min, peaks.position_max, peaks.speed, peaks.acceleration, peaks.jerk])
        return bool((found <= self._joint_bounds).all())

    def admits_envelope(self, plan: Plan, peaks: Peaks) -> bool:
        """Tell whether the velocities stay below all chords."""
        if len(self._chord_limit) == 0:
            return True
        # A line over the range of positions and speeds first: peaks hold between the nodes too.
        widest = np.concatenate([peaks.position_min, peaks.position_max, peaks.speed]) @ self._chord_peaks
        if (widest <= self._chord_limit).all():
            return True
        h = plan.step_ns * 1e-9
        highest = (plan.velocity @ self._chord_v + plan.position @ self._chord_q).max(axis=0)
        turn = peaks.jerk @ self._chord_v_size + peaks.acceleration @ self._chord_q_size
        return bool((highest + turn * (h * h / 8.0) <= self._chord_limit).all())

    def admits_space(self, samples: SpaceSamples, peaks: Peaks, step_s: float) -> bool:
        """Tell whether points are slow enough and distances large enough, between nodes too."""
        acceleration, jerk = self._leverage.point_motion(
            peaks.speed[None], peaks.acceleration[None], peaks.jerk[None])
        sag, bow = acceleration[0] * (step_s * step_s / 8.0), jerk[0] * (step_s * step_s / 8.0)
        reach = peaks.speed @ self._pair_levers
        return bool(
            (samples.speeds_m_s.max(axis=1) + bow <= self._point_speeds).all()
            and (samples.distances_m.min(axis=0) - 0.5 * step_s * reach >= self._pair_distances).all()
            and (samples.clearances_m.min(axis=0) - sag >= self._plane_distances).all())

    def admits_effort(self, peaks: Peaks, frames: Array, step_s: float) -> bool:
        """Tell whether efforts and their rates are below the limits."""
        if self._effort_bound is None:
            return True
        most, change = self._effort_bound.largest(
            frames, peaks.speed, peaks.acceleration, peaks.jerk, step_s)
        return bool((most < self._effort_nm).all() and (change < self._effort_rate_nm_s).all())
