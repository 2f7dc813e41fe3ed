"""The arithmetic of flow matching in the ``droid_joint`` contract.

A sample at noise level s is ``x = (1 - s) x0 + s e``, the network is told ``1000 s`` and answers the
velocity ``e - x0`` (Lipman et al. 2023, rectified flow; the sign that ``generator/sampler.py`` integrates).
Latent frame 0 and action row 0 stay clean. Actions are raw radians and 1 - gripper: the contract has no
normalisation; channels past the eighth are zero. Weights and levels: facts sheet 8.
"""

from dataclasses import dataclass
from typing import Any

from ..generator.droid_joint import ARM_JOINTS, WIDTH
from ..resources import require
from .settings import GeneratorSettings

torch = require('torch', 'model')

TIMESTEPS = 1000.0


def draw_levels(settings: GeneratorSettings, count: int, generator: Any) -> Any:
    """Return noise levels in 0..1, float32 (count,) on the generator's device.

    Logit-normal (Esser et al. 2024), then shifted: ``s = k u / (1 + (k - 1) u)``. Video and actions of a
    sample share their level (``independent_action_schedule=False``).
    """
    device = generator.device
    normal = torch.randn(count, generator=generator, device=device)
    level = torch.sigmoid(settings.timestep_mean + settings.timestep_std * normal)
    uniform = torch.rand(count, generator=generator, device=device)
    chosen = torch.rand(count, generator=generator, device=device) < settings.uniform_share
    level = torch.where(chosen, uniform, level)
    return settings.shift * level / (1.0 + (settings.shift - 1.0) * level)


def blur_observation(latents: Any, most: float, generator: Any) -> Any:
    """Return latents (batch, C, T, h, w) with noise on frame 0, of a deviation from 0..``most`` each."""
    count, device = len(latents), latents.device
    deviation = most * torch.rand((count, 1, 1, 1), generator=generator, device=device)
    first = latents[:, :, 0]
    shaken = first + deviation * torch.randn(first.shape, generator=generator, device=device)
    return torch.cat([shaken[:, :, None], latents[:, :, 1:]], dim=2)


@dataclass(frozen=True, slots=True, eq=False)
class NoisySamples:
    """What the network is shown and what it should answer, float32.

    :param vision: (batch, C, T, h, w), frame 0 clean.
    :param action: (batch, rows, padded width), row 0 clean.
    :param timesteps: (batch,), 0..1000.
    :param vision_velocity: Target of frames 1 on, (batch, C, T - 1, h, w).
    :param action_velocity: Target of rows 1 on, (batch, rows - 1, 8).
    """

    vision: Any
    action: Any
    timesteps: Any
    vision_velocity: Any
    action_velocity: Any


def add_noise(latents: Any, rows: Any, levels: Any, padded_width: int, generator: Any) -> NoisySamples:
    """Mix samples with noise.

    :param latents: float32 (batch, C, T, h, w), normalised.
    :param rows: float32 (batch, rows, 8), the state first.
    :param levels: (batch,).
    :param padded_width: Of an action row.
    """
    device = latents.device
    vision_noise = torch.randn(latents.shape, generator=generator, device=device)
    action_noise = torch.randn(rows.shape, generator=generator, device=device)
    level = levels.view(-1, 1, 1)
    action = (1.0 - level) * rows + level * action_noise
    action[:, 0] = rows[:, 0]
    wide = levels.view(-1, 1, 1, 1, 1)
    vision = (1.0 - wide) * latents + wide * vision_noise
    vision[:, :, 0] = latents[:, :, 0]
    return NoisySamples(
        vision, torch.nn.functional.pad(action, (0, padded_width - WIDTH)), levels * TIMESTEPS,
        (vision_noise - latents)[:, :, 1:], (action_noise - rows)[:, 1:])


def flow_losses(
    vision: Any, action: Any, noisy: NoisySamples, weights: Any, settings: GeneratorSettings,
    seen: Any = None,
) -> dict[str, Any]:
    """Return the loss and its parts: mean squared errors of the velocities.

    The action's is the mean of seven joints and the gripper, which are told apart for people only. Without
    frames of the future there is no loss of video.

    :param vision: The network's answer, (batch, C, T, h, w).
    :param action: Likewise, (batch, rows, padded width).
    :param weights: Of action rows 1 on, (batch, rows - 1).
    :param seen: Of frames 1 on, (batch, T - 1), 0 where there is nothing to predict; None: everywhere 1.
    """
    video_errors = (vision[:, :, 1:] - noisy.vision_velocity).square().mean(dim=(1, 3, 4))
    if seen is None:
        seen = torch.ones_like(video_errors)
    video_loss = (video_errors * seen).sum() / seen.sum().clamp(min=1e-6)
    errors = (action[:, 1:, :WIDTH] - noisy.action_velocity).square()
    channels = (errors * weights[..., None]).sum(dim=(0, 1)) / weights.sum().clamp(min=1e-6)
    action_loss = channels.mean()
    return {
        'loss': settings.loss_scale * (video_loss + settings.action_weight * action_loss),
        'video_loss': video_loss, 'action_loss': action_loss,
        'joint_loss': channels[:ARM_JOINTS].mean().detach(), 'gripper_loss': channels[ARM_JOINTS].detach()}
