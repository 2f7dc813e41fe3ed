"""The expert's moving reference: position and yaw of the tool with bounded speed and acceleration."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class MotionLimits:
    """Bounds of the Cartesian reference.

    Chosen below what the controller's ``lab`` profile lets through (0.5 m/s at the tool, 40 % of the
    joint velocities, 25 % of the accelerations), so that a chunk is followed, not clipped.
    """

    speed_m_s: float = 0.26
    acceleration_m_s2: float = 0.50
    yaw_rate_rad_s: float = 0.60
    yaw_acceleration_rad_s2: float = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class ToolReference:
    """Where the tool should be and how it moves. A value: each step makes a new one.

    :param position: Shape (3,), metres, base frame.
    :param velocity: Shape (3,), m/s.
    :param yaw: Radians, unwrapped.
    :param yaw_rate: rad/s.
    """

    position: NDArray[np.float64]
    velocity: NDArray[np.float64]
    yaw: float
    yaw_rate: float

    def toward(self, other: 'ToolReference', share: float) -> 'ToolReference':
        """Return the reference ``share`` (0..1) of the way to ``other``."""
        return ToolReference(
            position=self.position + share * (other.position - self.position),
            velocity=self.velocity + share * (other.velocity - self.velocity),
            yaw=self.yaw + share * (other.yaw - self.yaw),
            yaw_rate=self.yaw_rate + share * (other.yaw_rate - self.yaw_rate))

    def advance(self, target: NDArray[np.float64], yaw: float, dt_s: float, limits: MotionLimits,
                speed_m_s: float | None = None) -> 'ToolReference':
        """Return the reference ``dt_s`` later on its way to rest at ``target``.

        Speed follows the trapezoid's braking curve, so a target that moves is followed and one that
        stays is reached with less than 0.3 mm of overshoot.
        """
        difference = target - self.position
        distance = float(np.linalg.norm(difference))
        wanted = np.zeros(3)
        if distance > 1e-9:
            direction = difference / distance
            wanted = direction * _approach_speed(
                distance, float(self.velocity @ direction), speed_m_s or limits.speed_m_s,
                limits.acceleration_m_s2, dt_s)
        change = wanted - self.velocity
        size = float(np.linalg.norm(change))
        velocity = self.velocity + change * min(1.0, limits.acceleration_m_s2 * dt_s / max(size, 1e-12))
        turn = yaw - self.yaw
        side = 1.0 if turn >= 0.0 else -1.0
        rate = side * _approach_speed(
            abs(turn), side * self.yaw_rate, limits.yaw_rate_rad_s, limits.yaw_acceleration_rad_s2, dt_s)
        most = limits.yaw_acceleration_rad_s2 * dt_s
        yaw_rate = self.yaw_rate + float(np.clip(rate - self.yaw_rate, -most, most))
        return ToolReference(
            position=self.position + 0.5 * (self.velocity + velocity) * dt_s, velocity=velocity,
            yaw=self.yaw + 0.5 * (self.yaw_rate + yaw_rate) * dt_s, yaw_rate=yaw_rate)


def _approach_speed(distance: float, present: float, fastest: float, acceleration: float,
                    dt_s: float) -> float:
    """Return the speed v one step later from which ``distance`` still suffices to brake.

    With speed changing linearly over a step the way left is d - (u + v) dt / 2, u the present speed,
    and braking takes v^2 / 2a of it; the equality is solved for v.
    """
    # A reserve: the braking itself happens in steps, too.
    braking = 0.8 * acceleration
    left = distance - 0.5 * present * dt_s
    if left <= 0.0:
        return 0.0
    return min(fastest, braking * float(np.sqrt(0.25 * dt_s**2 + 2.0 * left / braking) - 0.5 * dt_s))
