"""Random weights at the exact shape of Cosmos3-Nano, made on the device.

For measurements of speed and memory where the 32 GB of files are not at hand.
"""

from collections.abc import Mapping, Sequence
from typing import Any
import zlib

from cosmos3_ros.resources import require

from .random_weights import scale_of

torch = require('torch', 'model')

# What is not a default of ``diffusers.Cosmos3OmniTransformer`` (facts sheet 1.1).
NANO_CONFIG: dict[str, Any] = {'action_gen': True, 'action_dim': 64, 'num_embodiment_domains': 32}
# Wan 2.2's VAE as Nano carries it: 4x16x16, 48 channels (config of ``Wan-AI/Wan2.2-TI2V-5B-Diffusers``).
NANO_VAE: dict[str, Any] = {
    'base_dim': 160, 'decoder_base_dim': 256, 'z_dim': 48, 'dim_mult': [1, 2, 4, 4], 'num_res_blocks': 2,
    'attn_scales': [], 'temperal_downsample': [False, True, True], 'is_residual': True, 'in_channels': 12,
    'out_channels': 12, 'patch_size': 2, 'scale_factor_temporal': 4, 'scale_factor_spatial': 16,
    'latents_mean': [0.0] * 48, 'latents_std': [1.0] * 48,
}


class RandomNano:
    """A :class:`WeightSource` whose tensors depend on their name alone.

    The understanding tower is kept in host memory after its first use, where the mapped files of a
    checkpoint would be: streaming it costs what it costs there.
    """

    def __init__(self, device: Any, config: Mapping[str, Any] | None = None) -> None:
        self.config: Mapping[str, Any] = dict(config or NANO_CONFIG)
        self._device = torch.device(device)
        with torch.device('meta'):
            model = require('diffusers', 'model').Cosmos3OmniTransformer(**self.config)
        self._shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
        self._host: dict[str, Any] = {}

    def get(self, name: str) -> Any:
        """Return a bfloat16 tensor, on the host if it belongs to the understanding tower."""
        if not _understands(name):
            return random_tensor(name, self._shapes[name], self._device)
        if name not in self._host:
            self._host[name] = random_tensor(name, self._shapes[name], self._device).cpu()
            if self._device.type == 'cuda':
                # Otherwise the embedding's 1.2 GB stay in the allocator, with something small in their midst.
                torch.cuda.empty_cache()
        return self._host[name]

    def rows(self, name: str, indices: Sequence[int]) -> Any:
        """Return rows of a matrix."""
        table = self.get(name)
        return table[torch.as_tensor(list(indices), dtype=torch.int64, device=table.device)]

    def transformer(self) -> Any:
        """Return ``diffusers.Cosmos3OmniTransformer`` with these weights, on the device in bfloat16."""
        with torch.device('meta'):
            model = require('diffusers', 'model').Cosmos3OmniTransformer(**self.config)
        model = model.to(torch.bfloat16)
        model.time_embedder.to(torch.float32)
        model.rotary_emb = type(model.rotary_emb)(  # its buffer is no weight
            model.config.head_dim, model.config.rope_theta, model.config.rope_axes_dim)
        state = {name: self.get(name).to(self._device) for name in self._shapes}
        for name in state:
            if name.startswith('time_embedder'):
                state[name] = state[name].float()
        model.load_state_dict(state, assign=True)
        return model.eval().requires_grad_(False).to(self._device)

    def vae(self) -> Any:
        """Return ``diffusers.AutoencoderKLWan`` without its decoder, on the device in bfloat16."""
        with torch.device('meta'):
            vae = require('diffusers', 'model').AutoencoderKLWan(**NANO_VAE)
        vae.decoder = vae.post_quant_conv = None
        vae.load_state_dict({
            name: random_tensor(f'vae.{name}', tuple(t.shape), self._device)
            for name, t in vae.state_dict().items()}, assign=True)
        return vae.eval().requires_grad_(False)


def random_tensor(name: str, shape: tuple[int, ...], device: Any) -> Any:
    """Return a bfloat16 tensor: as :func:`random_weights.draw`, but from the device's own generator."""
    if name.endswith(('bias', 'bias.weight')):
        return torch.zeros(shape, dtype=torch.bfloat16, device=device)
    if 'norm' in name or name.endswith('gamma'):
        return torch.ones(shape, dtype=torch.bfloat16, device=device)
    generator = torch.Generator(device).manual_seed(zlib.crc32(name.encode()))
    return torch.randn(
        shape, generator=generator, dtype=torch.bfloat16, device=device).mul_(scale_of(name, shape))


def _understands(name: str) -> bool:
    parts = ('.to_q.', '.to_k.', '.to_v.', '.to_out.', '.mlp.', '.norm_q.', '.norm_k.')
    return (any(part in name for part in parts) or name.startswith(('embed_tokens', 'lm_head'))
            or name.endswith(('input_layernorm.weight', 'post_attention_layernorm.weight')))
