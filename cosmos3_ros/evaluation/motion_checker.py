"""Hold a stream of commands and plans against the limits while it comes: the fuzz's independent witness."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .effort_check import EffortSamples, check_efforts
from .limit_check import CommandLog, check_commands, check_geometry
from .limit_file import CheckedLimits
from .limit_report import LIMITS, LimitReport
from .segment_check import check_segments

Array = NDArray[np.float64]
Stamps = NDArray[np.int64]

# Instants per segment at which speeds of points and clearances of a plan are looked at.
DENSITY = 3


class MotionChecker:
    """Collect the commands of a motion and check them together; check plans at once.

    :param limits: Read from the YAML files by this package's own reader.
    """

    def __init__(self, limits: CheckedLimits) -> None:
        self._limits = limits
        self._report = LimitReport(violations=dict.fromkeys(LIMITS, 0))
        self._stamps: list[int] = []
        self._rows: list[tuple[Array, Array, Array]] = []

    def restart(self) -> None:
        """End the stream: the next command begins a new motion, from rest."""
        self._flush(ends_at_rest=False)
        self._stamps, self._rows = [], []

    def check_command(self, stamp_ns: int, position: Array, velocity: Array, acceleration: Array) -> None:
        """Take one command."""
        self._stamps.append(stamp_ns)
        self._rows.append((position, velocity, acceleration))

    def check_plan(
        self, times_ns: Stamps, position: Array, velocity: Array, acceleration: Array, jerk: Array,
    ) -> None:
        """Check a plan of constant jerk between nodes: exact extrema, and its way through space.

        :param times_ns: Shape (K + 1,); the states (K + 1, N), the jerk (K, N).
        """
        times_s = (times_ns - times_ns[0]).astype(np.float64) * 1e-9
        self._report.merge(check_segments(times_s, position, velocity, acceleration, jerk, self._limits))
        step = np.diff(times_s)[:, None, None]
        s = step * (np.arange(DENSITY) / DENSITY)[None, :, None]
        q0, v0, a0, j = (x[:, None, :] for x in (position[:-1], velocity[:-1], acceleration[:-1], jerk))
        joints = position.shape[1]
        q = (q0 + s * (v0 + s * (a0 / 2.0 + s * j / 6.0))).reshape(-1, joints)
        v, a = (v0 + s * (a0 + s * j / 2.0)).reshape(-1, joints), (a0 + s * j).reshape(-1, joints)
        instants = (times_s[:-1, None] + s[:, :, 0]).ravel()
        report = LimitReport()
        check_geometry(report, q, instants, instants, self._limits)
        check_efforts(report, self._limits, EffortSamples(q, v, a), instants)
        self._report.merge(report)

    @property
    def violations(self) -> Mapping[str, int]:
        """Violations so far by limit; zero is written out for every limit that is checked."""
        self.restart()
        return dict(self._report.violations)

    @property
    def worst_margin(self) -> Mapping[str, float]:
        """Smallest margin so far by limit; negative beyond rounding is a violation."""
        self.restart()
        return {limit: worst.margin for limit, worst in self._report.worst.items()}

    def _flush(self, *, ends_at_rest: bool) -> None:
        if not self._stamps:
            return
        position, velocity, acceleration = (np.stack(column) for column in zip(*self._rows, strict=True))
        stamps = np.array(self._stamps, dtype=np.int64)
        log = CommandLog(self._limits.joint_names, stamps, position, velocity, acceleration)
        self._report.merge(check_commands(log, self._limits, ends_at_rest=ends_at_rest))
