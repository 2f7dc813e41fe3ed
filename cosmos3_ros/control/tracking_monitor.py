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
        # Few joints: plain floats are several times faster than arrays here, 500 times a second.
        self._lowest = (hardware.lower_rad - RANGE_TOLERANCE_RAD).tolist()
        self._highest = (hardware.upper_rad + RANGE_TOLERANCE_RAD).tolist()
        self._speeds = self._speed.tolist()
        # A ring: times that no measurement can have mark places without a command.
        self._times = [NO_TIME] * COMMANDS_KEPT
        self._positions = np.zeros((COMMANDS_KEPT, len(names)))
        self._newest = COMMANDS_KEPT - 1
        self.error = np.zeros(len(names))

    def restart(self) -> None:
        """Forget the commands, before a new motion."""
        self._times = [NO_TIME] * COMMANDS_KEPT
        self.error = np.zeros(len(self._names))

    def command(self, now_ns: int, position: Array) -> None:
        """Remember what was commanded; times do not fall."""
        self._newest = newest = (self._newest + 1) % COMMANDS_KEPT
        self._times[newest], self._positions[newest] = now_ns, position

    def find_fault(self, new: JointMeasurement, old: JointMeasurement | None) -> str:
        """Return why ``new`` cannot be a measurement of this arm, or an empty string."""
        position = new.position.tolist()
        if any(not low <= q <= high for q, low, high in zip(
                position, self._lowest, self._highest, strict=True)):
            return self._describe_range(new)
        if any(abs(v) > top for v, top in zip(new.velocity.tolist(), self._speeds, strict=True)):
            return self._describe_speed(new)
        if old is None or new.stamp_ns <= old.stamp_ns:
            return ''
        elapsed_s, jump = (new.stamp_ns - old.stamp_ns) * 1e-9, self._jump
        if any(abs(q - before) > top * elapsed_s + jump for q, before, top in zip(
                position, old.position.tolist(), self._speeds, strict=True)):
            return self._describe_jump(new, old)
        return ''

    def find_error(self, measured: JointMeasurement) -> str:
        """Update ``error`` (measured minus commanded); return the fault past the bound, or ''."""
        nearest = self._find_nearest(measured.stamp_ns)
        if nearest is None:
            return ''
        self.error = measured.position - self._positions[nearest]
        errors = self.error.tolist()
        if max(errors) <= self._bound and min(errors) >= -self._bound:
            # The nearest command is one of those below, so no joint is further off than this.
            return ''
        age = measured.stamp_ns - np.array(self._times)
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

    def _find_nearest(self, stamp_ns: int) -> int | None:
        """Return the place of the command nearest in time; measurements are a few commands old."""
        times, at = self._times, self._newest
        if times[at] == NO_TIME:
            return None
        for _ in range(COMMANDS_KEPT - 1):
            before = at - 1
            # Places count back from the end of the ring by themselves.
            if times[at] <= stamp_ns or times[before] == NO_TIME \
                    or abs(stamp_ns - times[before]) >= times[at] - stamp_ns:
                break
            at = before
        return at

    def _describe_range(self, new: JointMeasurement) -> str:
        hardware = self._hardware
        outside = np.maximum(hardware.lower_rad - new.position, new.position - hardware.upper_rad)
        worst = int(outside.argmax())
        return (
            f'{self._names[worst]} measured at {new.position[worst]:.4f} rad, '
            f'{hardware.lower_rad[worst]:.4f} to {hardware.upper_rad[worst]:.4f} is its range')

    def _describe_speed(self, new: JointMeasurement) -> str:
        worst = int((np.abs(new.velocity) - self._speed).argmax())
        return (
            f'{self._names[worst]} measured at {new.velocity[worst]:.3f} rad/s, '
            f'{self._hardware.velocity_rad_s[worst]:.3f} is its hardware limit')

    def _describe_jump(self, new: JointMeasurement, old: JointMeasurement) -> str:
        elapsed_s = (new.stamp_ns - old.stamp_ns) * 1e-9
        excess = np.abs(new.position - old.position) - self._speed * elapsed_s
        worst = int(excess.argmax())
        return (
            f'{self._names[worst]} measured {new.position[worst] - old.position[worst]:+.4f} rad from '
            f'the sample {elapsed_s * 1e3:.1f} ms before, more than its speed allows by '
            f'{excess[worst]:.4f} rad ({self._jump:g} is tolerated)')
