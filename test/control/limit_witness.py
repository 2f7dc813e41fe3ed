"""A witness for the tests: judges samples and plans from the limits, by other means than the controller.

Nothing of cosmos3_ros.control is used. Derivatives come from finite differences of the samples, extrema
between nodes from dense sampling with numpy's polynomials, distances from scipy-free brute force.
"""

from collections import Counter

import numpy as np


class Witness:
    def __init__(self, robot, dense=9, space=True):
        self.robot = robot
        self.dense = dense
        self.space = space
        self.violations = Counter()
        self.worst_margin = {}
        self.first = {}
        self.samples = self.plans = 0
        self.restart()

    def restart(self):
        self.last = None

    def note(self, limit, margin, tolerance=0.0):
        margin = float(np.min(margin))
        self.worst_margin[limit] = min(margin, self.worst_margin.get(limit, np.inf))
        if not margin >= -tolerance:
            self.violations[limit] += 1
            self.first.setdefault(limit, margin)

    def check_command(self, stamp_ns, position, velocity, acceleration):
        self.samples += 1
        limits = self.robot.limits
        self.note('position', np.minimum(position - limits.lower_rad, limits.upper_rad - position), 1e-9)
        low, high = limits.velocity_bounds(position)
        self.note('velocity', np.minimum(velocity - low, high - velocity))
        self.note('acceleration', limits.acceleration_rad_s2 - np.abs(acceleration))
        if self.last is not None and stamp_ns > self.last[0]:
            t0, q0, v0, a0 = self.last
            dt = (stamp_ns - t0) * 1e-9
            # The mean of a bounded derivative over the step is bounded too; rounding of q is 1e-15 / dt.
            self.note('step_velocity', limits.velocity_rad_s - np.abs(position - q0) / dt, 1e-9)
            self.note('step_acceleration', limits.acceleration_rad_s2 - np.abs(velocity - v0) / dt, 1e-7)
            self.note('step_jerk', limits.jerk_rad_s3 - np.abs(acceleration - a0) / dt, 1e-5)
            # Samples belong to one motion: trapezoid rule, error j dt^3 / 12 for q and j dt^2 / 4 for v.
            slack = limits.jerk_rad_s3 * dt**3 / 6 + 1e-12
            self.note('consistency', slack - np.abs(position - q0 - dt * (v0 + velocity) / 2
                                                    + dt * dt * (acceleration - a0) / 12))
        self.last = (stamp_ns, position, velocity, acceleration)

    def check_plan(self, times_ns, position, velocity, acceleration, jerk):
        self.plans += 1
        limits = self.robot.limits
        h = (times_ns[1] - times_ns[0]) * 1e-9
        t = np.linspace(0.0, h, self.dense)[:, None, None]
        q0, v0, a0 = position[:-1], velocity[:-1], acceleration[:-1]
        q = q0 + t * v0 + t**2 / 2 * a0 + t**3 / 6 * jerk
        v = v0 + t * a0 + t**2 / 2 * jerk
        a = a0 + t * jerk
        # Nodes continue each other.
        self.note('continuity', 1e-9 - np.abs(q[-1] - position[1:]).max())
        self.note('continuity', 1e-8 - np.abs(v[-1] - velocity[1:]).max())
        self.note('continuity', 1e-6 - np.abs(a[-1] - acceleration[1:]).max())
        self.note('plan_position', np.minimum(q - limits.lower_rad, limits.upper_rad - q), 1e-9)
        low, high = limits.velocity_bounds(q)
        self.note('plan_velocity', np.minimum(v - low, high - v))
        self.note('plan_acceleration', limits.acceleration_rad_s2 - np.abs(a))
        self.note('plan_jerk', limits.jerk_rad_s3 - np.abs(jerk))
        self.note('rest', 1e-9 - max(np.abs(velocity[-1]).max(), np.abs(acceleration[-1]).max()))
        if self.space:
            self.check_space(q[::2].reshape(-1, q.shape[-1]), v[::2].reshape(-1, q.shape[-1]))

    def check_space(self, q, v):
        robot, profile = self.robot, self.robot.profile
        speed = {'tool': profile.tcp_speed_m_s, 'elbow': profile.elbow_speed_m_s}
        # Central differences of the points, not the Jacobian.
        eps = 1e-6
        p1, p0 = robot.kinematics.points(q + eps * v), robot.kinematics.points(q - eps * v)
        for i, name in enumerate(robot.kinematics.point_names):
            if name in speed:
                found = np.linalg.norm(p1 - p0, axis=-1)[:, i] / (2 * eps)
                self.note(f'{name}_speed', speed[name] - found, 1e-7)
        self.note('self_collision', robot.collision.distances(q) - profile.self_collision_distance_m, 1e-9)
        a, b, radius = robot.collision.capsules(q)
        moving = robot.collision.moving
        lowest = robot.workspace.distances(a[:, moving], b[:, moving], radius[moving])
        for i, name in enumerate(robot.workspace.names):
            required = profile.table_distance_m if name == 'table' else profile.workspace_distance_m
            self.note('table' if name == 'table' else 'workspace', lowest[:, i] - required, 1e-9)
