"""A world without physics: the arm is where it is led, cubes lie still until they are gripped or pushed.

For rows of the expert that nobody has to see: a chunk of 32 costs a tenth of what it costs in
:class:`world.World`. A test holds its chunks to those of the physics.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .configuration import ARM_JOINTS, FINGER_TRAVEL_M, SimulationConfig
from .inverse_kinematics import InverseKinematics, tool_down_quaternion, tool_yaw
from .scene import CUBE_HALF_M
from .snapshot import WorldState
from .world import World

_FINGER_HALF_M = 0.011
"""Half the pads' depth: in pushes with the physics a cube that lies flat before them is 30.9 mm away."""
_PASSED_M = 0.012 + CUBE_HALF_M
"""Half the width of closed fingers and half a cube: farther beside the tool, a cube is passed."""
_BETWEEN_FINGERS_M = 0.02
_ABOVE_CUBES_M = 2 * CUBE_HALF_M + 0.018
"""The fingers end 18.7 mm below the tool."""


class StillWorld:
    """Stands in for a world where geometry is enough. :meth:`copy` comes first.

    :param config: Of the worlds that are copied.
    """

    def __init__(self, config: SimulationConfig) -> None:
        self._speed_m_s = config.gripper_speed_m_s
        self._colours: Sequence[str] = config.cubes
        self._kinematics = InverseKinematics()
        self._cubes: dict[str, NDArray[np.float64]] = {}
        self._zone_xy = np.zeros(2)
        self._joints = np.zeros(len(ARM_JOINTS))
        self._tcp, self._yaw = np.zeros(3), 0.0
        self._finger_m = FINGER_TRAVEL_M
        self._held = ''
        self._time_ns = 0

    def copy(self, world: World) -> None:
        """Start from the present state of ``world``, which is only read."""
        self._cubes = {colour: world.cube_pose(colour) for colour in self._colours}
        self._zone_xy = world.zone_xy
        state = world.state()
        self._joints, self._finger_m, self._time_ns = state.position, state.finger_m, state.stamp_ns
        self._tcp, self._yaw = world.tcp, tool_yaw(world.tcp_rotation)
        self._held = self._gripped() if self._finger_m <= CUBE_HALF_M + 1e-3 else ''

    @property
    def tcp(self) -> NDArray[np.float64]:
        """The tool's position, shape (3,), metres, base frame."""
        return self._tcp.copy()

    @property
    def tcp_rotation(self) -> NDArray[np.float64]:
        """The tool's rotation matrix, shape (3, 3), base frame: it points down."""
        _, x, y, _ = tool_down_quaternion(self._yaw)
        return np.array([
            [x * x - y * y, 2 * x * y, 0.0], [2 * x * y, y * y - x * x, 0.0], [0.0, 0.0, -1.0]])

    @property
    def zone_xy(self) -> NDArray[np.float64]:
        """Middle of the target zone, shape (2,), metres, base frame."""
        return self._zone_xy.copy()

    def cube_pose(self, colour: str) -> NDArray[np.float64]:
        """Position and quaternion (w x y z) of a cube, shape (7,)."""
        return self._cubes[colour].copy()

    def state(self) -> WorldState:
        """Return where the arm is; it has neither velocities nor torques."""
        return WorldState(
            stamp_ns=self._time_ns, position=self._joints.copy(), velocity=np.zeros(len(ARM_JOINTS)),
            effort=np.zeros(len(ARM_JOINTS)), finger_m=self._finger_m, finger_velocity_m_s=0.0,
            gripper=float(np.clip(1.0 - self._finger_m / FINGER_TRAVEL_M, 0.0, 1.0)), tcp=self.tcp)

    def track(self, start: NDArray[np.float64], end: NDArray[np.float64], gripper: float,  # noqa: ARG002
              duration_ns: int) -> None:
        """Put the arm where the path ends, the fingers as far as they get, and cubes where they are taken.

        :param start: Not used: there is no way, only where it leads.
        :param end: Shape (7,), radians.
        """
        before = self._tcp
        self._joints = np.array(end)
        self._tcp, self._yaw = self._kinematics.tool_pose(end)
        self._time_ns += duration_ns
        travel = self._speed_m_s * duration_ns * 1e-9
        wanted = (1.0 - gripper) * FINGER_TRAVEL_M
        finger = self._finger_m + float(np.clip(wanted - self._finger_m, -travel, travel))
        between = self._held or (self._gripped() if self._finger_m >= CUBE_HALF_M else '')
        if between and finger <= CUBE_HALF_M:
            self._held, finger = between, CUBE_HALF_M
        elif self._held and finger > CUBE_HALF_M + 1e-3:
            self._cubes[self._held][2] = CUBE_HALF_M
            self._held = ''
        self._finger_m = finger
        if self._held:
            self._cubes[self._held][:3] += self._tcp - before
        elif self._tcp[2] < _ABOVE_CUBES_M and finger < CUBE_HALF_M:
            # Wider open, they stand around a cube.
            self._push_away(self._tcp[:2] - before[:2])

    def _gripped(self) -> str:
        near = [colour for colour, pose in self._cubes.items()
                if np.linalg.norm(pose[:3] - self._tcp) < _BETWEEN_FINGERS_M]
        return near[0] if near else ''

    def _push_away(self, motion: NDArray[np.float64]) -> None:
        """Move cubes that the fingers would be in, straight ahead: none turns, none slides off."""
        ahead = np.array([np.cos(self._yaw), np.sin(self._yaw)])
        if ahead @ motion < 0.0:
            ahead = -ahead
        beside = np.array([-ahead[1], ahead[0]])
        for pose in self._cubes.values():
            way = pose[:2] - self._tcp[:2]
            turn = self._yaw - 2.0 * np.arctan2(pose[6], pose[3])
            # Half the width of a square seen at that angle.
            reach = _FINGER_HALF_M + CUBE_HALF_M * float(abs(np.cos(turn)) + abs(np.sin(turn)))
            far = float(way @ ahead)
            if 0.0 < far < reach and abs(way @ beside) < _PASSED_M and motion @ ahead > 0.0:
                pose[:2] += ahead * (reach - far)
