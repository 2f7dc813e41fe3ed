"""Position-dependent velocity limits as straight lines inside them."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.robots import JointLimits

Array = NDArray[np.float64]

# Points per joint at which the envelope is read, and chords that replace it. Three chords lose at
# most a few percent of the FR3's envelope, and each chord costs the solver one row per step.
ENVELOPE_SAMPLES = 400
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


def inscribe_chords(limits: JointLimits) -> tuple[Chord, ...]:
    """Return chords inside the envelope of every joint whose limit depends on its position.

    The envelopes of the FR3 have the form -o + sqrt(2 d (q* - q)) (libfranka's rate_limiting.h),
    concave in q, so a chord lies inside of them and the set below all chords is convex: the solver
    can hold it exactly and stays feasible.

    :param limits: Limits of the joints; empty without an envelope.
    """
    grid = np.linspace(limits.lower_rad, limits.upper_rad, ENVELOPE_SAMPLES)
    lower, upper = limits.velocity_bounds(grid)
    chords: list[Chord] = []
    for joint, speed in enumerate(limits.velocity_rad_s):
        q = grid[:, joint]
        for is_upper, bound, toward in ((True, upper[:, joint], 1), (False, -lower[:, joint], -1)):
            chords.extend(_chords_of(joint, is_upper, q[::toward], bound[::toward], float(speed)))
    return tuple(chords)


def _chords_of(joint: int, is_upper: bool, q: Array, bound: Array, speed: float) -> list[Chord]:
    """Return chords of ``bound`` (a speed, falling along ``q``) where it is below ``speed``."""
    below = np.flatnonzero(bound < speed * (1.0 - 1e-9))
    if len(below) == 0:
        return []
    first = max(int(below[0]) - 1, 0)
    # Knots evenly spread over the speed that is lost: the curve bends most where it is slowest.
    levels = np.linspace(bound[first], bound[-1], ENVELOPE_CHORDS + 1)
    knots = [first + int(np.argmin(np.abs(bound[first:] - level))) for level in levels]
    knots[0], knots[-1] = first, len(q) - 1
    knots = sorted(set(knots))
    sign = 1.0 if is_upper else -1.0
    chords = []
    for i, k in pairwise(knots):
        slope = (bound[k] - bound[i]) / (q[k] - q[i])
        chords.append(Chord(joint, is_upper, sign * slope, sign * (bound[i] - slope * q[i])))
    return chords
