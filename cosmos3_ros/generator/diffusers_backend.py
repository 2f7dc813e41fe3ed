"""The reference: every step through ``diffusers.Cosmos3OmniTransformer.forward``, text and all."""

from typing import Any

from cosmos3_ros.model.sequence_pack import SequencePack
from cosmos3_ros.resources import require

from .droid_joint import DOMAIN_ID, ROWS

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

    def __init__(self, transformer: Any) -> None:
        self._transformer = transformer

    def branch(self, token_ids: Any, latent_shape: tuple[int, int, int]) -> DiffusersBranch:
        """Return the network with the text ``token_ids``, int64 (n,)."""
        return DiffusersBranch(self._transformer, token_ids, latent_shape)


def _move(value: Any, device: Any) -> Any:
    if isinstance(value, list):
        return [_move(item, device) for item in value]
    return value.to(device) if torch.is_tensor(value) else value
