"""Many chunks at once from a checkpoint, for measuring: the policy's sampler over the batched step."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..generator.droid_joint import DOMAIN_ID, ROWS, WIDTH
from ..generator.guidance import Guidance
from ..generator.noise import draw_noise
from ..generator.sampler import Schedule
from ..model.batched_step import BatchedStep, TextContexts
from ..resources import require

torch = require('torch', 'model')


def denoise_batch(
    step: BatchedStep, texts: TextContexts, unconditional: TextContexts, clean: Any,
    states: NDArray[np.float32], plan: Schedule, guidance: Guidance, seeds: Sequence[int], frames: int,
) -> NDArray[np.float32]:
    """Return denoised action rows, float32 (batch, 33, action width); see ``generator.denoise.denoise``.

    A test holds every sample to that function's result.

    :param texts: One per sample.
    :param unconditional: The empty text's, one per sample.
    :param clean: float32 (batch, 48, 1, h, w), the observations.
    :param states: (batch, 8), the clean rows.
    :param seeds: Of each sample's noise.
    :param frames: Latent frames, the observation included.
    """
    width = int(step.transformer.config.action_dim)
    batch, channels, _, height, columns = clean.shape
    shape = (1, channels, frames, height, columns)
    vision0 = torch.cat([torch.from_numpy(draw_noise(s, shape)) for s in seeds]).to(clean.device)
    vision0[:, :, :1] = clean
    action0 = torch.stack([torch.from_numpy(draw_noise(s, (ROWS, width))) for s in seeds]).to(clean.device)
    action0[:, :, WIDTH:] = 0.0
    action0[:, 0, :WIDTH] = torch.from_numpy(states).to(clean.device)
    vision, action = vision0, action0
    domains = torch.full((batch,), DOMAIN_ID, device=clean.device)
    seen: list[tuple[Any, Any]] = []
    with torch.inference_mode():
        for k, timestep in enumerate(plan.timesteps):
            times = torch.full((batch,), float(timestep), device=clean.device)
            velocity = step.velocity(texts, vision, action, times, domains)
            if guidance.active(timestep):
                other = step.velocity(unconditional, vision, action, times, domains)
                velocity = (guidance.combine(velocity[0], other[0]), guidance.combine(velocity[1], other[1]))
            velocity[0][:, :, 0] = 0.0
            velocity[1][:, 0] = 0.0
            velocity[1][:, :, WIDTH:] = 0.0
            seen.append(velocity)
            vision, action = vision0.clone(), action0.clone()
            for weight, (video, rows) in zip(plan.coefficients[k, :k + 1], seen, strict=True):
                vision.add_(video, alpha=float(weight))
                action.add_(rows, alpha=float(weight))
    rows_out: NDArray[np.float32] = action.cpu().numpy()
    return rows_out
