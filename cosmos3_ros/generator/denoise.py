"""The denoising loop, the same for every backend that runs the network itself."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.resources import require

from .action_layout import ActionLayout
from .droid_joint import LAYOUT
from .guidance import Guidance
from .noise import draw_noise
from .policy import PolicyError
from .prefix import Prefix, pull_per_step
from .sampler import Schedule

torch = require('torch', 'model')


class Branch(Protocol):
    """The network with one text."""

    def velocity(self, vision: Any, action: Any, timestep: int, *, want_video: bool) -> tuple[Any, Any]:
        """Return velocities of video (1, 48, T, h, w) and actions (rows, 64), float32.

        :param want_video: False lets the network leave the video's out; it is then not used.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What a chunk is computed from, once text and pictures are behind it.

    :param clean_latent: float32 (1, 48, given frames, h, w): the observation, or the whole video.
    :param state: float32 (given rows, width), or (width,) where one row is given.
    :param frames: Latent frames, the given ones included.
    :param action_width: Padded width of an action row.
    :param prefix: What the chunk has to agree with, if anything.
    :param layout: The action contract and the mode.
    """

    clean_latent: Any
    state: NDArray[np.float32]
    frames: int
    action_width: int
    seed: int
    prefix: Prefix | None = None
    layout: ActionLayout = LAYOUT

    @property
    def clean_frames(self) -> int:
        """Latent frames that are given."""
        return self.frames if self.layout.mode == 'inverse_dynamics' else 1

    @property
    def given_rows(self) -> NDArray[np.float32]:
        """The given rows, float32 (given rows, width)."""
        rows: NDArray[np.float32] = self.state.reshape(-1, self.layout.width)
        if len(rows) != self.layout.clean_rows:
            raise PolicyError(
                f'request: {len(rows)} action rows are given, {self.layout.clean_rows} are needed in the '
                'mode '
                f'{self.layout.mode}')
        return rows


def first_sample(request: Request) -> tuple[Any, Any]:
    """Return noisy video and actions with what is given, and the padding, in place."""
    _, channels, _, height, width = request.clean_latent.shape
    device, layout = request.clean_latent.device, request.layout
    vision = torch.from_numpy(draw_noise(request.seed, (1, channels, request.frames, height, width)))
    vision = vision.to(device)
    vision[:, :, :request.clean_frames] = request.clean_latent
    action = torch.from_numpy(draw_noise(request.seed, (layout.rows, request.action_width)))
    action[:, layout.width:] = 0.0
    action[:layout.clean_rows, :layout.width] = torch.from_numpy(request.given_rows.copy())
    return vision, action.to(device)


def denoise(
    conditional: Branch, unconditional: Branch, request: Request, plan: Schedule, guidance: Guidance,
) -> NDArray[np.float32]:
    """Return the denoised action rows, float32 (rows, action width); given rows come back as they are.

    Samples stay float32 whatever the network computes in.
    """
    rows: NDArray[np.float32] = denoise_both(
        conditional, unconditional, request, plan, guidance)[1].cpu().numpy()
    return rows


def denoise_both(
    conditional: Branch, unconditional: Branch, request: Request, plan: Schedule, guidance: Guidance,
) -> tuple[Any, Any]:
    """Return the latents (1, 48, T, h, w) and the action rows, both float32 on the device.

    The latents of noisy frames are finished only where the request's mode asks for video.
    """
    with torch.inference_mode():
        return _denoise(conditional, unconditional, request, plan, guidance)


def _denoise(
    conditional: Branch, unconditional: Branch, request: Request, plan: Schedule, guidance: Guidance,
) -> tuple[Any, Any]:
    vision0, action0 = first_sample(request)
    vision, action = vision0, action0
    layout = request.layout
    pulls = pull_per_step(plan)
    seen: list[tuple[Any, Any]] = []
    for step, timestep in enumerate(plan.timesteps):
        # A video that nobody asked for is not decoded, so its last step is not computed.
        more = layout.wants_video or step + 1 < plan.steps
        v_vision, v_action = conditional.velocity(vision, action, timestep, want_video=more)
        if guidance.active(timestep):
            u_vision, u_action = unconditional.velocity(vision, action, timestep, want_video=more)
            v_vision, v_action = guidance.combine(v_vision, u_vision), guidance.combine(v_action, u_action)
        # What is clean stays clean: its velocity is zero.
        v_vision[:, :, :request.clean_frames] = 0.0
        v_action[:layout.clean_rows] = 0.0
        v_action[:, layout.width:] = 0.0
        if request.prefix is not None:
            v_action = _steer(v_action, action, request.prefix, float(plan.sigmas[step]), pulls[step])
        seen.append((v_vision, v_action))
        weights = [float(c) for c in plan.coefficients[step, :step + 1]]
        action = _combine(action0, [v[1] for v in seen], weights)
        if more:
            vision = _combine(vision0, [v[0] for v in seen], weights)
    return vision, action


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
