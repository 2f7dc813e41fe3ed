"""Sizes and kinds of a Cosmos 3 transformer, read from its config.

Defaults are those of ``diffusers.Cosmos3OmniTransformer``, which are Nano's (facts sheet 1.1).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .checkpoint import CheckpointError


@dataclass(frozen=True, slots=True)
class TowerShape:
    """Both towers share it.

    :param gated: SwiGLU feed-forward (Nano, Super); otherwise squared ReLU without a gate (Edge).
    :param text_norms: Queries and keys of the text are normalised (not in Edge).
    :param text_key_norm: The text's keys are normalised for the generation tower only (Edge).
    :param exact_norm: Norm weights multiply in float32 (Edge).
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    rope_theta: float
    rope_sections: tuple[int, int, int]
    patch: int
    channels: int
    margin: int
    base_fps: float
    timestep_scale: float
    action_width: int
    gated: bool
    text_norms: bool
    text_key_norm: bool
    exact_norm: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> 'TowerShape':
        """Read ``transformer/config.json``.

        :raises CheckpointError: No action heads, or a feed-forward of a third kind.
        """
        if not config.get('action_gen') or config.get('action_dim') is None:
            raise CheckpointError('checkpoint: its transformer has no action heads')
        kind = config.get('hidden_act', 'silu')
        if kind not in ('silu', 'relu2'):
            raise CheckpointError(
                f'checkpoint: layers with hidden_act {kind} arrived, silu and relu2 are allowed')
        if config.get('attention_bias'):
            raise CheckpointError('checkpoint: attention with biases arrived, no Cosmos 3 model has them')
        sections = config.get('rope_axes_dim') or (config.get('rope_scaling') or {}).get(
            'mrope_section', (24, 20, 20))
        text_norms = bool(config.get('qk_norm_for_text', True))
        return cls(
            hidden=config.get('hidden_size', 4096), intermediate=config.get('intermediate_size', 12288),
            layers=config.get('num_hidden_layers', 36), heads=config.get('num_attention_heads', 32),
            kv_heads=config.get('num_key_value_heads', 8), head_dim=config.get('head_dim', 128),
            eps=config.get('rms_norm_eps', 1e-6), rope_theta=config.get('rope_theta', 5_000_000.0),
            rope_sections=(int(sections[0]), int(sections[1]), int(sections[2])),
            patch=config.get('latent_patch_size', 2), channels=config.get('latent_channel', 48),
            margin=config.get('unified_3d_mrope_temporal_modality_margin', 15000),
            base_fps=float(config.get('base_fps', 24)),
            timestep_scale=config.get('timestep_scale', 0.001), action_width=int(config['action_dim']),
            gated=kind == 'silu', text_norms=text_norms,
            text_key_norm=bool(config.get('use_und_k_norm_for_gen', False)) and not text_norms,
            exact_norm=kind == 'relu2')

    @property
    def generation_parameters(self) -> int:
        """Weights of the generation tower's matrices: 6 945 767 424 for Nano."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + (3 if self.gated else 2) * self.hidden * self.intermediate)
