"""The generator's objective: velocities of future video and actions from a text and a clean observation."""

from collections.abc import Callable, Sequence
import re
from typing import Any

import numpy as np

from ..generator.droid_joint import DOMAIN_ID
from ..generator.prompt import UNCONDITIONAL
from ..model.batched_step import BatchedStep, TextContexts
from ..model.device_transfer import send
from ..resources import require
from .flow_matching import add_noise, blur_observation, draw_levels, flow_losses
from .latent_windows import LatentWindows
from .objective import Batch, noise_generator
from .settings import GeneratorSettings, TrainingError

torch = require('torch', 'model')

# Generation tower, heads and embeddings: what NVIDIA's recipe for the DROID policy trains (facts sheet 8).
GENERATION = re.compile(r'moe_gen|\.add_[qkv]_proj\.|\.to_add_out\.|\.norm_added_[qk]\.')
HEADS = re.compile(
    r'^(proj_in|proj_out|time_embedder|action_proj_in|action_proj_out)\.|^action_modality_embed$')
VIDEO_HEAD = re.compile(r'^proj_out\.')
ACTION_HEADS = re.compile(r'^action_proj_(in|out)\.')
LORA_TARGETS = (
    r'.*\.(add_q_proj|add_k_proj|add_v_proj|to_add_out)'
    r'|.*mlp_moe_gen\.(gate_proj|up_proj|down_proj)')
_STREAM = 3


def understanding_name(name: str) -> str:
    """Return the understanding tower's parameter that stands where this one of the generation tower does."""
    name = re.sub(r'\.add_([qkv])_proj\.', r'.to_\1.', name.replace('_moe_gen', ''))
    return name.replace('.to_add_out.', '.to_out.').replace('.norm_added_', '.norm_')


class GeneratorObjective(torch.nn.Module):  # type: ignore[misc, name-defined]
    """See the module.

    :param transformer: ``diffusers.Cosmos3OmniTransformer`` on its device.
    :param windows: One per dataset.
    :param tokenize: Instruction (or the unconditional text) to token ids of its prompt.
    :param seed: Of levels, noise and dropped texts.
    :param held_out: Likewise, of episodes that are not trained on, for :meth:`measure`.
    """

    def __init__(
        self, transformer: Any, windows: Sequence[LatentWindows], tokenize: Callable[[str], Sequence[int]],
        settings: GeneratorSettings, seed: int, held_out: Sequence[LatentWindows] = (),
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self._settings, self._windows, self._seed = settings, tuple(windows), seed
        self._held_out = tuple(held_out)
        self._has_future = any(part.latents.shape[2] > 1 for part in windows)
        self._select_trained()
        self.step = BatchedStep(transformer)
        instructions = dict.fromkeys(text for part in (*windows, *held_out) for text in part.texts)
        self._places = {text: i + 1 for i, text in enumerate(instructions)}
        self._ids = [tuple(tokenize(text)) for text in (UNCONDITIONAL, *instructions)]
        self._contexts: TextContexts | None = None

    def _select_trained(self) -> None:
        model, kind = self.transformer, self._settings.trainable
        model.requires_grad_(False)
        if kind == 'generation_lora':
            peft = require('peft', 'training')
            lora = self._settings.lora
            model.add_adapter(peft.LoraConfig(
                r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=LORA_TARGETS))
        for name, parameter in model.named_parameters():
            if kind == 'generation_lora':
                wanted = 'lora_' in name or bool(HEADS.search(name))
            elif kind == 'generation':
                wanted = bool(GENERATION.search(name) or HEADS.search(name))
            else:
                wanted = 'lm_head' not in name  # belongs to the reasoner alone
            # Without frames of the future nobody asks for their velocity.
            wanted = wanted and (self._has_future or not VIDEO_HEAD.search(name))
            parameter.requires_grad_(wanted)
            if wanted:
                # Master weights; what is frozen may be bfloat16.
                parameter.data = parameter.data.float()

    def trained(self) -> dict[str, Any]:
        """See :class:`objective.Objective`."""
        return {name: p for name, p in self.transformer.named_parameters() if p.requires_grad}

    def compile_layers(self) -> None:
        """See :class:`objective.Objective`."""
        self.step.compile_layers(few_shapes=self.und_is_frozen)

    def learning_rate_factor(self, name: str) -> float:
        """See :class:`objective.Objective`."""
        return self._settings.head_learning_rate if ACTION_HEADS.search(name) else 1.0

    @property
    def und_is_frozen(self) -> bool:
        """Whether texts are constants: their keys and values are then computed once."""
        return self._settings.trainable != 'all'

    def contexts(self, places: Sequence[int]) -> TextContexts:
        """Return the contexts of texts by their places; 0 is the unconditional one."""
        if not self.und_is_frozen:
            return self.step.contexts([self._ids[i] for i in places])
        if self._contexts is None:
            device = self.transformer.proj_in.weight.device
            with torch.no_grad(), torch.autocast(device.type, enabled=False):
                self._contexts = self.step.contexts(self._ids)
        return self._contexts.select(places)

    def places_of(self, window: LatentWindows, samples: Sequence[int]) -> list[int]:
        """Return the places of some windows' texts, for :meth:`contexts`."""
        return [self._places[window.texts[window.text_index[i]]] for i in samples]

    def forward(self, batch: Batch) -> dict[str, Any]:
        """Return the loss of a batch; see :func:`flow_matching.flow_losses`."""
        settings = self._settings
        return self._losses(batch, self._windows, settings.text_dropout, settings.observation_noise)

    def measure(self, batch: Batch) -> dict[str, Any]:
        """Return the same of held-out windows, with every text and with clean observations."""
        return self._losses(batch, self._held_out, 0.0, 0.0)

    def _losses(
        self, batch: Batch, windows: Sequence[LatentWindows], text_dropout: float, observation_noise: float,
    ) -> dict[str, Any]:
        device = self.transformer.proj_in.weight.device
        latents, rows, past, unknown, unseen, places = self._gather(batch, windows, text_dropout, device)
        noise = noise_generator(device, self._seed, _STREAM, batch.step, batch.part)
        levels = draw_levels(self._settings, len(latents), noise)
        if observation_noise > 0.0:
            latents = blur_observation(latents, observation_noise, noise)
        noisy = add_noise(latents, rows, levels, int(self.transformer.config.action_dim), noise)
        domains = torch.full((len(latents),), DOMAIN_ID, device=device)
        vision, action = self.step.velocity(
            self.contexts(places), noisy.vision, noisy.action, noisy.timesteps, domains)
        weights = torch.where(past[:, 1:], self._settings.padding_weight, 1.0) * ~unknown[:, 1:]
        return flow_losses(vision, action, noisy, weights, self._settings, (~unseen[:, 1:]).float())

    def _gather(
        self, batch: Batch, windows: Sequence[LatentWindows], text_dropout: float, device: Any,
    ) -> tuple[Any, Any, Any, Any, Any, list[int]]:
        drop = np.random.default_rng([self._seed, _STREAM, batch.step, batch.part]).random(len(batch.draws))
        places, order, parts = [], [], []
        for i, window in enumerate(windows):
            mine = [k for k, (dataset, _) in enumerate(batch.draws) if dataset == i]
            if not mine:
                continue
            indices = send(torch.tensor([batch.draws[k][1] for k in mine]), window.rows.device)
            parts.append(tuple(
                t.index_select(0, indices).to(device)
                for t in (window.latents, window.rows, window.past, window.unknown, window.unseen)))
            order += mine
            places += [
                self._places[window.texts[window.text_index[batch.draws[k][1]]]]
                if drop[k] >= text_dropout else 0 for k in mine]
        if not parts:
            raise TrainingError('generator: an empty batch arrived')
        latents, rows, past, unknown, unseen = (torch.cat(t) for t in zip(*parts, strict=True))
        return latents.float(), rows, past, unknown, unseen, places
