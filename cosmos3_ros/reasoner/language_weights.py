"""The language model's matrices as the static decoder takes them: few, wide, optionally in eight bits."""

from dataclasses import dataclass
from typing import Any

from ..model.layer_math import quantise_rows
from ..resources import require

WEIGHTS = ('dtype', 'fp8')
"""As the checkpoint's precision says, or float8_e4m3fn with one scale per output row."""


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """A linear map.

    :param weight: (outputs, inputs).
    :param scale: float32 (outputs,) that the rows of a float8 ``weight`` are to be multiplied with, or None.
    """

    weight: Any
    scale: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One decoder layer: query, key and value rows in one matrix, gate and up rows in another.

    :param norm_qk: (heads + kv heads, head width), the norm weights of queries and keys.
    """

    qkv: Matrix
    out: Matrix
    gate_up: Matrix
    down: Matrix
    norm_in: Any
    norm_mlp: Any
    norm_qk: Any


@dataclass(frozen=True, slots=True, eq=False)
class LanguageWeights:
    """Everything that the language model multiplies with.

    :param heads: Query heads.
    :param kv_heads: Key/value heads.
    :param head_dim: Width of a head.
    :param eps: Of the root mean square norms.
    """

    layers: tuple[Layer, ...]
    embedding: Any
    norm: Any
    head: Matrix
    rotary: Any
    heads: int
    kv_heads: int
    head_dim: int
    eps: float

    @property
    def device(self) -> Any:
        """Where the weights lie."""
        return self.head.weight.device

    @property
    def dtype(self) -> Any:
        """Precision of activations and caches."""
        return self.head.weight.dtype

    @property
    def size_bytes(self) -> int:
        """What one decoded token has to read: every matrix but the embedding."""
        matrices = [self.head, *(m for y in self.layers for m in (y.qkv, y.out, y.gate_up, y.down))]
        return sum(int(m.weight.numel()) * int(m.weight.element_size()) for m in matrices)


def take_weights(model: Any, weights: str = 'dtype') -> LanguageWeights:
    """Take over the matrices of a model; they become views of the fused ones, none is held twice.

    With ``fp8`` the model loses them instead: its own forward cannot be used any more.

    :param model: ``Cosmos3OmniForConditionalGeneration``.
    :param weights: One of :data:`WEIGHTS`.
    :raises ValueError: Unknown ``weights``, or an architecture that nobody has described here.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights: '{weights}' arrived, one of {list(WEIGHTS)} is allowed")
    config, language = model.config.text_config, model.model.language_model
    if config.attention_bias:
        raise ValueError('attention_bias: True arrived, False (every Cosmos 3) is allowed')
    layers = []
    for layer in language.layers:
        attention, mlp = layer.self_attn, layer.mlp
        layers.append(Layer(
            _join(weights, attention.q_proj, attention.k_proj, attention.v_proj),
            _join(weights, attention.o_proj), _join(weights, mlp.gate_proj, mlp.up_proj),
            _join(weights, mlp.down_proj), layer.input_layernorm.weight,
            layer.post_attention_layernorm.weight, require('torch', 'model').cat([
                attention.q_norm.weight.expand(config.num_attention_heads, -1),
                attention.k_norm.weight.expand(config.num_key_value_heads, -1)])))
    return LanguageWeights(
        tuple(layers), language.embed_tokens.weight, language.norm.weight, Matrix(model.lm_head.weight),
        language.rotary_emb, config.num_attention_heads, config.num_key_value_heads, config.head_dim,
        config.rms_norm_eps)


def _join(weights: str, *projections: Any) -> Matrix:
    torch = require('torch', 'model')
    parts = [projection.weight.data for projection in projections]
    joined = parts[0] if len(parts) == 1 else torch.cat(parts)
    if weights == 'fp8':
        for projection in projections:
            projection.weight.data = joined.new_empty(0)
        values, scale = quantise_rows(joined)
        return Matrix(values, scale[:, 0].contiguous())
    rows = torch.split(joined, [part.shape[0] for part in parts])
    for projection, view in zip(projections, rows, strict=True):
        projection.weight.data = view
    return Matrix(joined)
