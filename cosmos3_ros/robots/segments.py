"""Distance between line segments, vectorised."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# Squared length in m^2 below which a segment is a point (1 micrometre).
_POINT = 1e-12
# Sine squared of the angle below which two segments count as parallel: any foot serves then.
_PARALLEL = 1e-12


def segment_distances(p1: FloatArray, d1: FloatArray, p2: FloatArray, d2: FloatArray) -> FloatArray:
    """Return the smallest distance between segments p1 + s d1 and p2 + t d2, 0 <= s, t <= 1.

    Clamped closest points of two segments (method: Ericson, "Real-Time Collision Detection", 5.1.9):
    the best s on the unclamped lines, the best t for that s, and once more the best s for that t.

    :param p1: Shape (n, 3, m): starts; the component is the middle axis, so that sums run over
        contiguous memory. The others likewise.
    :return: Shape (n, m).
    """
    r = p1 - p2
    a = np.einsum('nim,nim->nm', d1, d1) + _POINT
    e = np.einsum('nim,nim->nm', d2, d2) + _POINT
    b = np.einsum('nim,nim->nm', d1, d2)
    c = np.einsum('nim,nim->nm', d1, r)
    f = np.einsum('nim,nim->nm', d2, r)
    area = a * e
    s = (b * f - c * e) / np.maximum(area - b * b, _PARALLEL * area)
    _clamp(s)
    t = (b * s + f) / e
    _clamp(t)
    s = (b * t - c) / a
    _clamp(s)
    w = r + s[:, None] * d1 - t[:, None] * d2
    distance: FloatArray = np.sqrt(np.einsum('nim,nim->nm', w, w))
    return distance


def _clamp(x: FloatArray) -> None:
    # numpy.clip costs several times as much on small arrays.
    np.minimum(np.maximum(x, 0.0, out=x), 1.0, out=x)
