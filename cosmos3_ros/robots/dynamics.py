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
    """Efforts that a rigid arm needs: Newton-Euler (Luh, Walker, Paul 1980) in the base frame.

    A serial chain's recursions are running sums there, so links need no loop. Rotor inertia and
    friction are not modelled.

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
        for array in (self.gravity_m_s2, self.mass_kg, self.com_m, self.inertia_kg_m2):
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
        # Vectors have the shape (5, ..., N, K): components x, y, z, x, y (see _cross).
        axes = F.transpose(3, 1, 0, 2)
        z, o = _extend(axes[2]), _extend(axes[3])
        zv = z * np.asarray(v, dtype=np.float64).reshape(K, n).T
        za = z[:3] * np.asarray(a, dtype=np.float64).reshape(K, n).T
        omega = zv.cumsum(axis=1)
        # d/dt (z v) = z a + omega x z v; a joint's own turn does not change its axis.
        alpha = _extend((za + _cross(omega, zv)).cumsum(axis=1))
        # Points on link i, seen from its joint: the next joint (none after the last) and the mass.
        arm = np.empty((5, 2, n, K))
        arm[:, 0, :-1] = o[:, 1:] - o[:, :-1]
        arm[:, 0, -1] = 0.0
        com = np.matmul(F[..., :3].reshape(n, 3 * K, 3), self.com_m[:, :, None]).reshape(n, 3, K)
        arm[:3, 1] = com.transpose(1, 0, 2)
        arm[3:, 1] = arm[:2, 1]
        w, dw = omega[:, None], alpha[:, None]
        lever = _cross(dw, arm) + _cross(w, _extend(_cross(w, arm)))
        # The origin of joint i rides on link i - 1; joint 1's stands still. Gravity acts as -g.
        origin = np.empty((3, n, K))
        origin[:, 0] = -self.gravity_m_s2[:, None]
        origin[:, 1:] = lever[:, 0, :-1]
        force = (origin.cumsum(axis=1) + lever[:, 1]) * self.mass_kg[:, None]
        # Euler's equation with the inertia in the link's own axes.
        turning = np.stack([omega[:3], alpha[:3]])
        local = np.einsum('nakb,sank->nbsk', F[..., :3], turning).reshape(n, 3, 2 * K)
        inertial = np.matmul(self.inertia_kg_m2, local).reshape(n, 3, 2, K)
        spin, change = np.einsum('nakb,nbsk->sank', F[..., :3], inertial)
        force = _extend(force)
        moment = change + _cross(omega, _extend(spin)) + _cross(o + arm[:, 1], force)
        # Joint i carries links i..N; moments are moved from the base to its origin.
        force = force[:, ::-1].cumsum(axis=1)[:, ::-1]
        moment = moment[:, ::-1].cumsum(axis=1)[:, ::-1]
        result: FloatArray = np.einsum('ink,ink->kn', z[:3], moment - _cross(o, force))
        return result.reshape(q.shape)

    def gravity(self, q: FloatArray) -> FloatArray:
        """Return the efforts that hold the arm still at ``q`` (..., N), N m."""
        q = np.asarray(q, dtype=np.float64)
        zero = np.zeros_like(q)
        return self.effort(q, zero, zero)


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


def _extend(x: FloatArray) -> FloatArray:
    return np.concatenate((x[:3], x[:2]))


def _cross(x: FloatArray, y: FloatArray) -> FloatArray:
    # Components x, y, z, x, y along the first axis make the cyclic permutations plain slices.
    return x[1:4] * y[2:5] - x[2:5] * y[1:4]
