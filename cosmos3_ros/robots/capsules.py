"""Collision capsules around the links and their distances for a whole plan at once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import RobotError
from .kinematics import Kinematics
from .segments import apart, squared_length

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Capsule:
    """All points within ``radius_m`` of a segment.

    :param name: Unique name, e.g. ``link5`` or ``finger_left``.
    :param link: Link that it rides on; 0 is the base.
    :param start_m: One end of the segment in the link's frame, shape (3,).
    :param end_m: The other end.
    """

    name: str
    link: int
    start_m: FloatArray
    end_m: FloatArray
    radius_m: float


class CapsuleModel:
    """The capsules of one robot.

    :param excluded: Pairs of capsule names that are not checked. Capsules of one link never are.
    :raises RobotError: Repeated or unknown names, a link that does not exist, a radius <= 0.
    """

    def __init__(
        self,
        kinematics: Kinematics,
        capsules: tuple[Capsule, ...],
        excluded: frozenset[frozenset[str]],
    ) -> None:
        names = tuple(capsule.name for capsule in capsules)
        if not capsules or len(set(names)) != len(names):
            raise RobotError(f'capsules: {names} arrived, distinct names are needed')
        for capsule in capsules:
            if not 0 <= capsule.link < kinematics.link_count or capsule.radius_m <= 0.0:
                raise RobotError(
                    f'capsule {capsule.name!r}: link {capsule.link} and radius {capsule.radius_m:g} m '
                    f'arrived, link 0 to {kinematics.link_count - 1} and a positive radius are needed')
        for pair in excluded:
            unknown = sorted(pair - set(names))
            if unknown or len(pair) != 2:
                raise RobotError(
                    f'capsules: the excluded pair {sorted(pair)} is not two of {", ".join(names)}')
        self._kinematics = kinematics
        self.link_names = names
        self.links = np.array([capsule.link for capsule in capsules])
        self.radius = np.array([capsule.radius_m for capsule in capsules])
        self.moving = np.flatnonzero(self.links > 0)
        self.pairs = tuple(
            (i, j) for i in range(len(names)) for j in range(i + 1, len(names))
            if self.links[i] != self.links[j] and frozenset((names[i], names[j])) not in excluded)
        self.pair_names = tuple(f'{names[i]}/{names[j]}' for i, j in self.pairs)
        # Rows per link: start points (homogeneous 1) and directions (0) of its capsules, padded.
        width = 2 * int(np.bincount(self.links).max())
        self._local = np.zeros((kinematics.link_count, width, 4))
        starts = np.empty(len(capsules), dtype=np.intp)
        used = [0] * kinematics.link_count
        for k, capsule in enumerate(capsules):
            row = used[capsule.link]
            used[capsule.link] += 2
            self._local[capsule.link, row] = [*capsule.start_m, 1.0]
            self._local[capsule.link, row + 1, :3] = np.subtract(capsule.end_m, capsule.start_m)
            starts[k] = capsule.link * width + row
        self._all_rows = np.concatenate([starts, starts + 1])
        self._moving_rows = np.concatenate([starts[self.moving], starts[self.moving] + 1])
        self.moving_radius = self.radius[self.moving]
        i, j = np.array(self.pairs, dtype=np.intp).reshape(-1, 2).T
        self._pair_rows = np.concatenate([starts[i], starts[j], starts[i] + 1, starts[j] + 1])
        self._radius_sum = (self.radius[i] + self.radius[j])[:, None]
        lengths = squared_length(np.array([np.subtract(c.end_m, c.start_m) for c in capsules]))
        self._pair_lengths = np.stack([lengths[i], lengths[j]])[:, :, None]
        for array in (self.links, self.radius, self.moving, self._radius_sum, self._local, self._all_rows,
                      self._moving_rows, self.moving_radius, self._pair_rows, self._pair_lengths):
            array.setflags(write=False)

    def capsules(self, q: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return both ends and the radii of all capsules.

        :param q: Shape (K, N), radians.
        :return: a (K, C, 3), b (K, C, 3), radius (C,), metres.
        """
        return self._ends(self._world(q))

    def distances(self, q: FloatArray) -> FloatArray:
        """Return the signed surface distance of every pair, (K, pairs) in metres, at ``q`` (K, N).

        Negative means that the capsules overlap.
        """
        return self._pair_distances(self._world(q))

    def distances_and_capsules(
        self, q: FloatArray,
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Return ``distances`` and ``capsules`` (distances, a, b, radius) for one walk along the arm."""
        world = self._world(q)
        return (self._pair_distances(world), *self._ends(world))

    def chain_distances(self, F: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return ``distances`` (K, pairs) and the ends (2, moving, 3, K) of the capsules that move.

        :param F: Frames of K configurations, from ``Kinematics.chain``.
        """
        world = self._transform(F)
        ends = world.take(self._moving_rows, axis=0).reshape(2, len(self.moving), 3, F.shape[2])
        ends[1] += ends[0]
        return self._pair_distances(world), ends

    def _world(self, q: FloatArray) -> FloatArray:
        # Rows of (3 K) numbers: world starts and directions of the capsules, link by link.
        q = np.asarray(q, dtype=np.float64)
        if q.ndim != 2 or q.shape[1] != self._kinematics.joint_count:
            raise RobotError(f'q: shape {q.shape} arrived, (K, {self._kinematics.joint_count}) is needed')
        return self._transform(self._kinematics.chain(q))

    def _transform(self, F: FloatArray) -> FloatArray:
        world: FloatArray = np.matmul(self._local, F.reshape(len(F), -1, 4).transpose(0, 2, 1))
        return world.reshape(-1, 3 * F.shape[2])

    def _ends(self, world: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        both = world.take(self._all_rows, axis=0).reshape(2, len(self.radius), 3, world.shape[1] // 3)
        both[1] += both[0]
        return both[0].transpose(2, 0, 1), both[1].transpose(2, 0, 1), self.radius

    def _pair_distances(self, world: FloatArray) -> FloatArray:
        parts = world.take(self._pair_rows, axis=0).reshape(4, len(self.pairs), 3, world.shape[1] // 3)
        gap = apart(parts[0] - parts[1], parts[2:], self._pair_lengths[0], self._pair_lengths[1])
        gap -= self._radius_sum
        distances: FloatArray = gap.T
        return distances
