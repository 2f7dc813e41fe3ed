"""Forward kinematics and distances of the independent check; shares no code with ``robots/``."""

import numpy as np
from numpy.typing import NDArray

from .limit_file import CheckedLimits

Array = NDArray[np.float64]


def link_poses(limits: CheckedLimits, q: Array) -> Array:
    """Return the pose of the base and of every link, shape (M, N + 1, 4, 4), for ``q`` (M, N)."""
    count, joints = q.shape
    poses = np.empty((count, joints + 1, 4, 4))
    poses[:, 0] = np.eye(4)
    for i in range(joints):
        turn = np.zeros((count, 4, 4))
        cosine, sine = np.cos(q[:, i]), np.sin(q[:, i])
        turn[:, 0, 0], turn[:, 0, 1], turn[:, 1, 0], turn[:, 1, 1] = cosine, -sine, sine, cosine
        turn[:, 2, 2] = turn[:, 3, 3] = 1.0
        poses[:, i + 1] = poses[:, i] @ limits.origins[i] @ turn
    return poses


def place(poses: Array, link: int, point: Array) -> Array:
    """Return a link's point in the base frame, shape (M, 3)."""
    return np.asarray(poses[:, link, :3, :3] @ point + poses[:, link, :3, 3])


def plane_distances(limits: CheckedLimits, poses: Array) -> Array:
    """Return each sample's smallest distance between a moving capsule and a plane, shape (M,)."""
    best = np.full(len(poses), np.inf)
    for capsule in limits.capsules:
        if capsule.link == 0:
            continue
        for end in (capsule.start_m, capsule.end_m):
            point = place(poses, capsule.link, end)
            for row in limits.planes:
                best = np.minimum(best, point @ row[:3] - row[3] - capsule.radius_m)
    return best


def box_distances(limits: CheckedLimits, poses: Array) -> Array:
    """Return each sample's smallest distance of a moving capsule from the workspace box's faces."""
    best = np.full(len(poses), np.inf)
    for capsule in limits.capsules:
        if capsule.link == 0:
            continue
        for end in (capsule.start_m, capsule.end_m):
            point = place(poses, capsule.link, end)
            room = np.minimum(point - limits.box[0], limits.box[1] - point).min(axis=1)
            best = np.minimum(best, room - capsule.radius_m)
    return best


def self_distances(limits: CheckedLimits, poses: Array) -> Array:
    """Return each sample's smallest distance between two capsules that may not touch, shape (M,)."""
    count = len(poses)
    if not limits.pairs:
        return np.full(count, np.inf)
    starts = np.stack([place(poses, c.link, c.start_m) for c in limits.capsules])
    ends = np.stack([place(poses, c.link, c.end_m) for c in limits.capsules])
    radius = np.array([c.radius_m for c in limits.capsules])
    first, second = np.array(limits.pairs).T
    # All pairs at all samples in one call, one row each.
    gap = segment_distance(*(
        points[index].reshape(-1, 3) for index in (first, second) for points in (starts, ends)))
    return np.asarray((gap.reshape(-1, count) - (radius[first] + radius[second])[:, None]).min(axis=0))


def segment_distance(a0: Array, a1: Array, b0: Array, b1: Array) -> Array:
    """Return the distance between segments a0 a1 and b0 b1, arrays of shape (M, 3).

    The squared distance is convex over the unit square of both parameters. Its minimum is the interior
    stationary point where that lies inside the square, and lies on one of the four edges otherwise, where it
    is the distance of an end point from the other segment.
    """
    d, e, r = a1 - a0, b1 - b0, a0 - b0
    dd, ee, de, dr, er = _dot(d, d), _dot(e, e), _dot(d, e), _dot(d, r), _dot(e, r)
    determinant = dd * ee - de * de
    safe = np.where(determinant > 1e-18, determinant, 1.0)
    s, t = (de * er - ee * dr) / safe, (dd * er - de * dr) / safe
    inside = (determinant > 1e-18) & (s >= 0) & (s <= 1) & (t >= 0) & (t <= 1)
    interior = _length(r + s[:, None] * d - t[:, None] * e)
    edges = np.minimum.reduce([
        _point_distance(a0, b0, b1), _point_distance(a1, b0, b1),
        _point_distance(b0, a0, a1), _point_distance(b1, a0, a1)])
    return np.asarray(np.where(inside, np.minimum(interior, edges), edges))


def _point_distance(point: Array, start: Array, end: Array) -> Array:
    """Return the distance of points from segments, shape (M,)."""
    line = end - start
    length = _dot(line, line)
    share = _dot(point - start, line) / np.where(length > 0.0, length, 1.0)
    foot = start + np.clip(share, 0.0, 1.0)[:, None] * line
    return _length(point - foot)


def _dot(x: Array, y: Array) -> Array:
    """Return the inner products of rows, shape (M,)."""
    return np.asarray(np.einsum('mi,mi->m', x, y))


def _length(x: Array) -> Array:
    return np.sqrt(_dot(x, x))
