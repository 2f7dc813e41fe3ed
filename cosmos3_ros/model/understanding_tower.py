"""Run the understanding tower over texts, one layer's weights on the device at a time.

A context is needed once per instruction, the tower's 13.9 GB (Nano, bfloat16) are not: a layer comes
in from its source, does its work for all texts, and goes.
"""

from collections.abc import Sequence
from typing import Any

from cosmos3_ros.resources import require

from .layer_math import activate, normalise, rotary_table, rotate
from .reasoner_context import ReasonerContext, context_identity
from .sequence_pack import SequencePack
from .tower_shape import TowerShape
from .weight_source import WeightSource

torch = require('torch', 'model')
functional = require('torch.nn.functional', 'model')

_ATTENTION = ('to_q', 'to_k', 'to_v', 'to_out')
_NORMS = ('norm_q', 'norm_k')


class UnderstandingTower:
    """Computes reasoner contexts.

    :param source: Where the weights lie.
    :param dtype: Precision of weights and contexts.
    :param checkpoint_hash: Names the weights in the contexts' identity.
    :param resident: Keep every layer on the device after its first use: a new instruction then costs
        tens of milliseconds instead of seconds, for 13.9 GB more (Nano, bfloat16).
    """

    def __init__(
        self, source: WeightSource, device: Any, dtype: Any, checkpoint_hash: str, *, resident: bool = False,
    ) -> None:
        self._source, self._device, self._dtype = source, torch.device(device), dtype
        self._hash = checkpoint_hash
        self._shape = TowerShape.of(source.config)
        self._kept: list[dict[str, Any]] | None = [] if resident else None

    def contexts(self, texts: Sequence[Sequence[int]]) -> list[ReasonerContext]:
        """Return the context of each text; together they cost little more than one.

        :param texts: Token ids, as :func:`prompt_tokens.prompt_tokens` returns them.
        """
        shape = self._shape
        with torch.no_grad():
            hidden = [self._source.rows('embed_tokens.weight', ids).to(self._device, self._dtype)
                      for ids in texts]
            tables = [
                rotary_table(shape, SequencePack(len(ids), (1, 1, 1), 1).text_positions, self._device,
                             self._dtype) for ids in texts]
            keys: list[list[Any]] = [[] for _ in texts]
            values: list[list[Any]] = [[] for _ in texts]
            for i in range(shape.layers):
                layer = self._layer(i)
                for j, table in enumerate(tables):
                    key, value, hidden[j] = self._step(layer, hidden[j], table, last=i + 1 == shape.layers)
                    keys[j].append(key)
                    values[j].append(value)
        return [
            ReasonerContext(tuple(keys[j]), tuple(values[j]), context_identity(
                self._hash, [int(t) for t in ids], str(self._dtype)))
            for j, ids in enumerate(texts)]

    def _layer(self, index: int) -> dict[str, Any]:
        if self._kept is not None and index < len(self._kept):
            return self._kept[index]
        shape = self._shape
        last = index + 1 == shape.layers
        names = {f'self_attn.{n}': n for n in (_ATTENTION[1:3] if last else _ATTENTION)}
        if shape.text_norms:
            names |= {f'self_attn.{n}': n for n in _NORMS}
        if shape.text_key_norm:
            names['self_attn.k_norm_und_for_gen'] = 'key_norm'
        names['input_layernorm'] = 'norm_in'
        if not last:  # of the last layer only keys and values are read
            names['post_attention_layernorm'] = 'norm_out'
            feed = ('gate_proj', 'up_proj', 'down_proj')[0 if shape.gated else 1:]
            names |= {f'mlp.{n}': n for n in feed}
        layer = {
            short: self._source.get(f'layers.{index}.{name}.weight').to(self._device, self._dtype)
            for name, short in names.items()}
        if self._kept is not None:
            self._kept.append(layer)
        return layer

    def _step(
        self, w: dict[str, Any], hidden: Any, table: tuple[Any, Any], *, last: bool,
    ) -> tuple[Any, Any, Any]:
        shape, (cos, sin) = self._shape, table
        normed = normalise(hidden, w['norm_in'], shape)
        key = functional.linear(normed, w['to_k']).unflatten(-1, (shape.kv_heads, -1))
        value = functional.linear(normed, w['to_v']).unflatten(-1, (shape.kv_heads, -1))
        if shape.text_norms:
            key = normalise(key, w['norm_k'], shape)
        read = normalise(key, w['key_norm'], shape) if shape.text_key_norm else key
        read = rotate(read, cos, sin)
        if last:
            return read, value, hidden
        query = functional.linear(normed, w['to_q']).unflatten(-1, (shape.heads, -1))
        if shape.text_norms:
            query = normalise(query, w['norm_q'], shape)
        own = rotate(key, cos, sin) if shape.text_key_norm else read
        mixed = functional.scaled_dot_product_attention(
            *(t[None].transpose(1, 2) for t in (rotate(query, cos, sin), own, value)),
            is_causal=True, enable_gqa=True)
        hidden = hidden + functional.linear(mixed.transpose(1, 2)[0].flatten(-2), w['to_out'])
        normed = normalise(hidden, w['norm_out'], shape)
        joined = functional.linear(normed, w['up_proj'])
        if shape.gated:
            joined = torch.cat([functional.linear(normed, w['gate_proj']), joined], dim=-1)
        return read, value, hidden + functional.linear(activate(joined, shape), w['down_proj'])
