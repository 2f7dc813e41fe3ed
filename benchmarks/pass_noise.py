"""What ``generator.pass_noise`` saves: the joints' error of a small flow-matching task, with and without it.

``python benchmarks/pass_noise.py [--steps 1000] [--batch 32]``. The network is cosmos3-tiny's generation
tower without future video. The task needs no search for anything: a chunk goes from the state to a pose that
is a smooth function of 14 numbers, which stand in the latents through a random matrix. Both start from the
same weights and see the same samples.
"""

import argparse
import math
from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import diffusers
import torch

from cosmos3_ros.generator.droid_joint import ARM_JOINTS, DOMAIN_ID, ROWS, WIDTH
from cosmos3_ros.model.batched_step import BatchedStep
from cosmos3_ros.model.random_weights import draw
from cosmos3_ros.model.tiny import ACTION_WIDTH, LATENT_CHANNELS, PRESETS, transformer_config
from cosmos3_ros.training.flow_matching import add_noise, draw_levels
from cosmos3_ros.training.generator_objective import GENERATION, HEADS
from cosmos3_ros.training.optimiser_settings import OptimiserSettings
from cosmos3_ros.training.settings import GeneratorSettings
from cosmos3_ros.training.starting_weights import pass_noise

HOME_RAD = torch.tensor([0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785])
RANGE_RAD = 0.3
HEIGHT, COLUMNS = 9, 10
EVERY = 100


class Task:
    """Draws samples of the made-up task."""

    def __init__(self) -> None:
        self.random = torch.Generator().manual_seed(1)
        self._show = torch.randn(14, LATENT_CHANNELS * HEIGHT * COLUMNS, generator=self.random) * 0.08
        self._mix = torch.randn(ARM_JOINTS, ARM_JOINTS, generator=self.random) * 0.3

    def draw(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return latents (batch, 48, 1, 9, 10) and rows (batch, 33, 8)."""
        start = HOME_RAD + RANGE_RAD * torch.randn(batch, ARM_JOINTS, generator=self.random)
        numbers = torch.randn(batch, 14, generator=self.random)
        goal = HOME_RAD + RANGE_RAD * torch.tanh(numbers[:, :7] @ self._mix + 0.5 * torch.sin(numbers[:, 7:]))
        share = (torch.arange(ROWS) / 24.0).clamp(max=1.0)[None, :, None]
        share = 3.0 * share**2 - 2.0 * share**3
        rows = start[:, None] + (goal - start)[:, None] * share
        latents = (numbers @ self._show).view(batch, LATENT_CHANNELS, 1, HEIGHT, COLUMNS)
        return latents, torch.cat([rows, torch.ones(batch, ROWS, 1)], dim=-1)


def train(passed: bool, steps: int, batch: int) -> list[float]:
    """Return the joints' mean squared velocity error of every ``EVERY`` steps."""
    transformer = diffusers.Cosmos3OmniTransformer(**transformer_config(PRESETS['tiny'], 512))
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            parameter.copy_(torch.from_numpy(draw(name, tuple(parameter.shape), 0)))
    if passed:
        pass_noise(transformer)
    for name, parameter in transformer.named_parameters():
        wanted = bool(GENERATION.search(name) or HEADS.search(name))
        parameter.requires_grad_(wanted and not name.startswith('proj_out.'))
    trained = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    step = BatchedStep(transformer)
    with torch.no_grad():
        texts = step.contexts([range(1, 9)]).select([0] * batch)
    recipe = OptimiserSettings(
        steps=steps, batch=batch, learning_rate=1e-3, warmup_steps=50, final_fraction=0.02)
    settings = GeneratorSettings(optimiser=recipe, uniform_share=0.2)
    optimiser = torch.optim.AdamW(
        trained, betas=(recipe.beta1, recipe.beta2), weight_decay=recipe.weight_decay)
    task, domains = Task(), torch.full((batch,), DOMAIN_ID)
    found, seen = [], []
    for number in range(steps):
        for group in optimiser.param_groups:
            group['lr'] = recipe.learning_rate_at(number)
        latents, rows = task.draw(batch)
        noisy = add_noise(latents, rows, draw_levels(settings, batch, task.random), ACTION_WIDTH, task.random)
        _, action = step.velocity(texts, noisy.vision, noisy.action, noisy.timesteps, domains)
        errors = (action[:, 1:, :WIDTH] - noisy.action_velocity).square()
        (50.0 * errors.mean()).backward()
        torch.nn.utils.clip_grad_norm_(trained, recipe.gradient_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        seen.append(errors[..., :ARM_JOINTS].mean().item())
        if (number + 1) % EVERY == 0:
            found.append(math.fsum(seen[-EVERY:]) / EVERY)
            sys.stdout.write(f'pass_noise {passed}, {number + 1} steps: {found[-1]:.4f}\n')
            sys.stdout.flush()
    return found


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--steps', type=int, default=1000)
    parser.add_argument('--batch', type=int, default=32)
    args = parser.parse_args()
    without, passed = (train(on, args.steps, args.batch) for on in (False, True))
    sys.stdout.write('| steps | without | with | ratio |\n|---|---|---|---|\n')
    for i, (one, other) in enumerate(zip(without, passed, strict=True)):
        sys.stdout.write(f'| {(i + 1) * EVERY} | {one:.4f} | {other:.4f} | {other / one:.2f} |\n')


if __name__ == '__main__':
    main()
