"""Every limit, at every sample of a plan and between samples, before the plan may be committed.

Between samples the bounds are analytic: joint extrema are exact; a point's path leaves the straight
line between two samples by at most h^2 / 8 times its largest acceleration, its velocity by at most
h^2 / 8 times its largest jerk (interpolation error); a distance between two capsules changes by no
more than what the joints between them can move the outer one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.robots import Robot

from .effort_bound import EffortBound
from .envelope import Chord
from .leverage import Leverage, pair_levers
from .plan import Extrema, Plan
from .screening import Screen, SpaceSamples

Array = NDArray[np.float64]

# Rounding of quantities that are compared with a limit they may touch.
ROUNDING = 1e-9
# Parts of a segment at which efforts are computed where their bound does not suffice.
EFFORT_PARTS = 4
# An arm that starts inside of a forbidden distance may leave it, never losing more than this.
ESCAPE_SLACK_M = 1e-6


@dataclass(frozen=True, slots=True)
class Rejection:
    """The first limit that a plan breaks.

    :param limit: E.g. ``velocity``, ``tool_speed``, ``self_collision``.
    :param subject: Joint, point, pair of capsules or plane.
    :param time_ns: Absolute time of the sample, or of the segment's start for a limit broken between
        samples.
    :param value: What the plan would do.
    :param allowed: The limit.
    :param unit: Unit of both.
    """

    limit: str
    subject: str
    time_ns: int
    value: float
    allowed: float
    unit: str

    def describe(self, now_ns: int) -> str:
        """Say it in one sentence, with the time relative to ``now_ns``."""
        return (
            f'{self.limit} of {self.subject}: {self.value:.5g} {self.unit} '
            f'{(self.time_ns - now_ns) * 1e-6:.0f} ms ahead, {self.allowed:.5g} is allowed')


class Verifier:
    """Check whole plans against a robot's limits.

    :param robot: Limits, kinematics, capsules, workspace and, where known, dynamics.
    :param chords: Lines inside the position-dependent velocity limits.
    """

    def __init__(self, robot: Robot, chords: tuple[Chord, ...]) -> None:
        self._robot = robot
        limits, profile = robot.limits, robot.profile
        self._lower, self._upper = limits.lower_rad, limits.upper_rad
        self._slope = np.array([c.slope for c in chords])
        self._offset = np.array([c.offset for c in chords])
        self._sign = np.array([1.0 if c.upper else -1.0 for c in chords])
        self._chord_joint = np.array([c.joint for c in chords], dtype=np.intp)
        self._leverage = Leverage.of(robot)
        self._pair_levers = np.ascontiguousarray(pair_levers(robot).T)
        self._pair_distance = np.full(len(robot.collision.pairs), robot.profile.self_collision_distance_m)
        self._effort_bound = EffortBound.of(robot)
        speeds = {'tool': profile.tcp_speed_m_s, 'elbow': profile.elbow_speed_m_s}
        self._point_speeds = tuple(
            (i, name, speeds[name]) for i, name in enumerate(robot.kinematics.point_names)
            if name in speeds)
        self._plane_distance = np.array([
            profile.table_distance_m if name == 'table' else profile.workspace_distance_m
            for name in robot.workspace.names])
        self._screen = Screen(
            robot, chords, self._leverage,
            np.array([speeds.get(name, np.inf) for name in robot.kinematics.point_names]),
            self._pair_levers, self._pair_distance, self._plane_distance, self._effort_bound)

    def check(self, plan: Plan) -> Rejection | None:
        """Return the first broken limit of ``plan``, or None if it is admissible."""
        peaks, screen, h = plan.peaks(), self._screen, plan.step_ns * 1e-9
        rejection: Rejection | None = None
        if not screen.admits_joints(peaks):
            rejection = self._check_joints(plan, plan.extrema())
        if rejection is None and not screen.admits_envelope(plan, peaks):
            rejection = self._check_chords(plan)
        if rejection is not None:
            return rejection
        frames = self._robot.kinematics.chain(plan.position)
        samples = self._sample_space(plan, frames)
        if not screen.admits_space(samples, peaks, h):
            rejection = self._check_space(plan, plan.extrema(), samples)
        if rejection is None and not screen.admits_effort(peaks, frames, h):
            rejection = self._check_effort(plan, plan.extrema(), np.abs(plan.jerk), frames)
        return rejection

    def _sample_space(self, plan: Plan, frames: Array) -> SpaceSamples:
        robot = self._robot
        velocities = robot.kinematics.chain_velocities(frames, plan.velocity)
        distances, ends = robot.collision.chain_distances(frames)
        clearances = robot.workspace.chain_distances(ends, robot.collision.moving_radius)
        return SpaceSamples(
            np.sqrt(np.einsum('pik,pik->pk', velocities, velocities)), distances, clearances)

    def _joint(self, limit: str, plan: Plan, excess: Array, value: Array, allowed: Array, unit: str,
               ) -> Rejection | None:
        """Return the worst entry of ``excess`` (N, joints) if it is positive (or NaN)."""
        worst = int(np.argmax(excess))
        segment, joint = divmod(worst, excess.shape[1])
        if excess[segment, joint] <= 0.0:
            return None
        return Rejection(
            limit, self._robot.joint_names[joint], plan.start_ns + segment * plan.step_ns,
            float(value[segment, joint]), float(allowed[joint]), unit)

    def _check_joints(self, plan: Plan, x: Extrema) -> Rejection | None:
        limits = self._robot.limits
        # An arm that was armed outside of the limits may come back; it may not go further out.
        lower = np.minimum(self._lower, plan.position[0]) - ROUNDING
        upper = np.maximum(self._upper, plan.position[0]) + ROUNDING
        speed, bend, jerk = (
            limits.velocity_rad_s, limits.acceleration_rad_s2, limits.jerk_rad_s3)
        size = np.abs(plan.jerk)
        return (
            self._joint('position', plan, lower - x.position_min, x.position_min, self._lower, 'rad')
            or self._joint('position', plan, x.position_max - upper, x.position_max, self._upper, 'rad')
            or self._joint('velocity', plan, x.speed_max - speed, x.speed_max, speed, 'rad/s')
            or self._joint(
                'acceleration', plan, x.acceleration_max - bend, x.acceleration_max, bend, 'rad/s^2')
            or self._joint('jerk', plan, size - jerk, size, jerk, 'rad/s^3'))

    def _check_chords(self, plan: Plan) -> Rejection | None:
        if len(self._slope) == 0:
            return None
        j, h = self._chord_joint, plan.step_ns * 1e-9
        # v - slope q is a cubic in each segment: nodes, plus its distance from the line between them.
        above = self._sign * (plan.velocity[:, j] - self._slope * plan.position[:, j] - self._offset)
        turn = np.abs(plan.jerk[:, j]) + np.abs(self._slope) * np.maximum(
            np.abs(plan.acceleration[:-1, j]), np.abs(plan.acceleration[1:, j]))
        excess = np.maximum(above[:-1], above[1:]) + turn * (h * h / 8.0)
        # An arm that stands where the envelope allows no motion may leave, getting no further in.
        excess -= np.where(above[0] > 0.0, above[0] + ROUNDING, 0.0)
        worst = int(np.argmax(excess))
        segment, chord = divmod(worst, excess.shape[1])
        if excess[segment, chord] <= 0.0:
            return None
        joint = int(j[chord])
        velocity = float(plan.velocity[segment, joint])
        allowed = float(self._slope[chord] * plan.position[segment, joint] + self._offset[chord])
        return Rejection(
            'velocity_envelope', self._robot.joint_names[joint],
            plan.start_ns + segment * plan.step_ns, velocity, allowed, 'rad/s')

    def _check_space(self, plan: Plan, x: Extrema, samples: SpaceSamples) -> Rejection | None:
        robot, h = self._robot, plan.step_ns * 1e-9
        n = plan.steps
        point_acceleration, point_jerk = self._leverage.point_motion(
            x.speed_max, x.acceleration_max, np.abs(plan.jerk))
        bow = point_jerk * (h * h / 8.0)
        for i, name, allowed in self._point_speeds:
            speed = samples.speeds_m_s[i]
            between = np.maximum(speed[:-1], speed[1:]) + bow
            worst = int(between.argmax())
            if not between[worst] <= allowed:
                return Rejection(f'{name}_speed', name, plan.start_ns + worst * plan.step_ns,
                                 float(between[worst]), allowed, 'm/s')
        distance = samples.distances_m
        reach = (x.speed_max * h) @ self._pair_levers
        between = 0.5 * (distance[:-1] + distance[1:] - reach)
        fault = self._worst_distance(distance, between, self._pair_distance)
        if fault is not None:
            node, pair, value, allowed = fault
            return Rejection('self_collision', robot.collision.pair_names[pair],
                             plan.start_ns + min(node, n) * plan.step_ns, value, allowed, 'm')
        clearance = samples.clearances_m
        sag = point_acceleration * (h * h / 8.0)
        between = np.minimum(clearance[:-1], clearance[1:]) - sag[:, None]
        fault = self._worst_distance(clearance, between, self._plane_distance)
        if fault is not None:
            node, plane, value, allowed = fault
            name = robot.workspace.names[plane]
            return Rejection('table' if name == 'table' else 'workspace', name,
                             plan.start_ns + min(node, n) * plan.step_ns, value, allowed, 'm')
        return None

    @staticmethod
    def _worst_distance(
        at_nodes: Array, between: Array, required: Array,
    ) -> tuple[int, int, float, float] | None:
        """Return (node, column, distance, required) of the worst shortfall, or None.

        A distance that is too small at the start already may only grow until it is allowed.
        """
        violated = at_nodes[0] < required
        lowest = np.minimum(at_nodes[1:], between)
        if violated.any():
            growing = np.diff(at_nodes[:, violated], axis=0) >= -ESCAPE_SLACK_M
            lowest[:, violated] = np.where(
                growing | (at_nodes[1:, violated] >= required[violated]), np.inf,
                at_nodes[1:, violated])
        shortfall = required - lowest
        worst = int(np.argmax(shortfall))
        segment, column = divmod(worst, shortfall.shape[1])
        if shortfall[segment, column] <= 0.0:
            return None
        return segment, column, float(lowest[segment, column]), float(required[column])

    def _check_effort(self, plan: Plan, x: Extrema, jerk: Array, frames: Array) -> Rejection | None:
        dynamics, bound = self._robot.dynamics, self._effort_bound
        if dynamics is None or bound is None:
            return None
        limits, h = self._robot.limits, plan.step_ns * 1e-9
        most, change = bound.effort_and_change(frames, x.speed_max, x.acceleration_max, jerk, h)
        # Not below with NaN, so that the exact check decides.
        if bool((most < limits.effort_nm).all()) and bool((change < limits.effort_rate_nm_s).all()):
            return None
        # Between nodes too: the same cubics at quarters of each segment, (N, 5, joints).
        t = h * np.linspace(0.0, 1.0, EFFORT_PARTS + 1)[:, None]
        q, v, a, j = (values[:, None] for values in (*plan.nodes[:3, :-1], plan.jerk))
        effort = dynamics.effort(
            q + t * (v + t * (0.5 * a + (t / 6.0) * j)), v + t * (a + 0.5 * t * j), a + t * j)
        size = np.abs(effort).max(axis=1)
        # A pose that gravity alone overloads must be left, so it may not get worse.
        allowed = np.maximum(limits.effort_nm, np.abs(effort[0, 0]) + ROUNDING)
        fault = self._joint('effort', plan, size - allowed, size, limits.effort_nm, 'N m')
        if fault is not None:
            return fault
        # Within a segment the effort is smooth: its slope leaves the mean slopes of the quarters by no more
        # than these differ from one to the next (to second order in a quarter).
        mean = np.diff(effort, axis=1) * (EFFORT_PARTS / h)
        rate = np.abs(mean).max(axis=1) + np.abs(np.diff(mean, axis=1)).max(axis=1)
        return self._joint(
            'effort_rate', plan, rate - limits.effort_rate_nm_s, rate, limits.effort_rate_nm_s, 'N m/s')
