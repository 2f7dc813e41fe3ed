"""Does the arm do what it was told, and is what it reports credible?"""

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import JointMeasurement
from cosmos3_ros.robots import JointLimits

Array = NDArray[np.float64]

# Commands kept for comparison: 1 s at 500 Hz.
COMMANDS_KEPT = 512
# Long before any clock, and far enough from int64's end to be subtracted from.
NO_TIME = -(2**61)
# A joint may stand this far outside of the hardware's range by its own calibration.
RANGE_TOLERANCE_RAD = 0.1
# Measured speeds this much above the hardware's are no speeds.
SPEED_TOLERANCE = 1.5


class TrackingMonitor:
    """Compare measurements with the commands of their time.

    :param names: Joint names.
    :param hardware: Unscaled limits; a measurement far outside of them is wrong.
    :param bound_rad: Largest error.
    :param lag_s: Lag of the arm's servo that is excused: the error is the distance to everything
        that was commanded within this time before the measurement.
    :param jump_rad: Largest unexplained change between two measurements.
    """

    def __init__(
        self, names: tuple[str, ...], hardware: JointLimits, bound_rad: float, lag_s: float,
        jump_rad: float,
    ) -> None:
        self._names = names
        self._hardware = hardware
        self._speed = SPEED_TOLERANCE * hardware.velocity_rad_s
        self._bound = bound_rad
        self._lag_ns = int(lag_s * 1e9)
        self._jump = jump_rad
        # A ring: times that no measurement can have mark places without a command.
        self._times = np.full(COMMANDS_KEPT, NO_TIME, dtype=np.int64)
        self._positions = np.zeros((COMMANDS_KEPT, len(names)))
        self._next = 0
        self.error = np.zeros(len(names))

    def restart(self) -> None:
        """Forget the commands, before a new motion."""
        self._times[:] = NO_TIME
        self.error = np.zeros(len(self._names))

    def command(self, now_ns: int, position: Array) -> None:
        """Remember what was commanded."""
        self._times[self._next], self._positions[self._next] = now_ns, position
        self._next = (self._next + 1) % COMMANDS_KEPT

    def find_fault(self, new: JointMeasurement, old: JointMeasurement | None) -> str:
        """Return why ``new`` cannot be a measurement of this arm, or an empty string."""
        hardware = self._hardware
        outside = np.maximum(hardware.lower_rad - new.position, new.position - hardware.upper_rad)
        if outside.max() > RANGE_TOLERANCE_RAD:
            worst = int(outside.argmax())
            return (
                f'{self._names[worst]} measured at {new.position[worst]:.4f} rad, '
                f'{hardware.lower_rad[worst]:.4f} to {hardware.upper_rad[worst]:.4f} is its range')
        fast = np.abs(new.velocity) - self._speed
        if fast.max() > 0.0:
            worst = int(fast.argmax())
            return (
                f'{self._names[worst]} measured at {new.velocity[worst]:.3f} rad/s, '
                f'{hardware.velocity_rad_s[worst]:.3f} is its hardware limit')
        if old is None or new.stamp_ns <= old.stamp_ns:
            return ''
        elapsed_s = (new.stamp_ns - old.stamp_ns) * 1e-9
        excess = np.abs(new.position - old.position) - self._speed * elapsed_s
        if excess.max() > self._jump:
            worst = int(excess.argmax())
            return (
                f'{self._names[worst]} measured {new.position[worst] - old.position[worst]:+.4f} rad from '
                f'the sample {elapsed_s * 1e3:.1f} ms before, more than its speed allows by '
                f'{excess[worst]:.4f} rad ({self._jump:g} is tolerated)')
        return ''

    def find_error(self, measured: JointMeasurement) -> str:
        """Update ``error`` (measured minus commanded); return the fault past the bound, or ''."""
        age = measured.stamp_ns - self._times
        nearest = int(np.abs(age).argmin())
        if self._times[nearest] == NO_TIME:
            return ''
        self.error = measured.position - self._positions[nearest]
        if np.abs(self.error).max() <= self._bound:
            # The nearest command is one of those below, so no joint is further off than this.
            return ''
        excused = (age >= 0) & (age <= self._lag_ns)
        excused[nearest] = True
        spread = self._positions[excused]
        away = np.maximum(
            measured.position - spread.max(axis=0), spread.min(axis=0) - measured.position)
        worst = int(np.argmax(away))
        if away[worst] <= self._bound:
            return ''
        return (
            f'{self._names[worst]} is {away[worst]:.4f} rad off its command, {self._bound:g} is allowed '
            '(tracking_error_rad)')
