"""The reference: every step through ``diffusers.Cosmos3OmniTransformer.forward``, text and all."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.resources import require

from .action_layout import ActionLayout
from .denoise import Request, denoise, denoise_both
from .droid_joint import LAYOUT
from .guidance import Guidance
from .request_pack import make_pack
from .sampler import Schedule

torch = require('torch', 'model')


class DiffusersBranch:
    """The network with one text; see :class:`denoise.Branch`."""

    def __init__(
        self, transformer: Any, token_ids: Any, latent_shape: tuple[int, int, int],
        layout: ActionLayout = LAYOUT,
    ) -> None:
        config = transformer.config
        pack = make_pack(
            len(token_ids), latent_shape, layout, patch=config.latent_patch_size,
            margin=config.unified_3d_mrope_temporal_modality_margin, base_fps=float(config.base_fps))
        self._transformer = transformer
        self._device = transformer.device
        self._dtype = transformer.dtype
        self._noisy_patches = pack.vision_tokens - pack.clean_tokens
        self._noisy_rows = layout.rows - layout.clean_rows
        self._arguments = {
            key: _move(value, self._device)
            for key, value in pack.forward_arguments(token_ids, layout.domain_id).items()
        }

    def velocity(
        self, vision: Any, action: Any, timestep: int, *, want_video: bool,  # noqa: ARG002 (always computed)
    ) -> tuple[Any, Any]:
        """Return velocities of video (1, 48, T, h, w) and actions (rows, 64), float32."""
        with torch.inference_mode():
            visions, _, actions = self._transformer(
                **self._arguments,
                vision_tokens=[vision.to(self._dtype)],
                vision_timesteps=torch.full((self._noisy_patches,), float(timestep), device=self._device),
                action_tokens=[action.to(self._dtype)],
                action_timesteps=torch.full((self._noisy_rows,), float(timestep), device=self._device),
                return_dict=False)
        return visions[0].float().clone(), actions[0].float().clone()


class DiffusersBackend:
    """Makes branches; keeps none, since nothing is worth keeping."""

    name = 'diffusers'

    def __init__(self, transformer: Any, plan: Schedule, guidance: Guidance) -> None:
        self._transformer, self._plan, self._guidance = transformer, plan, guidance

    def resample(self, plan: Schedule, guidance: Guidance, *, batched: bool) -> None:  # noqa: ARG002
        """Sample differently from now on; branches are always apart here."""
        self._plan, self._guidance = plan, guidance

    def denoise(
        self, conditional: Sequence[int], unconditional: Sequence[int], request: Request,
    ) -> NDArray[np.float32]:
        """Return the denoised action rows, float32 (rows, action width); given rows come back."""
        one, other = self._branches(conditional, unconditional, request)
        return denoise(one, other, request, self._plan, self._guidance)

    def imagine(
        self, conditional: Sequence[int], unconditional: Sequence[int], request: Request,
    ) -> Any:
        """Return the denoised latents, float32 (1, 48, T, h, w)."""
        one, other = self._branches(conditional, unconditional, request)
        return denoise_both(one, other, request, self._plan, self._guidance)[0]

    def _branches(
        self, conditional: Sequence[int], unconditional: Sequence[int], request: Request,
    ) -> tuple[DiffusersBranch, DiffusersBranch]:
        shape = (request.frames, *request.clean_latent.shape[-2:])
        one, other = (
            DiffusersBranch(self._transformer, torch.tensor(ids, dtype=torch.int64), shape, request.layout)
            for ids in (conditional, unconditional))
        return one, other


def _move(value: Any, device: Any) -> Any:
    if isinstance(value, list):
        return [_move(item, device) for item in value]
    return value.to(device) if torch.is_tensor(value) else value
