"""Forward kinematics and Jacobians of a serial arm, batched over configurations."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import RobotError

FloatArray = NDArray[np.float64]


def rotation_rpy(rpy: FloatArray) -> FloatArray:
    """Return the rotation matrix of fixed-axis roll, pitch, yaw (URDF): Rz(yaw) Ry(pitch) Rx(roll)."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy), np.sin(rpy)
    return np.array([
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ])


@dataclass(frozen=True, slots=True)
class SpeedPoint:
    """A point whose speed is limited.

    :param name: E.g. ``tool``.
    :param link: Index of the link it rides on; 0 is the base, i follows joint i.
    :param xyz_m: Position in that link's frame, shape (3,).
    """

    name: str
    link: int
    xyz_m: FloatArray


class Kinematics:
    """A chain of N revolute joints: each a fixed transform from its parent, then a turn about z.

    This form holds both modified Denavit-Hartenberg parameters (Craig, "Introduction to Robotics",
    ch. 3: Rx(alpha) Tx(a) Tz(d), then Rz(theta)) and URDF origins (xyz, rpy). L = N + 1 links.

    :param joint_xyz_m: Shape (N, 3), origin of joint i in the frame of link i - 1.
    :param joint_rpy_rad: Shape (N, 3), its fixed-axis roll, pitch, yaw.
    :param tool_xyz_m: Shape (3,), tool frame in the last link.
    :param tool_rpy_rad: Shape (3,).
    :param points: The speed-limited points.
    """

    def __init__(
        self,
        joint_xyz_m: FloatArray,
        joint_rpy_rad: FloatArray,
        tool_xyz_m: FloatArray,
        tool_rpy_rad: FloatArray,
        points: tuple[SpeedPoint, ...],
    ) -> None:
        xyz = np.array(joint_xyz_m, dtype=np.float64)
        if xyz.ndim != 2 or xyz.shape[1] != 3 or len(xyz) == 0 or np.shape(joint_rpy_rad) != xyz.shape:
            raise RobotError(
                f'kinematics: joint origins of shape {xyz.shape} and {np.shape(joint_rpy_rad)} arrived, '
                '(N, 3) each is needed')
        for point in points:
            if not 0 <= point.link <= len(xyz):
                raise RobotError(
                    f'kinematics: the point {point.name!r} rides on link {point.link}, '
                    f'0 to {len(xyz)} is allowed')
        self.joint_count = len(xyz)
        self.link_count = self.joint_count + 1
        self._offset = np.stack([
            _homogeneous(rotation_rpy(rpy), p)
            for rpy, p in zip(np.asarray(joint_rpy_rad, dtype=np.float64), xyz, strict=True)
        ])
        # [R | p] of the base and of the first link before its turn.
        self._first = np.stack([np.eye(3, 4), self._offset[0, :3]])
        self._tool = _homogeneous(
            rotation_rpy(np.asarray(tool_rpy_rad, dtype=np.float64)),
            np.asarray(tool_xyz_m, dtype=np.float64))
        self.points_on_links = points
        self.point_names = tuple(point.name for point in points)
        self._spots = np.array([[*point.xyz_m, 1.0] for point in points]).reshape(-1, 4)
        self._point_links = np.array([point.link for point in points], dtype=np.intp)
        # Row per point, 1 for the joints before it.
        self._before = (np.arange(self.joint_count) < self._point_links[:, None]).astype(np.float64)
        for array in (self._offset, self._first, self._tool, self._spots, self._point_links, self._before):
            array.setflags(write=False)

    def chain(self, q: FloatArray) -> FloatArray:
        """Return the frames of base and every link in the layout that the fast paths use.

        :param q: Shape (K, N), radians.
        :return: Shape (L, 3, K, 4): row r of [R | p] of link l at configuration k is ``[l, r, k]``.
        """
        K = len(q)
        F = np.empty((self.link_count, 3, K, 4))
        F[:2] = self._first[:, :, None]
        # Turning about z mixes the columns x and y like a product of complex numbers:
        # (x + i y) exp(-i theta) = (x cos + y sin) + i (y cos - x sin).
        xy = F.view(np.complex128)[..., 0]
        turn = np.exp(-1j * q.T)
        xy[1] *= turn[0]
        rows = F.reshape(self.link_count, 3 * K, 4)
        for i in range(1, self.joint_count):
            np.matmul(rows[i], self._offset[i], out=rows[i + 1])
            xy[i + 1] *= turn[i]
        return F

    def forward(self, q: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the frames of base and every link in the base frame.

        :param q: Shape (..., N), radians.
        :return: R (..., L, 3, 3) and p (..., L, 3) in metres.
        :raises RobotError: The last axis of ``q`` is not N.
        """
        flat, batch = self._flatten(q)
        F = self.chain(flat).transpose(2, 0, 1, 3).reshape(*batch, self.link_count, 3, 4)
        return F[..., :3], F[..., 3]

    def tool_pose(self, q: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the tool frame, R (..., 3, 3) and p (..., 3), at ``q`` (..., N)."""
        R, p = self.forward(q)
        R, p = R[..., -1, :, :], p[..., -1, :]
        return R @ self._tool[:3, :3], p + R @ self._tool[:3, 3]

    def points(self, q: FloatArray) -> FloatArray:
        """Return the speed-limited points (..., P, 3) in metres, in the order of ``point_names``."""
        flat, batch = self._flatten(q)
        points = self.chain_points(self.chain(flat))
        return points.transpose(2, 0, 1).reshape(*batch, len(self.points_on_links), 3)

    def chain_points(self, F: FloatArray) -> FloatArray:
        """Return the speed-limited points (P, 3, K) from the frames that ``chain`` returned."""
        frames = F[self._point_links].reshape(len(self._spots), -1, 4)
        points: FloatArray = np.matmul(frames, self._spots[:, :, None]).reshape(-1, 3, F.shape[2])
        return points

    def point_velocities(self, q: FloatArray, v: FloatArray) -> FloatArray:
        """Return how fast the speed-limited points move, (..., P, 3) in m/s.

        The same as ``jacobian(q, point) @ v`` for every point, at about the cost of one.

        :param q: Shape (..., N), radians.
        :param v: Shape (..., N), rad/s.
        """
        flat, batch = self._flatten(q)
        speeds, _ = self._flatten(v)
        velocities = self.chain_velocities(self.chain(flat), speeds)
        return velocities.transpose(2, 0, 1).reshape(*batch, len(self.points_on_links), 3)

    def chain_velocities(self, F: FloatArray, v: FloatArray) -> FloatArray:
        """Return the velocities (P, 3, K) of the speed-limited points from the frames of ``chain``.

        :param v: Shape (K, N), rad/s.
        """
        # Joint i adds z_i v_i x (x - o_i): sums of z v and of z v x o over the joints before the point.
        K, count = len(v), len(self.points_on_links)
        spin, o = F[1:, :, :, 2] * v.T[:, None], F[1:, :, :, 3]
        terms = np.empty((self.joint_count, 2, 3, K))
        terms[:, 0] = spin
        terms[:, 1] = _cross(spin, o)
        sums = self._before @ terms.reshape(self.joint_count, -1)
        w, moment = sums.reshape(count, 2, 3, K).swapaxes(0, 1)
        velocities: FloatArray = _cross(w, self.chain_points(F)) - moment
        return velocities

    def jacobian(self, q: FloatArray, point: str) -> FloatArray:
        """Return the translational geometric Jacobian of a point: column i is z_i x (p - o_i).

        :param q: Shape (..., N), radians.
        :param point: One of ``point_names``.
        :return: Shape (..., 3, N), metres per radian.
        :raises RobotError: Unknown point.
        """
        if point not in self.point_names:
            raise RobotError(f'{point!r} is no point of this robot; it has: {", ".join(self.point_names)}')
        spot = self.points_on_links[self.point_names.index(point)]
        R, p = self.forward(q)
        J = np.zeros((*R.shape[:-3], 3, self.joint_count))
        n = spot.link
        tip = p[..., n, :] + R[..., n, :, :] @ spot.xyz_m
        arm = tip[..., None, :] - p[..., 1:n + 1, :]
        J[..., :n] = np.swapaxes(np.cross(R[..., 1:n + 1, :, 2], arm), -1, -2)
        return J

    def _flatten(self, q: FloatArray) -> tuple[FloatArray, tuple[int, ...]]:
        q = np.asarray(q, dtype=np.float64)
        if q.ndim == 0 or q.shape[-1] != self.joint_count:
            raise RobotError(f'q: shape {q.shape} arrived, (..., {self.joint_count}) is needed')
        return q.reshape(-1, self.joint_count), q.shape[:-1]


def _homogeneous(R: FloatArray, p: FloatArray) -> FloatArray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, p
    return T


def _cross(x: FloatArray, y: FloatArray) -> FloatArray:
    # Cross products along axis 1. Repeating two components makes the cyclic permutations plain slices;
    # numpy.cross costs several times as much on small arrays.
    x = np.concatenate((x, x[:, :2]), axis=1)
    y = np.concatenate((y, y[:, :2]), axis=1)
    product: FloatArray = x[:, 1:4] * y[:, 2:5] - x[:, 2:5] * y[:, 1:4]
    return product
