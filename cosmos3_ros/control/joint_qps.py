"""One small QP per joint, solved by DAQP and started from its last solution."""

from collections.abc import Sequence

import daqp
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

EQUALITY = 5
"""DAQP's constraint sense: active and immutable."""
OPTIMAL = 1


class JointQps:
    """Minimise ``x H x / 2 + g x`` with ``low <= (x, A x) <= high`` for each joint.

    :param hessians: Shape (N, N) each.
    :param rows: A, shape (m, N) each.
    :param equalities: Bounds that are equalities, as places among the N + m.
    """

    def __init__(
        self, hessians: Sequence[Array], rows: Sequence[Array], equalities: Sequence[slice],
    ) -> None:
        self._hessians, self._rows = hessians, rows
        self._sense = []
        for a, equal in zip(rows, equalities, strict=True):
            sense = np.zeros(a.shape[1] + len(a), dtype=np.int32)
            sense[equal] = EQUALITY
            self._sense.append(sense)
        self.restart()

    def restart(self) -> None:
        """Forget all solutions; a joint is set up again when it is solved next."""
        self._models: list[daqp.Model | None] = [None] * len(self._rows)

    def solve(self, joint: int, gradient: Array, high: Array, low: Array) -> Array | None:
        """Return the optimum (N,) of ``joint``, or None if there is none.

        :param high: Shape (N + m,); likewise ``low``.
        """
        model = self._models[joint]
        if model is None:
            self._models[joint] = model = daqp.Model()
            flag, _ = model.setup(
                self._hessians[joint], gradient, self._rows[joint], high.copy(), low.copy(),
                self._sense[joint].copy())
        else:
            flag = model.update(f=gradient, bupper=high, blower=low)
        if flag < 0:
            return None
        x, _, flag, _ = model.solve()
        return x if flag == OPTIMAL else None
