"""Position-dependent velocity limits as straight lines inside them."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.robots import JointLimits

Array = NDArray[np.float64]

# Points per joint at which the envelope is read (1.5 mrad apart), and chords that replace it. Three
# chords lose at most a few percent of the FR3's envelope, and each costs the solver one row per step.
ENVELOPE_SAMPLES = 4000
ENVELOPE_CHORDS = 3


@dataclass(frozen=True, slots=True)
class Chord:
    """The line ``velocity = slope * position + offset`` that bounds a joint's velocity.

    :param upper: True if it bounds from above.
    """

    joint: int
    upper: bool
    slope: float
    offset: float


@dataclass(frozen=True, slots=True, eq=False)
class InscribedEnvelope:
    """Chords, and the range of positions in which they leave room to stand.

    :param lower_rad: Shape (joints,); past it the envelope allows no motion outwards; likewise
        ``upper_rad``.
    """

    chords: tuple[Chord, ...]
    lower_rad: Array
    upper_rad: Array


def inscribe_envelope(limits: JointLimits) -> InscribedEnvelope:
    """Return chords inside the envelope of every joint whose velocity limit depends on its position.

    The envelopes of the FR3 have the form max(0, -o + sqrt(2 d (q* - q))) (libfranka's
    rate_limiting.h), concave in q until they reach zero, so a chord up to there lies inside of them and
    the set below all chords is convex: the solver can hold it exactly and stays feasible. Where an
    envelope reaches zero before the joint's limit does, the position is bounded there.

    :param limits: Limits of the joints; there are no chords without an envelope.
    """
    chords: list[Chord] = []
    lower_rad, upper_rad = np.array(limits.lower_rad), np.array(limits.upper_rad)
    if limits.envelope is None:
        return InscribedEnvelope((), lower_rad, upper_rad)
    grid = np.linspace(limits.lower_rad, limits.upper_rad, ENVELOPE_SAMPLES)
    lower, upper = limits.velocity_bounds(grid)
    for joint, speed in enumerate(limits.velocity_rad_s):
        q = grid[:, joint]
        found, upper_rad[joint] = _inscribe(joint, True, q, upper[:, joint], float(speed))
        chords.extend(found)
        found, lower_rad[joint] = _inscribe(joint, False, q[::-1], -lower[::-1, joint], float(speed))
        chords.extend(found)
    return InscribedEnvelope(tuple(chords), lower_rad, upper_rad)


def _inscribe(joint: int, is_upper: bool, q: Array, bound: Array, speed: float) -> tuple[list[Chord], float]:
    """Return chords of ``bound`` (a speed, falling along ``q``) below ``speed``, and the last position."""
    last = int(np.flatnonzero(bound > 0.0)[-1])
    below = np.flatnonzero(bound < speed * (1.0 - 1e-9))
    if len(below) == 0:
        return [], float(q[last])
    first = max(int(below[0]) - 1, 0)
    # Knots evenly spread over the speed that is lost: the curve bends most where it is slowest.
    levels = np.linspace(bound[first], bound[last], ENVELOPE_CHORDS + 1)
    part = bound[first: last + 1]
    knots = sorted({first + int(np.argmin(np.abs(part - level))) for level in levels} | {first, last})
    sign = 1.0 if is_upper else -1.0
    chords = []
    for i, k in pairwise(knots):
        slope = (bound[k] - bound[i]) / (q[k] - q[i])
        chords.append(Chord(
            joint, is_upper, float(sign * slope), float(sign * (bound[i] - slope * q[i]))))
    return chords, float(q[last])
