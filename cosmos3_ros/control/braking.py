"""Feasible stops: as fast as the limits allow, or along the plan that is in force anyway."""

import numpy as np
from numpy.typing import NDArray

from .config import MpcWeights
from .mpc import JointBounds, Mpc
from .plan import Plan
from .triple_integrator import Prediction

Array = NDArray[np.float64]

# A stop minimises the sum of squared velocities; the jerk term keeps the QP strictly convex and takes
# the chatter out of the last steps.
STOP_WEIGHTS = MpcWeights(position=1e-6, velocity=1.0, jerk=1e-9, full_weight_fraction=1.0)
# A yielding stop ends where the measured arm comes to rest rather than where the command would.
YIELD_WEIGHTS = MpcWeights(position=1.0, velocity=1e-2, jerk=1e-8, full_weight_fraction=1.0)


class Brake:
    """Plan stops from the commanded state, which is the measured state's only continuous successor.

    The first command of a stop must follow the last command of the motion: a driver that saw the
    command jump to a measured position would itself fault. So a stop starts in the commanded state.
    Where the measured arm deviates (blocked, pushed), the stop ends where the measured arm comes to
    rest, so that it does not go on pressing.

    :param prediction: Grid of the plans.
    :param bounds: Limits of the stops.
    """

    def __init__(self, prediction: Prediction, bounds: JointBounds) -> None:
        self._stop = Mpc(prediction, bounds, STOP_WEIGHTS)
        self._yield = Mpc(prediction, bounds, YIELD_WEIGHTS)
        self._acceleration = bounds.acceleration_rad_s2
        self._lower, self._upper = bounds.lower_rad, bounds.upper_rad
        self._steps = prediction.steps

    def plan(self, kept: Plan, measured: tuple[Array, Array] | None) -> Array | None:
        """Return the jerks (N, joints) of a stop, or None if the solver failed.

        :param kept: What is left of the committed plan.
        :param measured: Position and velocity of an arm that deviates from its command, else None.
        """
        state = kept.state(0)
        still = np.zeros((self._steps, state.shape[1]))
        if measured is None:
            here = np.repeat(state[0][None], self._steps, axis=0)
            return self._stop.solve(state, kept, here, still)
        position, velocity = measured
        # v |v| / 2a: where a joint comes to rest that brakes with all it has.
        rest = position + velocity * np.abs(velocity) / (2.0 * self._acceleration)
        target = np.clip(rest, self._lower, self._upper)
        return self._yield.solve(state, kept, np.repeat(target[None], self._steps, axis=0), still)

    def warm_up(self, kept: Plan) -> None:
        """Set up both solvers."""
        self.plan(kept, None)
        self.plan(kept, (kept.position[0], kept.velocity[0]))
