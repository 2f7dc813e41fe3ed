"""UniPC as plain linear combinations.

For fixed noise levels the solver (UniPC, Zhao et al. 2023: order 2, B2(h), data prediction, lower
order at the end) is linear in the first sample and in the velocities seen so far, so each step is
``x[k+1] = x[0] + sum_j C[k][j] v[j]`` with constants. Four steps at shift 5, as the DROID policy is
sampled, are written down; others are found once by pushing basis vectors through diffusers'
``UniPCMultistepScheduler`` (facts sheet 2b.6).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import frozen_array
from cosmos3_ros.resources import require

from .policy import PolicyError

TRAIN_STEPS = 1000
MOST_STEPS = 50


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """A fixed sampler.

    :param timesteps: What the network is told at each step, 0..999, falling.
    :param sigmas: Share of noise in the sample at each step.
    :param coefficients: Shape (steps, steps), lower triangular: row k makes ``x[k+1]``.
    """

    timesteps: tuple[int, ...]
    sigmas: NDArray[np.float64]
    coefficients: NDArray[np.float64]

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.timesteps)


_FOUR_STEPS = Schedule(
    timesteps=(999, 937, 833, 624),
    sigmas=frozen_array('sigmas', [0.99979985, 0.93726546, 0.83305538, 0.62468731], shape=(4,)),
    coefficients=frozen_array('coefficients', [
        [-0.06253439, 0.0, 0.0, 0.0],
        [-0.02665092, -0.14009354, 0.0, 0.0],
        [-0.02746097, 0.00417683, -0.35182837, 0.0],
        [-0.02746097, 0.00417683, -0.35182837, -0.62468735],
    ], shape=(4, 4)))


@lru_cache(maxsize=32)
def schedule(steps: int, shift: float) -> Schedule:
    """Return the sampler of ``steps`` steps at flow shift ``shift``.

    :raises PolicyError: Steps outside 1..50, or a shift that is not positive.
    """
    if not 1 <= steps <= MOST_STEPS:
        raise PolicyError(f'steps: {steps} arrived, 1 to {MOST_STEPS} is allowed')
    if not 0.0 < shift <= 100.0:
        raise PolicyError(f'shift: {shift} arrived, above 0 to 100 is allowed')
    if (steps, shift) == (4, 5.0):
        return _FOUR_STEPS
    return derive_schedule(steps, shift)


def derive_schedule(steps: int, shift: float) -> Schedule:
    """Find the coefficients by running the scheduler on basis vectors, in float64."""
    torch = require('torch', 'model')
    scheduler = require('diffusers', 'model').UniPCMultistepScheduler(
        num_train_timesteps=TRAIN_STEPS, solver_order=2, solver_type='bh2', predict_x0=True,
        prediction_type='flow_prediction', use_flow_sigmas=True, flow_shift=shift,
        lower_order_final=True, final_sigmas_type='zero')
    # NVIDIA's own schedule; diffusers' default starts from other noise levels.
    scheduler.set_timesteps(steps, sigmas=np.linspace(1.0 - 1.0 / TRAIN_STEPS, 0.0, steps + 1)[:-1])
    basis = torch.eye(steps + 1, dtype=torch.float64)
    sample = basis[:1].clone()
    rows = []
    for k, timestep in enumerate(scheduler.timesteps):
        sample = scheduler.step(basis[k + 1:k + 2], timestep, sample, return_dict=False)[0]
        rows.append(sample[0].numpy().copy())
    table = np.stack(rows)
    if not np.allclose(table[:, 0], 1.0, atol=1e-5):
        raise PolicyError(
            f'steps {steps}, shift {shift}: the solver does not keep the first sample; choose other values')
    return Schedule(
        timesteps=tuple(int(t) for t in scheduler.timesteps),
        sigmas=frozen_array('sigmas', scheduler.sigmas[:-1].double().numpy(), shape=(steps,)),
        coefficients=frozen_array('coefficients', np.tril(table[:, 1:]), shape=(steps, steps)))
