"""The part of the previous chunk that a new one has to agree with (real-time chunking).

While a chunk is computed, the previous one plays on. Rows that will have been executed before the new
chunk arrives are given; rows after them are steered towards the old ones, less and less. Inside the
denoising loop that is one weighted difference per step; weights and strength are those of
:mod:`cosmos3_ros.control.realtime_chunking`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import ActionChunk, frozen_array
from cosmos3_ros.control.realtime_chunking import guidance_weight, weigh_prefix

from .policy import PolicyError
from .sampler import Schedule


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """Rows to agree with, and how firmly.

    :param rows: Shape (rows, channels): the previous chunk in the model's own space, row 0 the state's.
    :param weights: Shape (rows,), 1 given .. 0 free; row 0 is 0, since the state is clean anyway.
    """

    rows: NDArray[np.float64]
    weights: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Check shapes and ranges, freeze the arrays."""
        rows = frozen_array('rows', self.rows, shape=(None, None))
        weights = frozen_array('weights', self.weights, shape=(len(rows),))
        if weights.min() < 0.0 or weights.max() > 1.0 or weights[0] != 0.0:
            raise PolicyError(
                f'prefix: weights {weights.min():.3g}..{weights.max():.3g}, the first {weights[0]:.3g}, '
                'arrived; 0 to 1, the first 0, is allowed')
        object.__setattr__(self, 'rows', rows)
        object.__setattr__(self, 'weights', weights)

    @classmethod
    def from_chunk(
        cls, previous: ActionChunk, stamp_ns: int, delay_s: float, *, execution_horizon: int | None = None,
        decay: str = 'LINEAR',
    ) -> 'Prefix':
        """Return the prefix of a chunk that will stand at ``stamp_ns``.

        Rows are read off the previous chunk at the times at which the new rows are due; where it has
        ended, a row is free.

        :param previous: The chunk being executed.
        :param stamp_ns: The new observation.
        :param delay_s: Expected time from that observation to the new chunk's first command.
        :param execution_horizon: Rows until which the old chunk has any say; None: half of the chunk.
        :param decay: See :func:`weigh_prefix`.
        :raises PolicyError: The new observation is older than the old one.
        :raises ContractError: Too slow for this horizon.
        """
        if stamp_ns < previous.stamp_ns:
            raise PolicyError(
                f'prefix: the new observation is {(previous.stamp_ns - stamp_ns) / 1e9:.3f} s older than the '
                'previous chunk')
        horizon, step_ns = previous.horizon, previous.step_ns
        delay = min(horizon, max(0, int(np.ceil(delay_s * 1e9 / step_ns))))
        limit = max(delay, horizon // 2) if execution_horizon is None else execution_horizon
        weights = weigh_prefix(horizon, delay, limit, decay)
        due = (stamp_ns - previous.stamp_ns) / step_ns + np.arange(horizon)  # in rows of the old chunk
        weights = np.where(due <= horizon - 1, weights, 0.0)
        table = np.column_stack([previous.positions, 1.0 - previous.gripper])
        index = np.arange(horizon)
        rows = np.column_stack([np.interp(due, index, column) for column in table.T])
        return cls(
            np.vstack([np.zeros((1, table.shape[1])), np.where(weights[:, None] > 0.0, rows, 0.0)]),
            np.concatenate([[0.0], weights]))


def pull_per_step(plan: Schedule) -> tuple[float, ...]:
    """Return what the velocity's correction is multiplied by at each step.

    ``blend_clean`` moves the clean estimate ``x - sigma v`` by ``pull W (previous - clean)``, so the
    velocity moves by ``-pull / sigma`` times that, where pull is ``min(sigma g(sigma), 1)``.
    """
    return tuple(min(float(s) * guidance_weight(min(float(s), 1.0)), 1.0) / float(s) for s in plan.sigmas)
