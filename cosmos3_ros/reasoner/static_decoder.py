"""The reasoner's language model on a static key/value cache.

On a CUDA device the vision tower, the prompt and each decoded token are one CUDA graph each, per bucket
of shapes; elsewhere the same functions run as they stand the first time, and then as they were recorded.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from ..model.host_trace import HostTrace
from ..resources import require
from .decoder_state import DecoderInput, KeyValues, PromptInput, VisionOutput, keep_newest
from .device_graph import DeviceGraph, TokenMail
from .efficient_video_sampling import kept_tokens, retention_mask
from .host_writer import HostWriter
from .language_weights import LanguageWeights
from .plain_math import PlainMath, Turn
from .vision_tower import Grid, VisionTables, VisionTower

CAPACITY_STEP = 256
"""Cache lengths are multiples of this, so that few shapes are ever captured."""

CACHES = 4
"""Key/value caches that are kept."""

PROMPT_STEP = 64
"""On a CUDA device prompts are filled up to multiples of this."""

AHEAD = 2
"""Tokens that a GPU computes beyond the one that the host looks at, so that it never waits for the host."""

BUCKETS = 8
"""Captured shapes of prompts and of vision inputs that are kept, each."""


class StaticDecoder:
    """Greedy decoding. Sequences of different lanes may be written in turns, token by token.

    :param weights: From :func:`language_weights.take_weights`.
    :param vision: The tower that sees.
    :param math: How a layer is computed.
    :param rate: Pruning rate of Efficient Video Sampling; 0 is off.
    :param lookup: On a CPU: see :class:`host_writer.HostWriter`.
    """

    def __init__(
        self, weights: LanguageWeights, vision: VisionTower, math: PlainMath, rate: float = 0.0,
        lookup: bool = False,
    ) -> None:
        self._torch = require('torch', 'model')
        self._weights, self._tower, self._math, self._rate = weights, vision, math, rate
        self._device, self._dtype = weights.device, weights.dtype
        self._graphs: bool = self._device.type == 'cuda'
        self._pool = self._torch.cuda.graph_pool_handle() if self._graphs else None
        self.host = HostWriter(weights, math, lookup)
        self._caches: dict[tuple[int, int], KeyValues] = {}
        self._visions: dict[tuple[Grid, ...], VisionOutput] = {}
        self._prompts: dict[tuple[int, tuple[int, int], tuple[Grid, ...]], PromptInput] = {}

    @property
    def records(self) -> bool:
        """Whether work is recorded per shape, which makes the first of each slow."""
        return self._graphs

    @property
    def weight_bytes(self) -> int:
        """What one decoded token has to read."""
        return self._weights.size_bytes

    def write(self, given: DecoderInput, most: int, lane: int = 0) -> Iterator[int]:
        """Yield up to ``most`` tokens, each the most probable next one.

        Stop iterating to stop computing; on a GPU :data:`AHEAD` tokens are computed in vain.

        :param lane: Sequences that are under way together need different ones: each has its own cache.
        """
        cache = self.begin(given, most, lane)
        yield int(cache.token)
        if self._graphs:
            yield from self._replay(cache, most)
            return
        yield from self.host.write(cache, most, lane)

    def prompt_length(self, given: DecoderInput) -> int:
        """Return the tokens that the language model sees, after pruning."""
        return int(given.ids.shape[0]) - self._dropped(given.grids)

    def begin(self, given: DecoderInput, most: int, lane: int = 0) -> KeyValues:
        """Compute the prompt and its first token; on a GPU nothing is waited for.

        :returns: The cache that holds them, ready for :meth:`step`.
        """
        needed = self._padded(int(given.ids.shape[0])) - self._dropped(given.grids) + most
        cache = self._cache(needed, lane)
        vision = self.see(given)
        self.read(given, vision, cache, most)
        return cache

    def see(self, given: DecoderInput) -> VisionOutput:
        """Run the vision tower."""
        vision = self._visions.get(given.grids)
        if vision is None:
            vision = VisionOutput(
                self._tower.tables(given.grids),
                self._torch.empty(given.pixels.shape, dtype=self._dtype, device=self._device))
            gone = keep_newest(self._visions, given.grids, vision, BUCKETS)
            if gone is not None:  # recorded prompts read the features where they lay
                self._prompts = {key: prompt for key, prompt in self._prompts.items() if key[2] != gone}
        vision.pixels.copy_(given.pixels, non_blocking=True)
        if not self._graphs:
            tables = vision.tables
            vision.trace = vision.trace or HostTrace(partial(self._see, tables))
            vision.merged, *levels = vision.trace.run(vision.pixels)
            vision.levels = tuple(levels)
            return vision
        if vision.graph is None:
            made, levels = self._tower.encode(vision.pixels, vision.tables)
            vision.merged, vision.levels = made.clone(), tuple(level.clone() for level in levels)
            vision.graph = DeviceGraph(lambda: self._look(vision), self._pool)
        vision.graph.replay()
        return vision

    def _see(self, tables: VisionTables, pixels: Any) -> tuple[Any, ...]:
        merged, levels = self._tower.encode(pixels, tables)
        return merged, *levels

    def _look(self, vision: VisionOutput) -> None:
        merged, levels = self._tower.encode(vision.pixels, vision.tables)
        vision.merged.copy_(merged)
        for kept, level in zip(vision.levels, levels, strict=True):
            kept.copy_(level)

    def read(self, given: DecoderInput, vision: VisionOutput, cache: KeyValues, most: int) -> None:
        """Fill the cache with the prompt and choose the first token."""
        length = int(given.ids.shape[0])
        padded = self._padded(length)
        key = (padded, cache.key, given.grids)
        prompt = self._prompts.get(key)
        if prompt is None:
            prompt = self._make_prompt(padded, len(given.visual))
            if self._graphs:
                keep_newest(self._prompts, key, prompt, BUCKETS)
        for kept, new in ((prompt.ids, given.ids), (prompt.positions, given.positions)):
            kept[..., :length].copy_(new, non_blocking=True)
        prompt.visual.copy_(given.visual, non_blocking=True)
        prompt.last.fill_(length - 1)
        if not self._graphs:
            self._fill(prompt, vision, cache, most)
            return
        if prompt.graph is None:
            prompt.graph = DeviceGraph(
                lambda: self._fill(prompt, vision, cache, int(cache.keys.shape[2])), self._pool)
        prompt.graph.replay()

    def _make_prompt(self, padded: int, visual: int) -> PromptInput:
        torch = self._torch
        make = {'dtype': torch.long, 'device': self._device}
        return PromptInput(torch.zeros(padded, **make), torch.zeros(3, padded, **make),
                       torch.zeros(visual, **make), torch.zeros(1, **make))

    def _fill(self, prompt: PromptInput, vision: VisionOutput, cache: KeyValues, follow: int) -> None:
        """From token ids and vision features to a cache that holds the prompt, and the first token."""
        torch, math, weights = self._torch, self._math, self._weights
        x, levels, positions, last = self._enter(prompt, vision)
        # Text goes on after the last token, on all three axes alike.
        after = positions.index_select(1, last) + torch.arange(1, follow + 1, device=self._device)
        cos, sin = (table[0] for table in weights.rotary(x[None], torch.cat([positions, after], 1)[:, None]))
        length = len(x)
        cache.turn.cos[:follow].copy_(cos[length:])
        cache.turn.sin[:follow].copy_(sin[length:])
        cos, sin = cos[:length].contiguous(), sin[:length].contiguous()
        delta = None
        for index, layer in enumerate(weights.layers):
            x, normed = math.add_norm(x, delta, layer.norm_in)
            keys, values = cache.keys[index], cache.values[index]
            q = math.project(math.multiply(normed, layer.qkv), layer, cos, sin, keys, values)
            keys, values = keys[:, :length], values[:, :length]
            if index + 1 < len(weights.layers):
                attended = math.attend(q, keys, values)
            else:  # of the last layer only the last token goes on
                x, q = x.index_select(0, last), q.index_select(0, last)
                attended = math.attend_last(q, keys, values, last)
            x, normed = math.add_norm(x, math.multiply(attended, layer.out), layer.norm_mlp)
            delta = math.multiply(math.gate(math.multiply(normed, layer.gate_up)), layer.down)
            if index < len(levels) and len(x) == length:
                x, delta = x + delta + levels[index], None
        if delta is not None:
            x = x + delta
        cache.token.copy_(math.choose(x[-1:] if len(x) == 1 else x.index_select(0, last)))
        cache.turn.step.zero_()
        cache.turn.start.copy_(last + 1)

    def _enter(self, prompt: PromptInput, vision: VisionOutput) -> tuple[Any, list[Any], Any, Any]:
        """Return hidden states, deepstack features for every token, positions and the last text's index."""
        torch = self._torch
        x = torch.nn.functional.embedding(prompt.ids, self._weights.embedding)
        x = x.index_copy(0, prompt.visual, vision.merged.to(x.dtype))
        levels = [torch.zeros_like(x).index_copy_(0, prompt.visual, level.to(x.dtype))
                  for level in vision.levels]
        if not self._rate:
            return x, levels, prompt.positions, prompt.last
        clips = torch.split(vision.merged, self._tower.tokens(vision.tables.grids))
        masks = torch.cat([retention_mask(clip, grid[0], self._rate)
                           for clip, grid in zip(clips, vision.tables.grids, strict=True)])
        stays = torch.ones(len(x), dtype=torch.bool, device=self._device).index_copy_(0, prompt.visual, masks)
        # A stable sort puts what stays first, in its order: how many is known, so nobody has to count.
        dropped = self._dropped(vision.tables.grids)
        order = torch.argsort((~stays).to(torch.uint8), stable=True)[:len(x) - dropped]
        return (x.index_select(0, order), [level.index_select(0, order) for level in levels],
                prompt.positions.index_select(1, order), prompt.last - dropped)

    def step(self, cache: KeyValues) -> None:
        """Append one token to the cache and choose the next."""
        x = self._torch.nn.functional.embedding(cache.token, self._weights.embedding)
        for index, layer in enumerate(self._weights.layers):
            x = self._math.step(x, layer, cache.keys[index], cache.values[index], cache.turn)
        cache.token.copy_(self._math.choose(x))
        cache.turn.step.add_(1)

    def record_step(self, cache: KeyValues) -> DeviceGraph:
        """Return the graph of :meth:`step`; recording it leaves the cache as it was."""
        if cache.graph is None:
            kept, steps = cache.token.clone(), cache.turn.step.clone()
            cache.graph = DeviceGraph(lambda: self.step(cache), self._pool)
            # The rehearsals moved on and wrote behind the prompt, where the real steps write again.
            cache.token.copy_(kept)
            cache.turn.step.copy_(steps)
        return cache.graph

    def _replay(self, cache: KeyValues, most: int) -> Iterator[int]:
        graph, mail = self.record_step(cache), TokenMail(most)
        for step in range(most - 1 + AHEAD):
            if step < most - 1:
                graph.replay()
                mail.send(step, cache.token)
            if step >= AHEAD:
                yield mail.receive(step - AHEAD)

    def _cache(self, needed: int, lane: int = 0) -> KeyValues:
        key = (lane, -(-needed // CAPACITY_STEP) * CAPACITY_STEP)
        cache = self._caches.get(key)
        if cache is None:
            cache = self._make_cache(key)
            gone = keep_newest(self._caches, key, cache, CACHES)
            if gone is not None:
                self._prompts = {name: prompt for name, prompt in self._prompts.items() if name[1] != gone}
        return cache

    def _make_cache(self, key: tuple[int, int]) -> KeyValues:
        torch, shape = self._torch, self._weights
        size = (len(shape.layers), shape.kv_heads, key[1], shape.head_dim)
        make = {'device': self._device, 'dtype': self._dtype}
        whole = {'device': self._device, 'dtype': torch.long}
        turn = Turn(
            torch.zeros(1, **whole), torch.zeros(1, **whole), torch.zeros(size[2:], **make),
            torch.zeros(size[2:], **make), torch.arange(key[1], device=self._device))
        return KeyValues(
            key, torch.zeros(size, **make), torch.zeros(size, **make), torch.zeros(1, **whole), turn)

    def _padded(self, length: int) -> int:
        return -(-length // PROMPT_STEP) * PROMPT_STEP if self._graphs else length

    def _dropped(self, grids: tuple[Grid, ...]) -> int:
        if not self._rate:
            return 0
        return sum(tokens - kept_tokens(grid[0], tokens // grid[0], self._rate)
                   for tokens, grid in zip(self._tower.tokens(grids), grids, strict=True))
