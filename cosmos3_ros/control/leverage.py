"""How far, how fast and how abruptly a joint motion can move a point of the arm."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.robots import Robot

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Leverage:
    """Bounds on the motion of any point of the arm.

    A derivative of a point's position with respect to joints i, j, ... is a chain of cross products
    of unit axes with the arm from the outermost of those joints, so its length is at most that
    joint's lever. Levers fall towards the tool, which turns the sums over index tuples into
    differences of powers of running sums.

    :param levers_m: Shape (joints,), largest distance from joint i's origin to anything it moves.
    :param drops_m: Lever i minus lever i + 1: sums by parts over the outermost joint.
    """

    levers_m: Array
    drops_m: Array

    @classmethod
    def of(cls, robot: Robot) -> 'Leverage':
        """Measure the levers of ``robot``, over its capsules and its speed-limited points."""
        levers = _link_levers(robot).max(axis=0)
        return cls(levers, levers - np.append(levers[1:], 0.0))

    def point_motion(self, speed: Array, acceleration: Array, jerk: Array) -> tuple[Array, Array]:
        """Return the largest acceleration, m/s^2, and jerk, m/s^3, of any point, each of shape (K,).

        :param speed: Shape (K, joints), largest |v|; likewise ``acceleration`` and ``jerk``.
        """
        v, a = speed.cumsum(axis=1), acceleration.cumsum(axis=1)
        squares = v * v
        return (
            acceleration @ self.levers_m + squares @ self.drops_m,
            jerk @ self.levers_m + (v * (3.0 * a + squares)) @ self.drops_m)


def pair_levers(robot: Robot) -> Array:
    """Return (pairs, joints): how far a radian of a joint can move one capsule of a pair against the other.

    Only the joints between the two links change their distance, each by at most the lever of the
    outer capsule.
    """
    of_capsule = _capsule_levers(robot)
    links = robot.collision.links
    levers = np.zeros((len(robot.collision.pairs), len(robot.joint_names)))
    for row, (i, j) in enumerate(robot.collision.pairs):
        inner, outer = (i, j) if links[i] <= links[j] else (j, i)
        levers[row, links[inner]: links[outer]] = of_capsule[outer, links[inner]: links[outer]]
    return levers


def _link_levers(robot: Robot) -> Array:
    """Return (capsules and points, joints): levers, at least the next joint's so that they fall."""
    points = []
    lengths, _ = chain_lengths(robot)
    for point in robot.kinematics.points_on_links:
        row = np.zeros(len(robot.joint_names))
        tip = float(np.linalg.norm(point.xyz_m))
        for joint in range(point.link):
            row[joint] = tip + lengths[joint + 1: point.link].sum()
        points.append(row)
    return np.vstack([_capsule_levers(robot), *points])


def _capsule_levers(robot: Robot) -> Array:
    """Return (capsules, joints): largest distance of a capsule's surface from each joint's origin."""
    lengths, origins = chain_lengths(robot)
    a, b, radius = robot.collision.capsules(robot.home_rad[None])
    levers = np.zeros((len(radius), len(robot.joint_names)))
    for k, link in enumerate(robot.collision.links):
        ends = np.linalg.norm(np.stack([a[0, k], b[0, k]]) - origins[link], axis=1).max() + radius[k]
        for joint in range(int(link)):
            levers[k, joint] = ends + lengths[joint + 1: int(link)].sum()
    return levers


def chain_lengths(robot: Robot) -> tuple[Array, Array]:
    """Return the distance from each link's origin to the one before (constant), and the origins."""
    _, origins = robot.kinematics.forward(robot.home_rad)
    # Entry i is the length from joint i's origin to that of joint i - 1.
    steps = np.linalg.norm(np.diff(origins, axis=0), axis=1)
    return steps, origins
