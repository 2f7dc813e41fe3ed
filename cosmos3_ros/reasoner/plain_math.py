"""What a decoder layer computes, in torch's own operations: on any device, and the measure of the fused ones.

Same mathematics as transformers' ``Qwen3VLTextModel``: RMSNorm, grouped-query attention with per-head norm
of queries and keys, rotary positions, SwiGLU.
"""

from dataclasses import dataclass, replace
from typing import Any

from ..model.layer_math import multiply_rows, quantise_rows
from ..resources import require
from .language_weights import LanguageWeights, Layer, Matrix


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """Where a decode step stands.

    :param start: int64 (1,), tokens of the prompt, on the device.
    :param step: int64 (1,), tokens decoded before this one, on the device.
    :param cos: (capacity, head width), rotary cosines of the tokens that follow the prompt.
    :param sin: Likewise.
    :param slots: int64 (capacity,), 0, 1, 2 ...
    :param length: Tokens in the cache including this one, int64 () on the host, where attention is cut there
        instead of masked.
    :param place: What :meth:`find` returns, where it is found once for all layers.
    :param seen: With ``length``: bool (tokens, length), what each of several tokens sees; None for one token.
    """

    start: Any
    step: Any
    cos: Any
    sin: Any
    slots: Any
    length: Any = None
    place: tuple[Any, Any, Any] | None = None
    seen: Any = None

    def find(self) -> tuple[Any, Any, Any]:
        """Return the token's slot (1,), cosines and sines (1, head width); likewise of several."""
        if self.place is not None:
            return self.place
        cos, sin = (table.index_select(0, self.step) for table in (self.cos, self.sin))
        return self.start + self.step, cos, sin

    def on_host(self, count: int = 1) -> 'Turn':
        """Return the same for ``count`` tokens that run on a CPU together: found once, attention cut."""
        slots, cos, sin = replace(self, step=self.step + self.slots[:count]).find()
        length = slots[-1] + 1
        seen = None if count == 1 else self.slots[:length] <= slots[:, None]
        return replace(self, place=(slots, cos, sin), length=length, seen=seen)


class PlainMath:
    """The steps of a layer.

    :param weights: Whose sizes and epsilon to use.
    """

    name = 'plain'

    def __init__(self, weights: LanguageWeights) -> None:
        self._torch = require('torch', 'model')
        self._weights = weights

    def multiply(self, x: Any, matrix: Matrix) -> Any:
        """Return ``x @ weight.T``; with eight bits the rows of ``x`` are quantised as well."""
        torch = self._torch
        if matrix.scale is None:
            return torch.nn.functional.linear(x, matrix.weight)
        values, scale = self.quantise(x)
        if x.device.type == 'cuda':
            return multiply_rows(values, scale, matrix.weight, matrix.scale[None], x.dtype)
        product = torch.nn.functional.linear(values.float(), matrix.weight.float())
        return (product * scale * matrix.scale).to(x.dtype)

    def quantise(self, x: Any) -> tuple[Any, Any]:
        """Return float8 rows of ``x`` and their scales (rows, 1)."""
        values, scale = quantise_rows(x)
        return values, scale

    def add_norm(self, x: Any, delta: Any, weight: Any) -> tuple[Any, Any]:
        """Return ``x + delta`` and its norm; ``delta`` may be None."""
        x = x if delta is None else x + delta
        return x, self._norm(x, weight)

    def project(self, joined: Any, layer: Layer, cos: Any, sin: Any, keys: Any, values: Any) -> Any:
        """Put rotated keys, and values, into the cache from its start on; return rotated queries.

        :param joined: (N, (heads + 2 kv heads) * head width).
        :param cos: (N, head width).
        :param keys: (kv heads, capacity, head width), and ``values`` alike.
        :returns: (N, heads, head width).
        """
        q, k, v = self._split(joined, layer, cos, sin)
        keys[:, :len(joined)] = k.transpose(0, 1)
        values[:, :len(joined)] = v.transpose(0, 1)
        return q

    def attend(self, q: Any, keys: Any, values: Any) -> Any:
        """Causal attention of N queries over N keys (kv heads, N, head width); returns (N, hidden)."""
        attended = self._torch.nn.functional.scaled_dot_product_attention(
            q.transpose(0, 1)[None], keys[None], values[None], is_causal=True, enable_gqa=True)[0]
        return attended.transpose(0, 1).reshape(len(q), -1)

    def attend_last(self, q: Any, keys: Any, values: Any, last: Any) -> Any:
        """Attention of the one query (1, heads, head width) that stands at ``last`` (1,)."""
        torch = self._torch
        seen = torch.arange(keys.shape[1], device=keys.device) <= last
        return self._masked(q, keys, values, seen)

    def gate(self, joined: Any) -> Any:
        """Return silu(gate) * up of (N, 2 * intermediate)."""
        gate, up = joined.chunk(2, dim=-1)
        return self._torch.nn.functional.silu(gate) * up

    def step(self, x: Any, layer: Layer, keys: Any, values: Any, turn: Turn) -> Any:
        """One token through one layer: extends the cache, returns the new hidden state (1, hidden).

        On a CPU several tokens, as ``turn`` says.
        """
        torch = self._torch
        at, cos, sin = turn.find()
        q, k, v = self._split(
            self.multiply(self._norm(x, layer.norm_in), layer.qkv), layer, cos, sin)
        keys.index_copy_(1, at, k.transpose(0, 1))
        values.index_copy_(1, at, v.transpose(0, 1))
        if turn.length is None:
            attended = self._masked(q, keys, values, turn.slots <= at)
        else:
            end, kv_heads, width = turn.length, self._weights.kv_heads, self._weights.head_dim
            # The queries that share a key head stand in its rows: grouped attention without copies.
            grouped = q.transpose(0, 1).reshape(kv_heads, -1, width)
            scores = torch.bmm(grouped, keys[:, :end].transpose(1, 2)).mul_(width ** -0.5)
            if turn.seen is not None:
                scores.masked_fill_(~turn.seen.repeat(self._weights.heads // kv_heads, 1), float('-inf'))
            mixed = torch.bmm(torch.softmax(scores, dim=-1), values[:, :end])
            attended = mixed.view(self._weights.heads, len(q), width).transpose(0, 1).reshape(len(q), -1)
        x = x + self.multiply(attended, layer.out)
        gated = self.gate(self.multiply(self._norm(x, layer.norm_mlp), layer.gate_up))
        return x + self.multiply(gated, layer.down)

    def choose(self, x: Any) -> Any:
        """Return the most probable token (1,) after the last hidden state (1, hidden), before its norm."""
        return self.multiply(self._norm(x, self._weights.norm), self._weights.head).argmax(-1)

    def _split(self, joined: Any, layer: Layer, cos: Any, sin: Any) -> tuple[Any, Any, Any]:
        shape = self._weights
        heads = joined.view(len(joined), -1, shape.head_dim)
        both, v = heads.split([shape.heads + shape.kv_heads, shape.kv_heads], dim=1)
        both = self._rotate(self._norm(both, layer.norm_qk), cos[:, None], sin[:, None])
        q, k = both.split([shape.heads, shape.kv_heads], dim=1)
        return q, k, v

    def _masked(self, q: Any, keys: Any, values: Any, seen: Any) -> Any:
        grouped = q.reshape(self._weights.kv_heads, -1, self._weights.head_dim)
        return self._torch.nn.functional.scaled_dot_product_attention(
            grouped[None], keys[None], values[None], attn_mask=seen[None, None]).reshape(1, -1)

    def _norm(self, x: Any, weight: Any) -> Any:
        # As transformers: the mean and the scale in float32, the weight in the model's precision.
        wide = x.float()
        scale = (wide * wide).mean(-1, keepdim=True).add_(self._weights.eps).rsqrt_()
        return (wide * scale).to(x.dtype) * weight

    def _rotate(self, x: Any, cos: Any, sin: Any) -> Any:
        half = x.shape[-1] // 2
        turned = self._torch.cat((-x[..., half:], x[..., :half]), dim=-1)
        return x * cos + turned * sin
