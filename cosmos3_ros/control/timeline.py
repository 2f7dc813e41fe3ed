"""What shall be followed when: the reference, its clock, the governor's pace and the gripper's rows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import ActionChunk
from cosmos3_ros.robots import Robot

from .admission import AdmittedChunk, ChunkRefused
from .config import ControllerConfig
from .governor import Governor
from .gripper_schedule import GripperSchedule
from .reference import BridgeBound, ChunkSpline, Reference
from .reference_clock import FREE_PACE, PaceProfile, ReferenceClock

Array = NDArray[np.float64]

NOTHING: Array = np.empty(0)
# A bridge adds its motion to the new chunk's: it gets this share of the limits, and the chunk the rest.
BRIDGE_SHARE = 0.5
LONGEST_BRIDGE_S = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Splice:
    """A prepared change of the reference, computed outside of the control loop.

    :param base: The reference that it continues; it fits no other.
    :param start_s: The clock's reading from which it counts.
    """

    base: Reference
    start_s: float
    admitted: AdmittedChunk
    reference: Reference
    profile: PaceProfile
    seam: dict[str, float]


class Timeline:
    """The reference over the node's time. Not thread-safe; the controller holds the lock."""

    def __init__(self, robot: Robot, config: ControllerConfig) -> None:
        self._config = config
        self._step_ns = config.plan_period_ns
        self._steps = config.horizon_steps
        self.governor = Governor(robot, config)
        limits = robot.limits
        self._bound = BridgeBound(
            BRIDGE_SHARE * limits.velocity_rad_s, BRIDGE_SHARE * limits.acceleration_rad_s2, LONGEST_BRIDGE_S)
        self.gripper = GripperSchedule(robot.gripper)
        self.chunk: ActionChunk | None = None
        self.seam: dict[str, float] = {}
        self.restart(robot.home_rad, 0, None)

    def restart(self, position: Array, now_ns: int, gripper: float | None) -> None:
        """Stand still at ``position``; forget all chunks."""
        self.clock = ReferenceClock(now_ns, self._config.clock_slew_per_s)
        self.reference = Reference.hold(position, 0.0, self._config.blend_s)
        self.chunk, self.seam = None, {}
        self._profile = FREE_PACE
        self._readings, self._paces = NOTHING, NOTHING
        self.governor.reset()
        self.gripper.restart(gripper)

    @property
    def newest_stamp_ns(self) -> int | None:
        """Stamp of the newest chunk accepted."""
        return None if self.chunk is None else self.chunk.stamp_ns

    def place(self, chunk: ActionChunk, now_ns: int) -> tuple[float, float, Reference]:
        """Return the clock's reading at the chunk's stamp and now, and the reference to continue.

        While the reference rests nothing is late: the arm stands where the observation saw it, so the
        chunk's first rows are still to be done and the time until its arrival does not count. Otherwise a
        slow policy would have the arm chase a row half a second ahead from standstill, and meet the next
        chunk, which was planned for an arm at rest, in full flight.

        :raises ChunkRefused: The observation is older than the clock's history.
        """
        reading = self.clock.reading_at(chunk.stamp_ns)
        now = self.clock.reading_at(now_ns)
        if reading is None or now is None:
            raise ChunkRefused(
                f'the observation is {(now_ns - chunk.stamp_ns) * 1e-9:.3f} s old, older than the '
                'reference clock remembers')
        if self._rests_at(reading):
            now = reading
        return reading, now, self.reference

    def _rests_at(self, reading_s: float) -> bool:
        """Tell whether the reference has stood still since ``reading_s``."""
        return self.chunk is None or reading_s >= self.reference.end_s

    def prepare(
        self, admitted: AdmittedChunk, reading_s: float, now_s: float, base: Reference,
    ) -> Splice:
        """Build the spline, the splice and its pace; heavy, and free of shared state."""
        step_s = admitted.chunk.step_ns * 1e-9
        spline = ChunkSpline.through(reading_s + step_s, step_s, admitted.rows)
        reference, seam = base.spliced(spline, now_s, self._config.blend_s, self._bound)
        return Splice(base, now_s, admitted, reference, self.governor.profile(reference), seam)

    def warm_up(self, rows: Array) -> None:
        """Do once what :meth:`prepare` does, for rows (H, joints); nothing is changed."""
        spline = ChunkSpline.through(0.0, 0.05, rows)
        reference, _ = self.reference.spliced(spline, 0.0, self._config.blend_s, self._bound)
        self.governor.profile(reference)

    def install(self, splice: Splice, now_ns: int) -> bool:
        """Make ``splice`` the reference; False if the reference has changed meanwhile."""
        if splice.base is not self.reference:
            return False
        if self._rests_at(splice.start_s):
            self.clock.rewind(splice.start_s)
            self._readings, self._paces = NOTHING, NOTHING
        if self.chunk is None:
            self.governor.start_ramp(now_ns)
        self._profile = splice.profile.after(self._profile)
        self.reference, self.seam = splice.reference, splice.seam
        self.chunk = splice.admitted.chunk
        spline = splice.reference.spline
        self.gripper.add(spline.start_s, spline.step_s, self.chunk.gripper)
        return True

    def horizon(self, at_ns: int) -> tuple[Array, Array, Array]:
        """Advance the clock to ``at_ns``; return the reference at the next N planning instants.

        :returns: Position, velocity, acceleration over the node's time, each (N, joints).
        """
        self.clock.advance(at_ns, self._readings, self._paces, self._step_ns)
        self._readings, self._paces = self.clock.predict(
            self._steps, self._step_ns * 1e-9, self.governor.target(at_ns), self._profile)
        q, v, a, _ = self.reference.evaluate(self._readings)
        pace = self._paces[:, None]
        return q, v * pace, a * pace * pace

    def gripper_at(self, now_ns: int) -> float:
        """Return the gripper command for ``now_ns``."""
        reading = self.clock.reading_at(now_ns)
        return self.gripper.value if reading is None else self.gripper.at(reading, now_ns)

    def has_run_out(self) -> bool:
        """Tell whether the reference stands still because no rows are left."""
        return self.chunk is not None and self.clock.reading_s >= self.reference.end_s

    def causes(self, now_ns: int) -> list[str]:
        """Name what slows the reference now."""
        causes = self.governor.causes(now_ns)
        cause = self._profile.cause(self.clock.reading_s)
        return [*causes, cause] if cause else causes
