"""The reference: every step through ``diffusers.Cosmos3OmniTransformer.forward``, text and all."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.model.sequence_pack import SequencePack
from cosmos3_ros.resources import require

from .denoise import Request, denoise
from .droid_joint import DOMAIN_ID, ROWS
from .guidance import Guidance
from .sampler import Schedule

torch = require('torch', 'model')


class DiffusersBranch:
    """The network with one text; see :class:`denoise.Branch`."""

    def __init__(self, transformer: Any, token_ids: Any, latent_shape: tuple[int, int, int]) -> None:
        config = transformer.config
        pack = SequencePack(
            text_length=len(token_ids), latent_shape=latent_shape, action_rows=ROWS,
            patch=config.latent_patch_size, margin=config.unified_3d_mrope_temporal_modality_margin,
            base_fps=float(config.base_fps))
        self._transformer = transformer
        self._device = transformer.device
        self._dtype = transformer.dtype
        self._noisy_patches = (pack.grid[0] - 1) * pack.patches_per_frame
        self._arguments = {
            key: _move(value, self._device)
            for key, value in pack.forward_arguments(token_ids, DOMAIN_ID).items()
        }

    def velocity(
        self, vision: Any, action: Any, timestep: int, *, want_video: bool,  # noqa: ARG002 (always computed)
    ) -> tuple[Any, Any]:
        """Return velocities of video (1, 48, T, h, w) and actions (33, 64), float32."""
        with torch.inference_mode():
            visions, _, actions = self._transformer(
                **self._arguments,
                vision_tokens=[vision.to(self._dtype)],
                vision_timesteps=torch.full((self._noisy_patches,), float(timestep), device=self._device),
                action_tokens=[action.to(self._dtype)],
                action_timesteps=torch.full((ROWS - 1,), float(timestep), device=self._device),
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
        """Return the denoised action rows, float32 (33, action width); row 0 is the state."""
        shape = (request.frames, *request.clean_latent.shape[-2:])
        branches = [
            DiffusersBranch(self._transformer, torch.tensor(ids, dtype=torch.int64), shape)
            for ids in (conditional, unconditional)]
        return denoise(branches[0], branches[1], request, self._plan, self._guidance)


def _move(value: Any, device: Any) -> Any:
    if isinstance(value, list):
        return [_move(item, device) for item in value]
    return value.to(device) if torch.is_tensor(value) else value
