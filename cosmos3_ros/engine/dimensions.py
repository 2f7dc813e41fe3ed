"""Sizes of the towers as a checkpoint's configs state them, and the shapes that plans are built for."""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from cosmos3_ros.model.checkpoint import CheckpointError
from cosmos3_ros.model.json_file import read_json_object

from .errors import EngineError


@dataclass(frozen=True, slots=True)
class Dimensions:
    """Sizes of one checkpoint; field names as in diffusers' and transformers' configs.

    :param rope_sections: Frequencies for time, height, width.
    :param deepstack: Vision layers whose features enter the language model's first layers.
    :param patch_values: Numbers in one vision patch, 3 x 2 x 16 x 16.
    :param latent_values: Numbers in one latent patch, 48 x 2 x 2.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    rms_eps: float
    rope_theta: float
    rope_sections: tuple[int, int, int]
    vision_hidden: int
    vision_intermediate: int
    vision_layers: int
    vision_heads: int
    vision_positions: int
    vision_merge: int
    deepstack: tuple[int, ...]
    patch_values: int
    latent_values: int
    latent_patch: int
    action_width: int
    domains: int

    @classmethod
    def read(cls, directory: str | Path) -> 'Dimensions':
        """Read ``transformer/config.json`` and ``config.json`` of a checkpoint in Nano's layout.

        :raises EngineError: A file is missing, or the layers are not of Nano's kind.
        """
        root = Path(directory)
        try:
            generator = read_json_object(root / 'transformer' / 'config.json')
            vision = read_json_object(root / 'config.json').get('vision_config', {})
        except CheckpointError as error:
            raise EngineError(str(error)) from error
        if generator.get('hidden_act', 'silu') != 'silu':
            raise EngineError(
                f'checkpoint {root}: layers with hidden_act {generator["hidden_act"]} arrived, silu (Nano, '
                'Super, tiny) is allowed; use the backend transformers or diffusers')
        scaling = generator.get('rope_scaling') or {}
        try:
            return cls(
                hidden=generator['hidden_size'], intermediate=generator['intermediate_size'],
                layers=generator['num_hidden_layers'], heads=generator['num_attention_heads'],
                kv_heads=generator['num_key_value_heads'], head_dim=generator['head_dim'],
                vocabulary=generator['vocab_size'], rms_eps=generator.get('rms_norm_eps', 1e-6),
                rope_theta=float(generator.get('rope_theta', 5e6)),
                rope_sections=_triple(scaling.get('mrope_section', (24, 20, 20))),
                vision_hidden=vision['hidden_size'], vision_intermediate=vision['intermediate_size'],
                vision_layers=vision['depth'], vision_heads=vision['num_heads'],
                vision_positions=vision['num_position_embeddings'],
                vision_merge=vision['spatial_merge_size'],
                deepstack=tuple(vision['deepstack_visual_indexes']),
                patch_values=3 * vision['temporal_patch_size'] * vision['patch_size'] ** 2,
                latent_values=generator.get('patch_latent_dim', 192),
                latent_patch=generator.get('latent_patch_size', 2),
                action_width=generator.get('action_dim') or 0,
                domains=generator.get('num_embodiment_domains', 32))
        except KeyError as error:
            raise EngineError(f'checkpoint {root}: its configs lack {error}') from error


# Model card and configs of nvidia/Cosmos3-Nano; vision as in Qwen3-VL-8B.
NANO = Dimensions(
    hidden=4096, intermediate=12288, layers=36, heads=32, kv_heads=8, head_dim=128, vocabulary=151936,
    rms_eps=1e-6, rope_theta=5e6, rope_sections=(24, 20, 20), vision_hidden=1152, vision_intermediate=4304,
    vision_layers=27, vision_heads=16, vision_positions=2304, vision_merge=2, deepstack=(8, 16, 24),
    patch_values=1536, latent_values=192, latent_patch=2, action_width=64, domains=32)

# Shapes that can be built without a checkpoint, from random weights: to know time, memory and rounding.
RANDOM = {
    'random:nano': NANO,
    # One layer and one vision block at full width, with few words: small enough to check in float32.
    'random:nano-layer': replace(NANO, layers=1, vision_layers=1, deepstack=(0,), vocabulary=1024),
}


@dataclass(frozen=True, slots=True)
class Shapes:
    """What the plans accept. Part of the cache key.

    :param frame_grid: Patches of one frame, height and width: 22 x 40 is 640 x 352 pixels.
    :param max_frames: Most temporal patches (pairs of frames) in one clip.
    :param max_prompt: Most tokens of one prefill.
    :param cache: Tokens that prompt and answer share.
    :param max_context: Most text tokens that the generation tower reads.
    :param latent_grid: Latent frames, and patches in height and width, of one request.
    :param action_rows: Rows, the state included.
    :param clean_rows: Rows that are given: 1 for a contract with a state, 0 without one.
    :param action_channels: Channels of a row that the domain's head uses.
    :param domain: Action head that is built in.
    """

    frame_grid: tuple[int, int] = (22, 40)
    max_frames: int = 4
    max_prompt: int = 1024
    cache: int = 1280
    max_context: int = 512
    latent_grid: tuple[int, int, int] = (9, 17, 20)
    action_rows: int = 33
    clean_rows: int = 1
    action_channels: int = 8
    domain: int = 8

    def __post_init__(self) -> None:
        """Check ranges."""
        for field in fields(self):
            value = getattr(self, field.name)
            parts = value if isinstance(value, tuple) else (value,)
            least = 0 if field.name in ('domain', 'clean_rows') else 1
            if any(not isinstance(part, int) or part < least for part in parts):
                raise EngineError(f'shapes.{field.name}: {value!r} arrived, positive integers are allowed')
        if any(side % 2 for side in self.frame_grid):
            raise EngineError(f'shapes.frame_grid: {self.frame_grid} arrived, even numbers are allowed')
        if self.latent_grid[0] < 2 or self.action_rows <= self.clean_rows:
            raise EngineError(
                'shapes.latent_grid and action_rows: a clean frame, the clean rows and at least one noisy '
                'frame and row are needed')
        if self.cache <= self.max_prompt:
            raise EngineError(
                f'shapes.cache: {self.cache} arrived, more than max_prompt ({self.max_prompt}) is allowed')

    @property
    def vision_tokens(self) -> int:
        """Tokens of a full clip after merging 2 x 2 patches."""
        return self.max_frames * self.frame_grid[0] * self.frame_grid[1] // 4

    @property
    def generated_patches(self) -> int:
        """Latent patches of one request."""
        frames, rows, columns = self.latent_grid
        return frames * rows * columns

    @property
    def clean_patches(self) -> int:
        """Latent patches of the observed frame."""
        return self.latent_grid[1] * self.latent_grid[2]

    @property
    def generated_tokens(self) -> int:
        """Tokens that the generation tower computes."""
        return self.generated_patches + self.action_rows

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and numbers."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> 'Shapes':
        """Read what :meth:`to_json` wrote.

        :raises EngineError: Unknown fields or values that are not allowed.
        """
        try:
            values: dict[str, Any] = {
                name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}
            return cls(**values)
        except TypeError as error:
            raise EngineError(f'shapes: {sorted(content)} arrived: {error}') from error


def _triple(values: Any) -> tuple[int, int, int]:
    time, height, width = (int(value) for value in values)
    return time, height, width
