"""Joint limits, and the velocity envelope that shrinks towards a joint's end."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ..contracts.arrays import check_names, frozen_array
from .errors import RobotError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class VelocityEnvelope:
    """Position-dependent velocity limits, as the Franka Research 3 enforces them.

    Upper: ``scale * max(0, sqrt(c_up * (stop_up - q)) - o_up)``; lower, mirrored:
    ``-scale * max(0, sqrt(c_lo * (q - stop_lo)) - o_lo)``. Each coefficient has shape (N,); ``c`` is
    twice the braking deceleration in rad/s^2, ``o`` is in rad/s, ``stop`` in rad. Source: libfranka
    ``rate_limiting.h`` (FR3), computeUpperLimitsJointVelocity and computeLowerLimitsJointVelocity.
    """

    offset_upper: FloatArray
    curvature_upper: FloatArray
    stop_upper: FloatArray
    offset_lower: FloatArray
    curvature_lower: FloatArray
    stop_lower: FloatArray
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Check shapes and signs, freeze the arrays."""
        n = len(self.offset_upper)
        for field in fields(self):
            if field.name != 'scale':
                array = frozen_array(field.name, getattr(self, field.name), shape=(n,))
                object.__setattr__(self, field.name, array)
        if (self.curvature_upper <= 0.0).any() or (self.curvature_lower <= 0.0).any():
            raise RobotError('velocity envelope: the curvature (twice the deceleration) must be positive')
        if (self.offset_upper < 0.0).any() or (self.offset_lower < 0.0).any():
            raise RobotError('velocity envelope: the offset must not be negative')
        if (self.stop_lower >= self.stop_upper).any():
            raise RobotError('velocity envelope: the lower stop must lie below the upper one')
        if not 0.0 < self.scale <= 1.0:
            raise RobotError(f'velocity envelope: scale {self.scale:g} arrived, 0 < scale <= 1 is allowed')

    def upper(self, q: FloatArray) -> FloatArray:
        """Return the highest velocity at positions ``q`` (..., N) in rad/s, never negative."""
        root = np.sqrt(np.maximum(self.curvature_upper * (self.stop_upper - q), 0.0))
        return self.scale * np.maximum(root - self.offset_upper, 0.0)

    def lower(self, q: FloatArray) -> FloatArray:
        """Return the lowest velocity at positions ``q`` (..., N) in rad/s, never positive."""
        root = np.sqrt(np.maximum(self.curvature_lower * (q - self.stop_lower), 0.0))
        return -self.scale * np.maximum(root - self.offset_lower, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class JointLimits:
    """Limits of N joints; every array has shape (N,).

    :param names: Joint names.
    :param lower_rad: Lowest position.
    :param upper_rad: Highest position.
    :param velocity_rad_s: Highest speed either way.
    :param acceleration_rad_s2: Highest acceleration either way.
    :param jerk_rad_s3: Highest jerk either way.
    :param effort_nm: Highest effort either way.
    :param effort_rate_nm_s: Highest change of effort either way.
    :param envelope: Position-dependent velocity limits, where the robot enforces some.
    :raises RobotError: Lower not below upper, or a limit that is not positive.
    """

    names: tuple[str, ...]
    lower_rad: FloatArray
    upper_rad: FloatArray
    velocity_rad_s: FloatArray
    acceleration_rad_s2: FloatArray
    jerk_rad_s3: FloatArray
    effort_nm: FloatArray
    effort_rate_nm_s: FloatArray
    envelope: VelocityEnvelope | None = None

    def __post_init__(self) -> None:
        """Check shapes, order and signs, freeze the arrays."""
        names = check_names('names', self.names)
        object.__setattr__(self, 'names', names)
        for field in fields(self)[1:8]:
            array = frozen_array(field.name, getattr(self, field.name), shape=(len(names),))
            object.__setattr__(self, field.name, array)
            if not field.name.endswith('er_rad') and (array <= 0.0).any():
                i = int(np.argmax(array <= 0.0))
                raise RobotError(
                    f'{names[i]}: {field.name} {array[i]:g} arrived, a positive number is needed')
        crossed = self.lower_rad >= self.upper_rad
        if crossed.any():
            i = int(np.argmax(crossed))
            raise RobotError(
                f'{names[i]}: lower position {self.lower_rad[i]:g} rad is not below '
                f'the upper one, {self.upper_rad[i]:g} rad')
        if self.envelope is not None and len(self.envelope.offset_upper) != len(names):
            raise RobotError(
                f'velocity envelope: {len(self.envelope.offset_upper)} joints arrived, '
                f'{len(names)} are needed')

    def velocity_bounds(self, q: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return lowest and highest velocity at positions ``q``.

        :param q: Shape (..., N), radians.
        :return: Lower <= 0 and upper >= 0, each (..., N), rad/s: the constant limit, or the envelope
            where it is tighter.
        """
        q = np.asarray(q, dtype=np.float64)
        if self.envelope is None:
            upper = np.broadcast_to(self.velocity_rad_s, q.shape)
            return -upper, upper
        upper = np.minimum(self.velocity_rad_s, self.envelope.upper(q))
        lower = np.maximum(-self.velocity_rad_s, self.envelope.lower(q))
        return lower, upper
