"""Distance between line segments, vectorised."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# Squared length in m^2 below which a segment is a point (1 micrometre).
_POINT = 1e-12
# Sine squared of the angle below which two segments count as parallel: any foot serves then.
_PARALLEL = 1e-12


def squared_length(d: FloatArray) -> FloatArray:
    """Return the squared lengths that :func:`apart` needs, of directions (..., 3), metres^2, never zero."""
    length: FloatArray = (np.asarray(d) ** 2).sum(axis=-1) + _POINT
    return length


def segment_distances(p1: FloatArray, d1: FloatArray, p2: FloatArray, d2: FloatArray) -> FloatArray:
    """Return the smallest distance between segments p1 + s d1 and p2 + t d2, 0 <= s, t <= 1.

    :param p1: Shape (n, 3, m): starts; the component is the middle axis, so that sums run over
        contiguous memory. The others likewise.
    :return: Shape (n, m).
    """
    d = np.stack([d1, d2])
    lengths = np.einsum('xnim,xnim->xnm', d, d) + _POINT
    return apart(p1 - p2, d, lengths[0], lengths[1])


def apart(r: FloatArray, d: FloatArray, a: FloatArray, e: FloatArray) -> FloatArray:
    """Return the same from what a caller may know already.

    Clamped closest points of two segments (method: Ericson, "Real-Time Collision Detection", 5.1.9):
    the best s on the unclamped lines, the best t for that s, and once more the best s for that t.

    :param r: Shape (n, 3, m), start of the first segment seen from that of the second.
    :param d: Shape (2, n, 3, m), directions of both.
    :param a: Squared length of the first, see :func:`squared_length`; anything that broadcasts to (n, m).
    :param e: Squared length of the second.
    """
    c, f = np.einsum('xnim,nim->xnm', d, r)
    b = np.einsum('nim,nim->nm', d[0], d[1])
    area = a * e
    s = (b * f - c * e) / np.maximum(area - b * b, _PARALLEL * area)
    _clamp(s)
    t = (b * s + f) / e
    _clamp(t)
    s = (b * t - c) / a
    _clamp(s)
    w = r + s[:, None] * d[0] - t[:, None] * d[1]
    distance: FloatArray = np.sqrt(np.einsum('nim,nim->nm', w, w))
    return distance


def _clamp(x: FloatArray) -> None:
    # numpy.clip costs several times as much on small arrays.
    np.minimum(np.maximum(x, 0.0, out=x), 1.0, out=x)
