"""What one text adds to a denoising loop: its context, its rotary table, and its attention."""

from copy import copy
from typing import Any

from cosmos3_ros.model.generation_tower import GenerationTower
from cosmos3_ros.model.layer_math import rotary_table
from cosmos3_ros.model.reasoner_context import ReasonerContext
from cosmos3_ros.model.sequence_pack import SequencePack
from cosmos3_ros.resources import require

torch = require('torch', 'model')
functional = require('torch.nn.functional', 'model')


class TextBranch:
    """What one text adds: its context, the rotary table, room for keys and values of one layer."""

    def __init__(self, tower: GenerationTower, context: ReasonerContext, pack: SequencePack) -> None:
        shape, device, dtype = tower.shape, tower.device, tower.dtype
        self.table = rotary_table(shape, pack.generated_positions, device, dtype)
        self.context_keys = torch.stack([k.to(device, dtype) for k in context.keys])
        self.context_values = torch.stack([v.to(device, dtype) for v in context.values])
        self._own = torch.zeros(
            (pack.generated_tokens, shape.kv_heads, shape.head_dim), device=device, dtype=dtype)
        self.keys, self.values = self._make_room(0)

    @property
    def given(self) -> tuple[Any, ...]:
        """All that depends on the text: keys and values (layers, tokens, heads, width), cosines and sines."""
        return self.context_keys, self.context_values, *self.table

    def with_given(self, keys: Any, values: Any, cos: Any, sin: Any) -> 'TextBranch':
        """Return the branch of another text, of any length."""
        other = copy(self)
        other.context_keys, other.context_values, other.table = keys, values, (cos, sin)
        return other

    def text(self, layer: int) -> tuple[Any, Any]:
        """Return the text's keys and values of a layer."""
        return self.context_keys[layer], self.context_values[layer]

    def room(self, layer: int) -> tuple[Any, Any]:
        """Return where a layer's keys and values go, the text's first."""
        if not self.keys.is_cuda:  # what is recorded on a CPU writes only to what it made itself
            self.keys, self.values = self._make_room(layer)
        return self.keys, self.values

    def _make_room(self, layer: int) -> tuple[Any, Any]:
        keys, values = self.text(layer)
        return torch.cat([keys, self._own]), torch.cat([values, self._own])

    def attend(self, query: Any) -> Any:
        """Return (tokens, heads * width) of (tokens, heads, width)."""
        tokens, _, width = query.shape
        # The queries that share a key/value head are rows of one sequence: see the tower's module.
        rows = query.reshape(-1, self.keys.shape[1], width)
        mixed = functional.scaled_dot_product_attention(
            *(t.transpose(0, 1)[None] for t in (rows, self.keys, self.values)))
        return mixed[0].transpose(0, 1).reshape(tokens, -1)
