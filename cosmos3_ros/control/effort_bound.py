"""A cheap upper bound of the efforts of a plan, so that the exact inverse dynamics is rarely needed.

With x a point of the arm, the effort of joint i is the integral of x_i . (x'' - g) over the mass that it
moves (d'Alembert), where x_i = dx/dq_i = z_i cross (x - o_i). A derivative of x by joints i, j, ... is a
chain of cross products of unit axes with the arm from the outermost of them, l, hence no longer than
|x - o_l| (as in :mod:`.leverage`). The integral of |x - o_i| |x - o_l| over link k is at most
m_k r_ki r_kl (Cauchy-Schwarz), r_ki being the root mean square distance of its mass from o_i: at most
that from o_k plus the lengths of the chain between (Minkowski). With A_il the sum of m_k r_ki r_kl over
the links that both joints move, s the running sum of |v| over the joints, b that of |a|, and D the
difference to the joint before,

    |effort_i - gravity_i|        <=  sum_l A_il (|a_l| + D[s^2]_l)
    |d(effort_i - gravity_i)/dt|  <=  sum_l A_il (|j_l| + D[s (3 b + s^2)]_l + s_N (|a_l| + D[s^2]_l))

the last term because |dx_i/dt| <= |x - o_i| s_N. The gravity is exact.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.robots import RigidBodyDynamics, Robot

from .leverage import chain_lengths

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class EffortBound:
    """Bounds on effort and effort rate between the nodes of a motion.

    :param dynamics: For gravity.
    :param inertia_kg_m2: The matrix A, shape (joints, joints).
    :param drops_kg_m2: Row l of A minus row l + 1: D moved from the sums to the matrix.
    """

    dynamics: RigidBodyDynamics
    inertia_kg_m2: Array
    drops_kg_m2: Array

    @classmethod
    def of(cls, robot: Robot) -> 'EffortBound | None':
        """Return the bound of ``robot``, None without inertial parameters."""
        dynamics = robot.dynamics
        if dynamics is None:
            return None
        lengths, _ = chain_lengths(robot)
        spread = dynamics.mass_spread_m
        count = len(spread)
        arms = np.zeros((count, count))
        for link in range(count):
            for joint in range(link + 1):
                arms[link, joint] = spread[link] + lengths[joint + 1: link + 1].sum()
        inertia = arms.T @ (dynamics.mass_kg[:, None] * arms)
        return cls(dynamics, inertia, inertia - np.vstack([inertia[1:], np.zeros((1, count))]))

    def effort_and_change(
        self, frames: Array, speed: Array, acceleration: Array, jerk: Array, step_s: float,
    ) -> tuple[Array, Array]:
        """Return the largest |effort|, N m, and |change of effort| per second, of every segment.

        :param frames: Of the K + 1 nodes, from ``Kinematics.chain``.
        :param speed: Shape (K, joints), largest |v| of the segment; ``acceleration``, ``jerk`` likewise.
        :return: Both of shape (K, joints).
        """
        gravity = self.dynamics.chain_gravity(frames)
        size = np.abs(gravity)
        s, b = speed.cumsum(axis=1), acceleration.cumsum(axis=1)
        squares, total = s * s, s[:, -1:]
        effort = acceleration @ self.inertia_kg_m2
        effort += squares @ self.drops_kg_m2
        rate = total * effort
        effort += np.maximum(size[:-1], size[1:])
        rate += jerk @ self.inertia_kg_m2
        rate += (s * (3.0 * b + squares)) @ self.drops_kg_m2
        rate += np.abs(gravity[1:] - gravity[:-1]) / step_s
        return effort, rate

    def largest(
        self, frames: Array, speed: Array, acceleration: Array, jerk: Array, step_s: float,
    ) -> tuple[Array, Array]:
        """Return bounds of both over a whole motion, (joints,) each; never below those of a segment.

        :param frames: Of the K + 1 nodes, from ``Kinematics.chain``.
        :param speed: Shape (joints,), largest |v| of the motion; ``acceleration``, ``jerk`` likewise.
        """
        gravity = self.dynamics.chain_gravity(frames)
        s, b = speed.cumsum(), acceleration.cumsum()
        squares = s * s
        effort = acceleration @ self.inertia_kg_m2 + squares @ self.drops_kg_m2
        rate = s[-1] * effort + jerk @ self.inertia_kg_m2 + (s * (3.0 * b + squares)) @ self.drops_kg_m2
        return (
            effort + np.abs(gravity).max(axis=0),
            rate + np.abs(gravity[1:] - gravity[:-1]).max(axis=0) / step_s)
