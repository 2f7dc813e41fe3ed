"""Closed-form real-time chunking: steer a chunk under denoising to agree with the one being executed.

Real-time chunking (Black, Galliker, Levine: Real-Time Execution of Action Chunking Flow Policies, 2025)
guides the denoiser towards the part of the previous chunk that will be executed anyway. In the form that
LeRobot ships, the correction is not differentiated through the network (its autograd sees an identity), so
it is one weighted difference per denoising step and needs neither gradients nor a change of the network.

For flow matching with time t from 1 (noise) to 0 (clean), x_t = (1 - t) x_0 + t noise, a step is

    x_0 = x_t - t v,   error = W (previous - x_0),   v' = v - g(t) error,
    g = min(c * r, g_max),   tau = 1 - t,   c = (1 - tau) / tau,   r = ((1 - tau)^2 + tau^2) / (1 - tau)^2.
"""

import math

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import ContractError

from .config import PREFIX_SCHEDULES

Array = NDArray[np.float64]

DEFAULT_MAX_GUIDANCE = 10.0
"""LeRobot's default, found best there for ten flow steps."""


def weigh_prefix(horizon: int, delay: int, execution_horizon: int, schedule: str = 'LINEAR') -> Array:
    """Return the weights W (horizon,): how firmly each row is tied to the previous chunk.

    Rows before ``delay`` will have been executed before the new chunk arrives: weight 1. Rows from
    ``execution_horizon`` on are free: weight 0. Between them the schedule decays.

    :param horizon: Rows of a chunk, H.
    :param delay: Rows that pass during inference, d = ceil(latency / step).
    :param execution_horizon: s, with d <= s <= H - d.
    :param schedule: ``LINEAR``: falls in equal steps from row d to row s; ``EXP``: w expm1(w) / (e - 1) of
        that; ``ONES``: 1 up to s; ``ZEROS``: 0 from d on.
    :raises ContractError: Numbers that leave no overlap, or an unknown schedule.
    """
    if schedule not in PREFIX_SCHEDULES:
        raise ContractError(f"schedule: '{schedule}' arrived, {', '.join(PREFIX_SCHEDULES)} is allowed")
    if not 0 <= delay <= execution_horizon <= horizon - delay:
        raise ContractError(
            f'delay {delay}, execution_horizon {execution_horizon}, horizon {horizon} arrived; '
            '0 <= delay <= execution_horizon <= horizon - delay is needed (a faster engine, fewer denoising '
            'steps or a longer horizon)')
    row = np.arange(horizon)
    linear = np.clip((execution_horizon - row) / (execution_horizon - delay + 1.0), 0.0, 1.0)
    shape = {
        'LINEAR': linear,
        'EXP': linear * np.expm1(linear) / math.expm1(1.0),
        'ONES': (row < execution_horizon).astype(np.float64),
        'ZEROS': np.zeros(horizon),
    }[schedule]
    return np.where(row < delay, 1.0, np.where(row < execution_horizon, shape, 0.0))


def guidance_weight(time: float, maximum: float = DEFAULT_MAX_GUIDANCE) -> float:
    """Return g at flow time ``time``, 1 (noise) to 0 (clean); it grows towards noise and is capped.

    :raises ContractError: A time outside of 0..1 or a negative cap.
    """
    if not 0.0 <= time <= 1.0 or not maximum >= 0.0:
        raise ContractError(f'time {time} and maximum {maximum} arrived; 0..1 and 0 or more are allowed')
    tau = 1.0 - time
    # c r, with the factors that cancel taken out; it diverges at pure noise and at the clean end.
    product = time * tau
    return maximum if product == 0.0 else min((time * time + tau * tau) / product, maximum)


def correct_velocity(
    velocity: Array, sample: Array, previous: Array, weights: Array, time: float,
    maximum: float = DEFAULT_MAX_GUIDANCE,
) -> Array:
    """Return the guided velocity v' of one denoising step.

    :param velocity: Shape (H, D), the network's output at ``sample``.
    :param sample: Shape (H, D), x_t.
    :param previous: Shape (H, D), the previous chunk from the new chunk's first row on, in the model's
        own space, padded with zeros where it has ended.
    :param weights: Shape (H,), see :func:`weigh_prefix`.
    :param time: Flow time t of the step.
    :raises ContractError: Shapes do not fit.
    """
    if velocity.shape != sample.shape or previous.shape != sample.shape or weights.shape != sample.shape[:1]:
        raise ContractError(
            f'velocity {velocity.shape}, sample {sample.shape}, previous {previous.shape} and weights '
            f'{weights.shape} arrived; three times (H, D) and (H,) are needed')
    clean = sample - time * velocity
    error = weights[:, None] * (previous - clean)
    return np.asarray(velocity - guidance_weight(time, maximum) * error)


def align_previous(positions: Array, elapsed_rows: int) -> Array:
    """Return the previous chunk (H, D) as the new one's rows see it, zero where it has ended."""
    rows = np.zeros_like(positions)
    left = positions[max(0, elapsed_rows):]
    rows[: len(left)] = left
    return rows


def blend_clean(clean: Array, previous: Array, weights: Array, time: float, maximum: float = 1.0) -> Array:
    """Return the guided clean estimate x_0, for samplers that work on it (UniPC, predict_x0).

    v' = v - g error moves x_0 = x_t - t v by t g error, here capped at the whole error so that a step never
    passes the previous chunk.

    :param clean: Shape (H, D), x_0 of this step.
    """
    pull = min(time * guidance_weight(time, DEFAULT_MAX_GUIDANCE), maximum)
    return np.asarray(clean + pull * weights[:, None] * (previous - clean))
