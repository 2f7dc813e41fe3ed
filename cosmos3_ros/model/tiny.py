"""Shapes of our own small checkpoints: Cosmos3-Nano's classes and topology, fewer and narrower layers.

Nano's own values, and what each field means: model cards and configs of ``nvidia/Cosmos3-Nano``
(hidden 4096, 36 layers, 32/8 heads of 128, ViT 1152x27, VAE base 160).
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Preset:
    """Sizes of a checkpoint.

    :param vocabulary: Most tokens of the tokenizer; the models take what it used, rounded up to 64.
    :param hidden: Width of both towers.
    :param intermediate: Width of the gated feed-forward.
    :param layers: Layers per tower.
    :param heads: Query heads.
    :param kv_heads: Key/value heads.
    :param rope_sections: Frequencies for time, height, width; their sum is half the head's width.
    :param vision_hidden: Width of the reasoner's vision tower.
    :param vision_layers: Its layers; the last three feed the language model's first three.
    :param vision_heads: Its heads.
    :param vision_positions: Its learned positions, a square.
    :param vae_base: Channels of the VAE's first level.
    :param view: Height and width of the composed camera view.
    """

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    rope_sections: tuple[int, int, int]
    vision_hidden: int
    vision_layers: int
    vision_heads: int
    vision_positions: int
    vae_base: int
    view: tuple[int, int]

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return 2 * sum(self.rope_sections)


PRESETS: dict[str, Preset] = {
    # A view of 144 x 160 puts every camera on whole latents (16 pixels): wrist 6 x 10, exteriors 3 x 5.
    'tiny': Preset(
        vocabulary=2048, hidden=192, intermediate=576, layers=6, heads=6, kv_heads=2, rope_sections=(6, 5, 5),
        vision_hidden=128, vision_layers=4, vision_heads=4, vision_positions=256, vae_base=12,
        view=(144, 160)),
    # For tests: as small as the classes allow, a view with padding and odd latents as Nano has.
    'micro': Preset(
        vocabulary=512, hidden=32, intermediate=64, layers=2, heads=4, kv_heads=2, rope_sections=(4, 2, 2),
        vision_hidden=32, vision_layers=3, vision_heads=2, vision_positions=16, vae_base=8, view=(54, 64)),
}

ACTION_WIDTH = 64  # padded width of an action row, of every Cosmos 3 checkpoint
DOMAINS = 32
LATENT_CHANNELS = 48
ROPE_THETA = 5_000_000.0


def transformer_config(preset: Preset, vocabulary: int) -> dict[str, Any]:
    """Return arguments of ``diffusers.Cosmos3OmniTransformer``; what is absent is as in Nano."""
    return {
        'hidden_size': preset.hidden, 'intermediate_size': preset.intermediate,
        'num_hidden_layers': preset.layers, 'num_attention_heads': preset.heads,
        'num_key_value_heads': preset.kv_heads, 'head_dim': preset.head_dim, 'vocab_size': vocabulary,
        'rope_theta': ROPE_THETA,
        'rope_scaling': {'mrope_section': list(preset.rope_sections), 'mrope_interleaved': True,
                         'rope_type': 'default'},
        'action_gen': True, 'action_dim': ACTION_WIDTH, 'num_embodiment_domains': DOMAINS,
    }


def vae_config(preset: Preset) -> dict[str, Any]:
    """Return arguments of ``diffusers.AutoencoderKLWan``: Wan 2.2's topology (4x16x16, 48 channels)."""
    return {
        'base_dim': preset.vae_base, 'decoder_base_dim': preset.vae_base, 'z_dim': LATENT_CHANNELS,
        'dim_mult': [1, 2, 4, 4], 'num_res_blocks': 2, 'attn_scales': [],
        'temperal_downsample': [False, True, True], 'is_residual': True,
        'in_channels': 12, 'out_channels': 12, 'patch_size': 2,
        'scale_factor_temporal': 4, 'scale_factor_spatial': 16,
        'latents_mean': [0.0] * LATENT_CHANNELS, 'latents_std': [1.0] * LATENT_CHANNELS,
    }


def scheduler_config() -> dict[str, Any]:
    """Return arguments of ``diffusers.UniPCMultistepScheduler``, as the DROID policies are sampled."""
    return {
        'num_train_timesteps': 1000, 'solver_order': 2, 'solver_type': 'bh2', 'predict_x0': True,
        'prediction_type': 'flow_prediction', 'use_flow_sigmas': True, 'flow_shift': 5.0,
        'lower_order_final': True, 'final_sigmas_type': 'zero',
    }


def vision_config(preset: Preset) -> dict[str, Any]:
    """Return arguments of ``transformers.Qwen3VLVisionConfig``."""
    return {
        'model_type': 'qwen3_vl_vision', 'depth': preset.vision_layers, 'hidden_size': preset.vision_hidden,
        'intermediate_size': 4 * preset.vision_hidden, 'num_heads': preset.vision_heads, 'patch_size': 16,
        'temporal_patch_size': 2, 'spatial_merge_size': 2, 'out_hidden_size': preset.hidden,
        'num_position_embeddings': preset.vision_positions,
        'deepstack_visual_indexes': list(range(preset.vision_layers))[-3:],
        'hidden_act': 'gelu_pytorch_tanh', 'in_channels': 3,
    }


def text_config(preset: Preset, vocabulary: int) -> dict[str, Any]:
    """Return arguments of ``transformers.Qwen3VLTextConfig``: the same tower as the transformer's."""
    return {
        'model_type': 'qwen3_vl_text', 'vocab_size': vocabulary, 'hidden_size': preset.hidden,
        'intermediate_size': preset.intermediate, 'num_hidden_layers': preset.layers,
        'num_attention_heads': preset.heads, 'num_key_value_heads': preset.kv_heads,
        'head_dim': preset.head_dim, 'hidden_act': 'silu', 'max_position_embeddings': 262144,
        'rms_norm_eps': 1e-6, 'attention_bias': False, 'dtype': 'bfloat16',
        'rope_parameters': {'rope_type': 'default', 'rope_theta': ROPE_THETA,
                            'mrope_section': list(preset.rope_sections), 'mrope_interleaved': True},
    }


def processor_configs() -> dict[str, dict[str, Any]]:
    """Return file name and content of the image and video processors, at small pixel budgets."""
    shared = {
        'patch_size': 16, 'temporal_patch_size': 2, 'merge_size': 2, 'image_mean': [0.5, 0.5, 0.5],
        'image_std': [0.5, 0.5, 0.5], 'processor_class': 'Qwen3VLProcessor',
    }
    return {
        'preprocessor_config.json': {
            **shared, 'image_processor_type': 'Qwen2VLImageProcessor',
            'size': {'shortest_edge': 4096, 'longest_edge': 262144}},
        'video_preprocessor_config.json': {
            **shared, 'video_processor_type': 'Qwen3VLVideoProcessor',
            'size': {'shortest_edge': 4096, 'longest_edge': 786432}},
    }
