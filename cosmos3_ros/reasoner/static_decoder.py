"""The reasoner's language model on a static key/value cache, one device call graph per token.

Same mathematics as transformers' ``Qwen3VLTextModel``: RMSNorm, grouped-query attention with per-head
norm of queries and keys, interleaved three-axis rotary positions, SwiGLU, vision features added after
the first layers (deepstack). Query, key and value, and gate and up, are one matrix each.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..resources import require

CAPACITY_STEP = 256
"""Cache lengths are multiples of this, so that few shapes are ever captured."""

BLOCK = 8
"""Tokens per look of the host at the device, where a look costs a synchronisation."""


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    qkv: Any
    out: Any
    gate_up: Any
    down: Any
    norm_in: Any
    norm_mlp: Any
    norm_qk: Any


@dataclass(slots=True, eq=False)
class _Cache:
    """Keys and values (layers, kv heads, capacity, head width) and what a decode step reads and writes."""

    keys: Any
    values: Any
    cos: Any
    sin: Any
    token: Any
    step: Any
    start: Any
    written: Any
    slots: Any
    graph: Any = None


class StaticDecoder:
    """Greedy decoding of one sequence at a time.

    Takes over the model's matrices: they become views of the fused ones, so no weight is held twice.

    :param model: ``Cosmos3OmniForConditionalGeneration``, in evaluation mode.
    :raises ValueError: An architecture that this class does not know (biases in attention).
    """

    def __init__(self, model: Any) -> None:
        self._torch = require('torch', 'model')
        config = model.config.text_config
        if config.attention_bias:
            raise ValueError('attention_bias: True arrived, False (every Cosmos 3) is allowed')
        self._language, self._head = model.model.language_model, model.lm_head
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._head_dim, self._eps = config.head_dim, config.rms_norm_eps
        self._layers = [self._fuse(layer) for layer in self._language.layers]
        self._caches: dict[int, _Cache] = {}
        self._device, self._dtype = self._head.weight.device, self._head.weight.dtype

    def _fuse(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        return _Layer(
            self._join(attention.q_proj, attention.k_proj, attention.v_proj), attention.o_proj.weight,
            self._join(mlp.gate_proj, mlp.up_proj), mlp.down_proj.weight,
            layer.input_layernorm.weight, layer.post_attention_layernorm.weight,
            self._torch.cat([
                attention.q_norm.weight.expand(self._heads, -1),
                attention.k_norm.weight.expand(self._kv_heads, -1)]))

    def _join(self, *projections: Any) -> Any:
        joined = self._torch.cat([projection.weight.data for projection in projections])
        rows = self._torch.split(joined, [projection.weight.shape[0] for projection in projections])
        for projection, view in zip(projections, rows, strict=True):
            projection.weight.data = view
        return joined

    def write(
        self, embeddings: Any, positions: Any, visual: Any, deepstack: list[Any], most: int,
    ) -> Iterator[int]:
        """Yield up to ``most`` tokens, each the most probable next one.

        Stop iterating to stop computing; on a GPU up to :data:`BLOCK` tokens are computed ahead.

        :param embeddings: (N, hidden), the prompt with vision embeddings filled in.
        :param positions: (3, 1, N), rotary positions; text goes on after the last one.
        :param visual: (N,) boolean, where the rows of ``deepstack`` belong.
        :param deepstack: Per leading layer (vision tokens, hidden).
        """
        torch = self._torch
        length = int(embeddings.shape[0])
        cache = self._cache(length + most)
        follow = positions[:, :, -1:] + torch.arange(1, most + 1, device=positions.device)
        cos, sin = self._language.rotary_emb(embeddings[None], torch.cat([positions, follow], dim=-1))
        cos, sin = cos[0, :, None], sin[0, :, None]
        cache.cos[:most], cache.sin[:most] = cos[length:], sin[length:]
        last = self._prefill(cache, embeddings, cos[:length], sin[:length], visual, deepstack)
        cache.token.copy_(self._choose(last))
        cache.step.zero_()
        cache.start.fill_(length)
        yield int(cache.token)
        if self._device.type == 'cuda':
            yield from self._replay(cache, most)
            return
        for step in range(most - 1):
            self._step(cache, step, length + step + 1)
            yield int(cache.token)

    def _replay(self, cache: _Cache, most: int) -> Iterator[int]:
        if cache.graph is None:
            cache.graph = self._capture(cache)
        for first in range(0, most - 1, BLOCK):
            count = min(BLOCK, most - 1 - first)
            for _ in range(count):
                cache.graph.replay()
            yield from cache.written[first:first + count].tolist()

    def _capture(self, cache: _Cache) -> Any:
        torch = self._torch
        kept = cache.token.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._step(cache, None, None)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step(cache, None, None)
        # The rehearsals moved on and wrote behind the prompt, where the real steps write again.
        cache.token.copy_(kept)
        cache.step.zero_()
        return graph

    def _cache(self, needed: int) -> _Cache:
        capacity = -(-needed // CAPACITY_STEP) * CAPACITY_STEP
        cache = self._caches.get(capacity)
        if cache is None:
            torch = self._torch
            shape = (len(self._layers), self._kv_heads, capacity, self._head_dim)
            make = {'device': self._device, 'dtype': self._dtype}
            whole = {'device': self._device, 'dtype': torch.long}
            turn = (capacity, 1, self._head_dim)
            cache = _Cache(
                torch.zeros(shape, **make), torch.zeros(shape, **make),
                torch.zeros(turn, **make), torch.zeros(turn, **make),
                torch.zeros(1, **whole), torch.zeros(1, **whole), torch.zeros(1, **whole),
                torch.zeros(capacity, **whole), torch.arange(capacity, device=self._device))
            if len(self._caches) >= 4:
                self._caches.pop(next(iter(self._caches)))
            self._caches[capacity] = cache
        return cache

    def _prefill(self, cache: _Cache, x: Any, cos: Any, sin: Any, visual: Any, deepstack: list[Any]) -> Any:
        torch = self._torch
        length = x.shape[0]
        where = visual.nonzero()[:, 0]
        for index, layer in enumerate(self._layers):
            q, k, v = self._project(layer, x, cos, sin)
            cache.keys[index, :, :length], cache.values[index, :, :length] = k, v
            attended = torch.nn.functional.scaled_dot_product_attention(
                q[None], k[None], v[None], is_causal=True, enable_gqa=True)[0]
            x = self._finish(layer, x, attended.transpose(0, 1).reshape(length, -1))
            if index < len(deepstack):
                x = x.index_add(0, where, deepstack[index].to(x.dtype))
        return x[-1:]

    def _step(self, cache: _Cache, step: int | None, length: int | None) -> None:
        """Append one token. With numbers the cache is cut to length, without it is masked on the device."""
        torch = self._torch
        x = torch.nn.functional.embedding(cache.token, self._language.embed_tokens.weight)
        if step is None or length is None:
            at = cache.start + cache.step
            cos, sin = cache.cos.index_select(0, cache.step), cache.sin.index_select(0, cache.step)
            mask = (cache.slots <= at)[None, None]
        else:
            cos, sin, mask = cache.cos[step:step + 1], cache.sin[step:step + 1], None
        for index, layer in enumerate(self._layers):
            q, k, v = self._project(layer, x, cos, sin)
            keys, values = cache.keys[index], cache.values[index]
            if length is None:
                keys.index_copy_(1, at, k)
                values.index_copy_(1, at, v)
            else:
                keys[:, length - 1:length], values[:, length - 1:length] = k, v
                keys, values = keys[:, :length], values[:, :length]
            # The queries that share a key head stand in its rows: grouped attention without copies.
            grouped = q.reshape(self._kv_heads, -1, self._head_dim)
            if mask is None:
                scores = torch.bmm(grouped, keys.transpose(1, 2)).mul_(self._head_dim ** -0.5)
                attended = torch.bmm(torch.softmax(scores, dim=-1), values)
            else:
                attended = torch.nn.functional.scaled_dot_product_attention(
                    grouped[None], keys[None], values[None], attn_mask=mask)
            x = self._finish(layer, x, attended.reshape(1, -1))
        cache.token.copy_(self._choose(x))
        if length is None:
            cache.written.index_copy_(0, cache.step, cache.token)
            cache.step.add_(1)

    def _project(self, layer: _Layer, x: Any, cos: Any, sin: Any) -> tuple[Any, Any, Any]:
        """Return rotated queries, rotated keys and values, each (heads, N, head width)."""
        functional = self._torch.nn.functional
        joined = functional.linear(self._norm(x, layer.norm_in), layer.qkv)
        heads = joined.view(x.shape[0], -1, self._head_dim)
        both, v = heads.split([self._heads + self._kv_heads, self._kv_heads], dim=1)
        both = self._rotate(self._norm(both, layer.norm_qk), cos, sin)
        q, k = both.split([self._heads, self._kv_heads], dim=1)
        return q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)

    def _finish(self, layer: _Layer, x: Any, attended: Any) -> Any:
        functional = self._torch.nn.functional
        x = x + functional.linear(attended, layer.out)
        gate, up = functional.linear(self._norm(x, layer.norm_mlp), layer.gate_up).chunk(2, dim=-1)
        return x + functional.linear(functional.silu(gate) * up, layer.down)

    def _choose(self, x: Any) -> Any:
        x = self._norm(x, self._language.norm.weight)
        return self._torch.nn.functional.linear(x, self._head.weight).argmax(-1)

    def _norm(self, x: Any, weight: Any) -> Any:
        # As transformers: the mean and the scale in float32, the weight in the model's precision.
        wide = x.float()
        scale = (wide * wide).mean(-1, keepdim=True).add_(self._eps).rsqrt_()
        return (wide * scale).to(x.dtype) * weight

    def _rotate(self, x: Any, cos: Any, sin: Any) -> Any:
        half = x.shape[-1] // 2
        turned = self._torch.cat((-x[..., half:], x[..., :half]), dim=-1)
        return x * cos + turned * sin
