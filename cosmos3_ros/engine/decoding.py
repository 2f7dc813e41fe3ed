"""Greedy decoding over language segments, whatever runs them."""

from collections.abc import Sequence
from typing import Any

from cosmos3_ros.resources import require

from .dimensions import Dimensions, Shapes
from .errors import EngineError
from .fidelity import Runner
from .graphs.blocks import rotary_table
from .segments import Segment
from .vectors import Tensors, cast_inputs

torch = require('torch', 'model')


class LanguageChain:
    """The language model as a chain of segments with a key/value cache of fixed room.

    :param embedding: Table (vocabulary, hidden); looking up is no work for an engine.
    :param dtype: torch's name of the compute type.
    :param device: Where the runners work; the cache lives there.
    :raises EngineError: The runners do not fit the segments.
    """

    def __init__(
        self, segments: Sequence[Segment], runners: Sequence[Runner], dimensions: Dimensions, shapes: Shapes,
        embedding: Any, dtype: str = 'float32', device: str = 'cpu',
    ) -> None:
        if not segments or len(segments) != len(runners):
            raise EngineError(f'language chain: {len(segments)} segments and {len(runners)} runners arrived')
        self._parts = list(zip(segments, runners, strict=True))
        self._dimensions, self._shapes, self._dtype = dimensions, shapes, dtype
        self._device = torch.device(device)
        self._embedding = embedding.to(self._device)
        self._filled = 0
        self._caches: list[Tensors] = []

    def prefill(
        self, embedded: Any, positions: Any, slot: Any = None, deepstack: Any = None,
    ) -> Any:
        """Read a prompt and return the logits after its last token, float32 (vocabulary).

        :param embedded: (tokens, hidden), vision tokens in place.
        :param positions: (3, tokens).
        :param slot: int64 (tokens), row of a vision token in ``deepstack``, -1 for text; None is all text.
        :param deepstack: (levels, rows, hidden).
        :raises EngineError: More tokens than the plans take.
        """
        tokens = embedded.shape[0]
        if not 2 <= tokens <= self._shapes.max_prompt:
            raise EngineError(
                f'prompt: {tokens} tokens arrived, 2 to {self._shapes.max_prompt} are allowed; '
                'build with a larger --max-prompt')
        self._filled = 0
        self._caches = [self._empty_cache(segment) for segment, _ in self._parts]
        mask = torch.zeros(tokens, tokens + 1, dtype=torch.bool, device=self._device)
        mask[:, 1:] = torch.ones(tokens, tokens, dtype=torch.bool, device=self._device).tril()
        pick = torch.zeros(1, tokens, device=self._device)
        pick[0, -1] = 1.0
        return self._step(embedded, positions, mask, pick, slot, deepstack, cached=1)

    def decode(self, token: int, position: float) -> Any:
        """Read one more token and return the logits after it.

        :param position: The same on all three axes.
        :raises EngineError: The cache is full.
        """
        if self._filled >= self._shapes.cache:
            raise EngineError(
                f'cache: it holds {self._shapes.cache} tokens and is full; build with a larger --cache')
        mask = torch.zeros(1, self._shapes.cache + 1, dtype=torch.bool, device=self._device)
        mask[:, :self._filled] = mask[:, -1:] = True
        positions = torch.full((3, 1), float(position), device=self._device)
        return self._step(
            self._embedding[token:token + 1], positions, mask,
            torch.ones(1, 1, device=self._device), None, None,
            cached=self._shapes.cache)

    def greedy(self, tokens: Sequence[int], new_tokens: int, end: Sequence[int] = ()) -> list[int]:
        """Return the answer to a prompt of text, its tokens one by one the most likely."""
        return self.go_on(self.read(tokens), len(tokens), new_tokens, end)

    def read(self, tokens: Sequence[int]) -> Any:
        """Read a prompt of text and return the logits after it."""
        return self.prefill(*self._embed(tokens))

    def go_on(self, logits: Any, position: float, new_tokens: int, end: Sequence[int] = ()) -> list[int]:
        """Return the greedy answer after a prefill.

        :param logits: What :meth:`prefill` returned.
        :param position: Of the first new token: past the largest of the prompt.
        """
        answer: list[int] = []
        while True:
            answer.append(int(logits.argmax()))
            if len(answer) >= new_tokens or answer[-1] in end:
                return answer
            logits = self.decode(answer[-1], position + len(answer) - 1)

    def context(self, tokens: Sequence[int]) -> tuple[Any, Any]:
        """Return what the generation tower reads of a text: keys and values of all layers.

        Both (layers, key/value heads, tokens, head width), positions applied.
        """
        self.read(tokens)
        keys, values = (
            torch.cat([cache[name][:, :, :self._filled] for cache in self._caches])
            for name in ('cache_keys', 'cache_values'))
        return keys, values

    def _embed(self, tokens: Sequence[int]) -> tuple[Any, Any]:
        ids = torch.tensor(list(tokens), device=self._device)
        positions = torch.arange(len(ids), dtype=torch.float32, device=self._device)
        return self._embedding[ids], positions.expand(3, -1)

    def _step(
        self, hidden: Any, positions: Any, mask: Any, pick: Any, slot: Any, deepstack: Any, *, cached: int,
    ) -> Any:
        tokens = hidden.shape[0]
        if slot is None:
            d = self._dimensions
            slot = torch.full((tokens,), -1, dtype=torch.int64, device=self._device)
            deepstack = torch.zeros(len(d.deepstack), 1, d.hidden, device=self._device)
        cos, sin = rotary_table(self._dimensions, positions)
        shared = {'cos': cos, 'sin': sin, 'mask': mask, 'pick': pick, 'slot': slot, 'deepstack': deepstack}
        for (segment, runner), cache in zip(self._parts, self._caches, strict=True):
            given = shared | {'hidden': hidden} | {name: part[:, :, :cached] for name, part in cache.items()}
            outputs = runner.run(cast_inputs(segment, given, self._dtype))
            place = slice(self._filled, self._filled + tokens)
            cache['cache_keys'][:, :, place] = outputs['keys']
            cache['cache_values'][:, :, place] = outputs['values']
            hidden = outputs['states'] if 'states' in outputs else outputs['logits']
        self._filled += tokens
        return hidden[0]

    def _empty_cache(self, segment: Segment) -> Tensors:
        d = self._dimensions
        shape = (segment.last - segment.first, d.kv_heads, self._shapes.cache, d.head_dim)
        kind = getattr(torch, self._dtype)
        return {name: torch.zeros(shape, dtype=kind, device=self._device)
            for name in ('cache_keys', 'cache_values')}
