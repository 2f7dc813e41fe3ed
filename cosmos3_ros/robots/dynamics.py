"""Inverse dynamics from inertial parameters."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import RobotError
from .kinematics import Kinematics

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RigidBody:
    """A mass on a link. Several may ride on one link.

    :param link: 1 to N; what rides on the base needs no effort.
    :param mass_kg: Positive.
    :param com_m: Shape (3,), centre of mass in the link's frame.
    :param inertia_kg_m2: Shape (3, 3), about the centre of mass, axes of the link's frame.
    """

    name: str
    link: int
    mass_kg: float
    com_m: FloatArray
    inertia_kg_m2: FloatArray


class RigidBodyDynamics:
    """Efforts that a rigid arm needs, by d'Alembert's principle over all its mass points.

    Homogeneous 4 x 4 matrices as in Legnani et al. 1996 ("A homogeneous matrix approach to 3D kinematics
    and dynamics"): a link's velocity and acceleration are matrices that map a point to its velocity and
    acceleration, its mass is the pseudo-inertia, the integral of x x^T. All are expressed in the base
    frame, where a serial chain's recursions are running sums, so links and configurations need no loop.
    Rotor inertia and friction are not modelled.

    :param gravity_m_s2: Shape (3,), in the base frame.
    """

    def __init__(
        self, kinematics: Kinematics, bodies: tuple[RigidBody, ...], gravity_m_s2: FloatArray,
    ) -> None:
        n = kinematics.joint_count
        self._kinematics = kinematics
        self.gravity_m_s2 = np.array(gravity_m_s2, dtype=np.float64)
        self.mass_kg = np.zeros(n)
        self.com_m = np.zeros((n, 3))
        self.inertia_kg_m2 = np.zeros((n, 3, 3))
        for body in bodies:
            _check(body, n)
            self.mass_kg[body.link - 1] += body.mass_kg
            self.com_m[body.link - 1] += body.mass_kg * body.com_m
        if (self.mass_kg <= 0.0).any():
            raise RobotError(f'dynamics: link {int(np.argmax(self.mass_kg <= 0.0)) + 1} has no mass')
        self.com_m /= self.mass_kg[:, None]
        for body in bodies:
            # Parallel axes: every body's inertia about the common centre of mass of its link.
            r = body.com_m - self.com_m[body.link - 1]
            shift = body.mass_kg * (r @ r * np.eye(3) - np.outer(r, r))
            self.inertia_kg_m2[body.link - 1] += body.inertia_kg_m2 + shift
        # Pseudo-inertia about the link's origin: tr(I)/2 - I + m c c^T, m c; m c^T, m.
        J = np.zeros((n, 4, 4))
        trace = np.trace(self.inertia_kg_m2, axis1=1, axis2=2)[:, None, None]
        weighted = self.mass_kg[:, None] * self.com_m
        J[:, :3, :3] = trace / 2.0 * np.eye(3) - self.inertia_kg_m2
        J[:, :3, :3] += weighted[:, :, None] * self.com_m[:, None, :]
        J[:, :3, 3] = J[:, 3, :3] = weighted
        J[:, 3, 3] = self.mass_kg
        self._pseudo_inertia = J
        # Root mean square distance of each link's mass from the link's origin, shape (N,).
        self.mass_spread_m = np.sqrt(np.trace(J[:, :3, :3], axis1=1, axis2=2) / self.mass_kg)
        self._moments = J[:, :, 3:].copy()
        self._carried_kg = self.mass_kg[::-1].cumsum()[::-1, None, None].copy()
        gx, gy, gz = self.gravity_m_s2
        # z cross g = z @ this.
        self._across = np.array([[0.0, -gz, gy], [gz, 0.0, -gx], [-gy, gx, 0.0]])
        for array in (self.gravity_m_s2, self.mass_kg, self.com_m, self.inertia_kg_m2, J,
                      self.mass_spread_m, self._moments, self._carried_kg, self._across):
            array.setflags(write=False)

    def effort(self, q: FloatArray, v: FloatArray, a: FloatArray) -> FloatArray:
        """Return the joint efforts for a motion.

        :param q: Shape (..., N), radians; ``v`` in rad/s and ``a`` in rad/s^2 likewise.
        :return: Shape (..., N), N m.
        """
        q = np.asarray(q, dtype=np.float64)
        n = len(self.mass_kg)
        if q.shape[-1:] != (n,) or np.shape(v) != q.shape or np.shape(a) != q.shape:
            raise RobotError(
                f'effort: shapes {q.shape}, {np.shape(v)}, {np.shape(a)} arrived, (..., {n}) each is needed')
        F = self._kinematics.chain(q.reshape(-1, n))[1:]
        K = F.shape[2]
        rates, changes = (np.asarray(x, dtype=np.float64).reshape(K, n).T[..., None, None] for x in (v, a))
        T = np.ascontiguousarray(F.transpose(0, 2, 1, 3))
        # A joint's turn maps x to z cross (x - o): L = [Z | -Z o] with Z = y x^T - x y^T of its axes.
        Q = np.empty((n, K, 2, 4))
        Q[..., :3] = T[..., :2].swapaxes(-1, -2)
        Q[..., 3] = -(Q[..., :3] @ T[..., 3:])[..., 0]
        Q[..., 1, :] *= -1.0
        L = T[..., 1::-1] @ Q
        # Velocity V = sum L v; acceleration H = dV/dt + V V with d(L v)/dt = L a + V L v - L v V.
        Lv = L * rates
        V = Lv.cumsum(axis=0)
        products = V[..., :3] @ np.concatenate((Lv, V), axis=-1)
        H = (L * changes + products[..., :4] - Lv[..., :3] @ V).cumsum(axis=0) + products[..., 4:]
        H[..., 3] -= self.gravity_m_s2
        # The link's mass in the base frame: G = T J T^T.
        TJ = (F.reshape(n, 3 * K, 4) @ self._pseudo_inertia).reshape(n, 3, K, 4).transpose(0, 2, 1, 3)
        G = np.empty((n, K, 4, 4))
        G[..., :3, :3] = TJ @ T.swapaxes(-1, -2)
        G[..., :3, 3] = G[..., 3, :3] = TJ[..., 3]
        G[..., 3, 3] = self.mass_kg[:, None]
        # Joint i moves links i..N: power per joint velocity is the sum of (H G) : L over them.
        carried = (H @ G)[::-1].cumsum(axis=0)[::-1]
        result: FloatArray = np.einsum('nkab,nkab->kn', L, carried)
        return result.reshape(q.shape)

    def gravity(self, q: FloatArray) -> FloatArray:
        """Return the efforts that hold the arm still at ``q`` (..., N), N m."""
        q = np.asarray(q, dtype=np.float64)
        zero = np.zeros_like(q)
        return self.effort(q, zero, zero)

    def chain_gravity(self, F: FloatArray) -> FloatArray:
        """Return the same from frames, (K, N).

        With r the mass moment that joint i carries, about its origin: -g . (z cross r) = r . (z cross g).

        :param F: Frames of K configurations, from ``Kinematics.chain``.
        """
        F = F[1:]
        n, _, K, _ = F.shape
        r = np.matmul(F.reshape(n, 3 * K, 4), self._moments).reshape(n, 3, K)[::-1].cumsum(axis=0)[::-1]
        r = r - self._carried_kg * F[..., 3]
        across = np.matmul(self._across.T, F[..., 2])
        result: FloatArray = (r * across).sum(axis=1).T
        return result


def _check(body: RigidBody, n: int) -> None:
    if not 1 <= body.link <= n:
        raise RobotError(f'inertial {body.name!r}: link {body.link} arrived, 1 to {n} is allowed')
    if body.mass_kg <= 0.0:
        raise RobotError(f'inertial {body.name!r}: mass {body.mass_kg:g} kg arrived, it must be positive')
    moments = np.linalg.eigvalsh(body.inertia_kg_m2)
    if not np.allclose(body.inertia_kg_m2, body.inertia_kg_m2.T) or moments[0] <= 0.0:
        raise RobotError(
            f'inertial {body.name!r}: principal moments {moments.tolist()} kg m^2 arrived, '
            'positive ones are needed')
