"""The reasoner's language model, some consecutive layers at a time.

One graph serves prefill and decode: it reads a key/value cache and returns the new tokens' keys and
values. With 1024 tokens and a cache of one masked slot it is the prefill, with one token and a full
cache the decode step. They are one plan, because two would hold the 15 GB of weights twice.
"""

from typing import Any

import torch
from torch import nn

from ..dimensions import Dimensions
from .blocks import GatedMlp, RmsNorm, attend, rotate


class _Attention(nn.Module):
    def __init__(self, d: Dimensions) -> None:
        super().__init__()
        self.to_q = nn.Linear(d.hidden, d.heads * d.head_dim, bias=False)
        self.to_k = nn.Linear(d.hidden, d.kv_heads * d.head_dim, bias=False)
        self.to_v = nn.Linear(d.hidden, d.kv_heads * d.head_dim, bias=False)
        self.to_out = nn.Linear(d.heads * d.head_dim, d.hidden, bias=False)
        self.norm_q = RmsNorm(d.head_dim, d.rms_eps)
        self.norm_k = RmsNorm(d.head_dim, d.rms_eps)
        self.width = d.head_dim

    def forward(
        self, states: Any, cos: Any, sin: Any, mask: Any, keys: Any, values: Any,
    ) -> tuple[Any, Any, Any]:
        split = (-1, self.width)
        query = rotate(self.norm_q(self.to_q(states).unflatten(-1, split)), cos, sin)
        key = rotate(self.norm_k(self.to_k(states).unflatten(-1, split)), cos, sin).transpose(0, 1)
        value = self.to_v(states).unflatten(-1, split).transpose(0, 1)
        mixed = attend(query, torch.cat((keys, key), dim=1), torch.cat((values, value), dim=1), mask)
        return self.to_out(mixed), key, value


class _Layer(nn.Module):
    def __init__(self, d: Dimensions) -> None:
        super().__init__()
        self.self_attn = _Attention(d)
        self.mlp = GatedMlp(d.hidden, d.intermediate)
        self.input_layernorm = RmsNorm(d.hidden, d.rms_eps)
        self.post_attention_layernorm = RmsNorm(d.hidden, d.rms_eps)

    def forward(
        self, states: Any, cos: Any, sin: Any, mask: Any, keys: Any, values: Any,
    ) -> tuple[Any, Any, Any]:
        mixed, key, value = self.self_attn(self.input_layernorm(states), cos, sin, mask, keys, values)
        states = states + mixed
        return states + self.mlp(self.post_attention_layernorm(states)), key, value


class LanguageSegment(nn.Module):
    """Layers ``first`` .. ``last - 1``; the last segment ends in logits.

    :param first: First layer; parameters keep the checkpoint's layer numbers.
    :param last: One past the last layer.
    """

    def __init__(self, dimensions: Dimensions, first: int, last: int) -> None:
        super().__init__()
        d = dimensions
        self.layers = nn.ModuleDict({str(i): _Layer(d) for i in range(first, last)})
        self.features = max(0, min(len(d.deepstack), last) - first)
        self.first_feature = first
        self.ends = last == d.layers
        if self.ends:
            self.norm = RmsNorm(d.hidden, d.rms_eps)
            self.lm_head = nn.Linear(d.hidden, d.vocabulary, bias=False)

    def forward(
        self, hidden: Any, cos: Any, sin: Any, mask: Any, cache_keys: Any, cache_values: Any, *more: Any,
    ) -> tuple[Any, Any, Any]:
        """Return hidden states (tokens, hidden), or float32 logits (1, vocabulary); new keys; new values.

        :param hidden: (tokens, hidden): embeddings, or what the segment before returned.
        :param cos: float32 (tokens, head width), see :func:`blocks.rotary_table`; ``sin`` alike.
        :param mask: bool (tokens, cached + tokens): what each token may look at.
        :param cache_keys: (layers, key/value heads, cached, head width), positions applied.
        :param more: If a layer of this segment takes vision features: ``slot`` int64 (tokens), the row
            of a vision token among the features, -1 for text, and ``deepstack`` (levels, rows, hidden).
            If the segment is the last: ``pick`` (1, tokens), one at the token whose logits are wanted.
        """
        cos, sin = cos[:, None], sin[:, None]
        new_keys, new_values = [], []
        for i, layer in enumerate(self.layers.values()):
            hidden, key, value = layer(hidden, cos, sin, mask, cache_keys[i], cache_values[i])
            new_keys.append(key)
            new_values.append(value)
            if i < self.features:
                slot, deepstack = more[0], more[1]
                rows = deepstack[self.first_feature + i].index_select(0, slot.clamp(min=0))
                hidden = hidden + torch.where((slot >= 0)[:, None], rows, torch.zeros_like(rows))
        if self.ends:
            # A product, not an index: TensorRT-RTX 1.7 moves an index up through the dynamic layers and
            # then cannot build them.
            hidden = self.lm_head(self.norm(more[-1] @ hidden)).float()
        return hidden, torch.stack(new_keys), torch.stack(new_values)
