"""The denoising loop, the same for every backend that runs the network itself."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.resources import require

from .droid_joint import ROWS, WIDTH
from .guidance import Guidance
from .noise import draw_noise
from .prefix import Prefix, pull_per_step
from .sampler import Schedule

torch = require('torch', 'model')


class Branch(Protocol):
    """The network with one text."""

    def velocity(self, vision: Any, action: Any, timestep: int, *, want_video: bool) -> tuple[Any, Any]:
        """Return velocities of video (1, 48, T, h, w) and actions (33, 64), float32.

        :param want_video: False lets the network leave the video's out; it is then not used.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What a chunk is computed from, once text and pictures are behind it.

    :param clean_latent: float32 (1, 48, 1, h, w): the observation.
    :param state: float32 (8,): the clean first row.
    :param frames: Latent frames, the observation included.
    :param action_width: Padded width of an action row.
    :param prefix: What the chunk has to agree with, if anything.
    """

    clean_latent: Any
    state: NDArray[np.float32]
    frames: int
    action_width: int
    seed: int
    prefix: Prefix | None = None


def first_sample(request: Request) -> tuple[Any, Any]:
    """Return noisy video and actions with the clean frame, the clean row and the padding in place."""
    _, channels, _, height, width = request.clean_latent.shape
    device = request.clean_latent.device
    vision = torch.from_numpy(draw_noise(request.seed, (1, channels, request.frames, height, width)))
    vision = vision.to(device)
    vision[:, :, :1] = request.clean_latent
    action = torch.from_numpy(draw_noise(request.seed, (ROWS, request.action_width)))
    action[:, WIDTH:] = 0.0
    action[0, :WIDTH] = torch.from_numpy(request.state)
    return vision, action.to(device)


def denoise(
    conditional: Branch, unconditional: Branch, request: Request, plan: Schedule, guidance: Guidance,
) -> NDArray[np.float32]:
    """Return the denoised action rows, float32 (33, action width); row 0 is the state.

    Samples stay float32 whatever the network computes in.
    """
    with torch.inference_mode():
        return _denoise(conditional, unconditional, request, plan, guidance)


def _denoise(
    conditional: Branch, unconditional: Branch, request: Request, plan: Schedule, guidance: Guidance,
) -> NDArray[np.float32]:
    vision0, action0 = first_sample(request)
    vision, action = vision0, action0
    pulls = pull_per_step(plan)
    seen: list[tuple[Any, Any]] = []
    for step, timestep in enumerate(plan.timesteps):
        more = step + 1 < plan.steps  # the last video is not decoded, so not computed
        v_vision, v_action = conditional.velocity(vision, action, timestep, want_video=more)
        if guidance.active(timestep):
            u_vision, u_action = unconditional.velocity(vision, action, timestep, want_video=more)
            v_vision, v_action = guidance.combine(v_vision, u_vision), guidance.combine(v_action, u_action)
        # What is clean stays clean: its velocity is zero.
        v_vision[:, :, 0] = 0.0
        v_action[0] = 0.0
        v_action[:, WIDTH:] = 0.0
        if request.prefix is not None:
            v_action = _steer(v_action, action, request.prefix, float(plan.sigmas[step]), pulls[step])
        seen.append((v_vision, v_action))
        weights = [float(c) for c in plan.coefficients[step, :step + 1]]
        action = _combine(action0, [v[1] for v in seen], weights)
        if more:
            vision = _combine(vision0, [v[0] for v in seen], weights)
    rows: NDArray[np.float32] = action.cpu().numpy()
    return rows


def _steer(velocity: Any, sample: Any, prefix: Prefix, sigma: float, pull: float) -> Any:
    weights = torch.from_numpy(prefix.weights.copy()).to(sample)[:, None]
    rows = torch.nn.functional.pad(
        torch.from_numpy(prefix.rows.copy()).to(sample), (0, sample.shape[1] - prefix.rows.shape[1]))
    return velocity - pull * weights * (rows - (sample - sigma * velocity))


def _combine(start: Any, velocities: list[Any], weights: list[float]) -> Any:
    total = start.clone()
    for velocity, weight in zip(velocities, weights, strict=True):
        total.add_(velocity, alpha=weight)
    return total
