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
        R, p = self._kinematics.forward(q)
        R, p = R[..., 1:, :, :], p[..., 1:, :]
        z = R[..., 2]
        zv = z * np.asarray(v, dtype=np.float64)[..., None]
        omega = np.cumsum(zv, axis=-2)
        # d/dt (z v) = z a + omega x z v; the joint's own turn does not change its axis.
        alpha = np.cumsum(z * np.asarray(a, dtype=np.float64)[..., None] + _cross(omega, zv), axis=-2)
        # The origin of joint i rides on link i - 1; joint 1's stands still. Gravity acts as -g.
        origin = np.empty_like(p)
        origin[..., 0, :] = -self.gravity_m_s2
        step = np.diff(p, axis=-2)
        w, dw = omega[..., :-1, :], alpha[..., :-1, :]
        origin[..., 1:, :] = _cross(dw, step) + _cross(w, _cross(w, step))
        origin = np.cumsum(origin, axis=-2)
        r = (R @ self.com_m[..., None])[..., 0]
        force = self.mass_kg[:, None] * (origin + _cross(alpha, r) + _cross(omega, _cross(omega, r)))
        inertia = R @ self.inertia_kg_m2 @ np.swapaxes(R, -1, -2)
        spin = (inertia @ omega[..., None])[..., 0]
        moment = (inertia @ alpha[..., None])[..., 0] + _cross(omega, spin) + _cross(p + r, force)
        # What joint i carries is the sum over links i..N; moments are moved from the base to o_i.
        force = np.flip(np.cumsum(np.flip(force, -2), axis=-2), -2)
        moment = np.flip(np.cumsum(np.flip(moment, -2), axis=-2), -2)
        result: FloatArray = np.einsum('...i,...i->...', z, moment - _cross(p, force))
        return result

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


def _cross(x: FloatArray, y: FloatArray) -> FloatArray:
    # numpy.cross moves axes about; for small arrays that costs more than the products.
    x0, x1, x2 = x[..., 0], x[..., 1], x[..., 2]
    y0, y1, y2 = y[..., 0], y[..., 1], y[..., 2]
    return np.stack([x1 * y2 - x2 * y1, x2 * y0 - x0 * y2, x0 * y1 - x1 * y0], axis=-1)
