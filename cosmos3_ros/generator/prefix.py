"""The part of the previous chunk that a new one has to agree with (real-time chunking).

While a chunk is computed, the previous one plays on. Rows that will have been executed before the new
chunk arrives are given; rows after them are steered towards the old ones, less and less. Inside the
denoising loop that is one weighted difference per step; weights and strength are those of
:mod:`cosmos3_ros.control.realtime_chunking`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import ActionChunk, Observation, frozen_array
from cosmos3_ros.control.realtime_chunking import guidance_weight, weigh_prefix

from .action_contract import ActionContract
from .policy import PolicyError
from .sampler import Schedule


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """Rows to agree with, and how firmly.

    :param rows: Shape (rows, channels): the previous chunk in the model's own space, state rows first.
    :param weights: Shape (rows,), 1 given .. 0 free; of state rows 0, since the state is clean anyway.
    :param state_rows: Rows before the answer that hold the state.
    """

    rows: NDArray[np.float64]
    weights: NDArray[np.float64]
    state_rows: int = 1

    def __post_init__(self) -> None:
        """Check shapes and ranges, freeze the arrays."""
        rows = frozen_array('rows', self.rows, shape=(None, None))
        weights = frozen_array('weights', self.weights, shape=(len(rows),))
        if weights.min() < 0.0 or weights.max() > 1.0 or weights[:self.state_rows].any():
            raise PolicyError(
                f'prefix: weights {weights.min():.3g}..{weights.max():.3g}, the first {weights[0]:.3g}, '
                'arrived; 0 to 1, the first 0, is allowed')
        object.__setattr__(self, 'rows', rows)
        object.__setattr__(self, 'weights', weights)


def continue_chunk(
    contract: ActionContract, previous: ActionChunk, observation: Observation, delay_s: float, *,
    execution_horizon: int | None = None, decay: str = 'LINEAR',
) -> Prefix:
    """Return the prefix of a chunk that will be computed from an observation.

    Positions are read off the previous chunk at the times at which the new rows are due, and written in the
    model's own space; where the previous chunk has ended, a row is free.

    :param contract: What the new chunk speaks.
    :param previous: The chunk being executed.
    :param delay_s: Expected time from the observation to the new chunk's first command. Slower than half of
        the chunk counts as half of it: no row may be given that the new chunk would not outlive.
    :param execution_horizon: Rows until which the old chunk has any say; None: half of the chunk.
    :param decay: See :func:`weigh_prefix`.
    :raises PolicyError: The observation is older than the previous chunk, or the chunk is of other joints.
    :raises ContractError: An execution horizon that leaves no overlap.
    """
    if previous.joint_names != contract.joint_names:
        raise PolicyError(
            f'prefix: the previous chunk moves {", ".join(previous.joint_names)}, this policy '
            f'{", ".join(contract.joint_names)}')
    layout, stamp_ns = contract.layout, observation.stamp_ns
    if stamp_ns < previous.stamp_ns:
        raise PolicyError(
            f'prefix: the new observation is {(previous.stamp_ns - stamp_ns) / 1e9:.3f} s older than the '
            'previous chunk')
    horizon = layout.horizon
    delay = min(horizon // 2, max(0, int(np.ceil(delay_s * 1e9 / layout.step_ns))))
    limit = max(delay, horizon // 2) if execution_horizon is None else execution_horizon
    weights = weigh_prefix(horizon, delay, limit, decay)
    # When the new rows are due, counted in rows of the old chunk.
    ahead_ns = stamp_ns - previous.stamp_ns + layout.step_ns * (np.arange(horizon) + 1)
    due = ahead_ns / previous.step_ns - 1.0
    weights = np.where(due <= previous.horizon - 1, weights, 0.0)
    index = np.arange(previous.horizon)
    table = np.column_stack([previous.positions, previous.gripper])
    timed = np.column_stack([np.interp(due, index, column) for column in table.T])
    rows = contract.write(timed[:, :-1], timed[:, -1], observation)
    given = np.where(weights[:, None] > 0.0, rows, 0.0)
    return Prefix(
        np.vstack([np.zeros((layout.state_rows, given.shape[1])), given]),
        np.concatenate([np.zeros(layout.state_rows), weights]), layout.state_rows)


def pull_per_step(plan: Schedule) -> tuple[float, ...]:
    """Return what the velocity's correction is multiplied by at each step.

    ``blend_clean`` moves the clean estimate ``x - sigma v`` by ``pull W (previous - clean)``, so the
    velocity moves by ``-pull / sigma`` times that, where pull is ``min(sigma g(sigma), 1)``.
    """
    return tuple(min(float(s) * guidance_weight(min(float(s), 1.0)), 1.0) / float(s) for s in plan.sigmas)
