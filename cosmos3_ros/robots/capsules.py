"""Collision capsules around the links and their distances for a whole plan at once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import RobotError
from .kinematics import Kinematics
from .segments import segment_distances

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
        self._first = np.array([i for i, _ in self.pairs], dtype=np.intp)
        self._second = np.array([j for _, j in self.pairs], dtype=np.intp)
        self._radius_sum = self.radius[self._first] + self.radius[self._second]
        # Columns per link: start points, then directions, of its capsules; padded to equal width.
        width = max(np.bincount(self.links))
        self._local = np.zeros((kinematics.link_count, 3, 2 * width))
        self._column = np.empty(len(capsules), dtype=np.intp)
        used = [0] * kinematics.link_count
        for k, capsule in enumerate(capsules):
            column = used[capsule.link]
            used[capsule.link] += 1
            self._column[k] = column
            self._local[capsule.link, :, column] = capsule.start_m
            self._local[capsule.link, :, width + column] = np.subtract(capsule.end_m, capsule.start_m)
        self._width = width
        for array in (self.links, self.radius, self.moving, self._first, self._second,
                      self._radius_sum, self._local, self._column):
            array.setflags(write=False)

    def segments(self, q: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return start points and directions, each (C, 3, K) in metres, at ``q`` (K, N)."""
        q = np.asarray(q, dtype=np.float64)
        if q.ndim != 2 or q.shape[1] != self._kinematics.joint_count:
            raise RobotError(f'q: shape {q.shape} arrived, (K, {self._kinematics.joint_count}) is needed')
        R, p = self._kinematics.chain(q)
        L, _, K, _ = R.shape
        world = (R.reshape(L, 3 * K, 3) @ self._local).reshape(L, 3, K, 2 * self._width)
        start = world[self.links, :, :, self._column] + p[self.links]
        return start, world[self.links, :, :, self._width + self._column]

    def capsules(self, q: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return both ends and the radii of all capsules.

        :param q: Shape (K, N), radians.
        :return: a (K, C, 3), b (K, C, 3), radius (C,), metres.
        """
        start, direction = self.segments(q)
        return start.transpose(2, 0, 1), (start + direction).transpose(2, 0, 1), self.radius

    def distances(self, q: FloatArray) -> FloatArray:
        """Return the signed surface distance of every pair, (K, pairs) in metres, at ``q`` (K, N).

        Negative means that the capsules overlap.
        """
        return self.pair_distances(*self.segments(q))

    def pair_distances(self, start: FloatArray, direction: FloatArray) -> FloatArray:
        """Return the same from ``segments``, for callers that need those anyway."""
        i, j = self._first, self._second
        gap = segment_distances(start[i], direction[i], start[j], direction[j])
        return gap.T - self._radius_sum
