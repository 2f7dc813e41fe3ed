"""The reasoner context: keys and values of an instruction, computed once.

The understanding tower is causal and stands before everything that is generated, so for a given
text its keys and values are constants of the checkpoint. They are what the generation tower reads
of it, layer by layer (facts sheet, appendix A; equal bit for bit to the full forward in float32).
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
import hashlib
from pathlib import Path
from typing import Any

from cosmos3_ros.resources import require

from .checkpoint import CheckpointError


@dataclass(frozen=True, slots=True, eq=False)
class ReasonerContext:
    """Keys and values of one text.

    :param keys: Per layer (text, key/value heads, head width), rotary positions applied.
    :param values: Per layer, same shape.
    :param identity: Hash over checkpoint, tokens and precision; see :func:`context_identity`.
    """

    keys: tuple[Any, ...]
    values: tuple[Any, ...]
    identity: str

    @property
    def length(self) -> int:
        """Tokens of the text."""
        return int(self.keys[0].shape[0])

    @property
    def size_bytes(self) -> int:
        """Memory that it takes: 147 456 bytes per token for Nano in bfloat16."""
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))

    def on_host(self) -> 'ReasonerContext':
        """Return it in host memory."""
        return ReasonerContext(
            tuple(t.cpu() for t in self.keys), tuple(t.cpu() for t in self.values), self.identity)

    def save(self, path: str | Path) -> None:
        """Write it as safetensors, its identity beside it."""
        tensors = {f'keys.{i}': t.contiguous() for i, t in enumerate(self.keys)}
        tensors |= {f'values.{i}': t.contiguous() for i, t in enumerate(self.values)}
        require('safetensors.torch', 'model').save_file(tensors, path, metadata={'identity': self.identity})

    @classmethod
    def load(cls, path: str | Path, identity: str) -> 'ReasonerContext':
        """Read what :meth:`save` wrote.

        :param identity: What it must be the context of.
        :raises CheckpointError: It belongs to other weights, another text or another precision.
        """
        with require('safetensors', 'model').safe_open(path, framework='pt') as file:
            found = (file.metadata() or {}).get('identity', 'nothing')
            if found != identity:
                raise CheckpointError(
                    f'reasoner context {path}: it is of {found}, {identity} is needed; compute it again')
            layers = len(list(file.keys())) // 2
            return cls(
                keys=tuple(file.get_tensor(f'keys.{i}') for i in range(layers)),
                values=tuple(file.get_tensor(f'values.{i}') for i in range(layers)), identity=identity)


def context_identity(checkpoint_hash: str, token_ids: Sequence[int], dtype: str) -> str:
    """Return 16 hexadecimal digits that name the context of a text under given weights."""
    text = f'{checkpoint_hash}|{dtype}|{",".join(str(int(i)) for i in token_ids)}'
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class ContextCache:
    """The contexts used last; computes what is not there.

    :param capacity: Contexts kept. Guidance needs two, of which one (the empty text) never changes.
    """

    def __init__(self, compute: Callable[[tuple[int, ...]], ReasonerContext], capacity: int = 8) -> None:
        if capacity < 1:
            raise CheckpointError(f'context cache: capacity {capacity} arrived, at least 1 is needed')
        self._compute = compute
        self._capacity = capacity
        self._kept: OrderedDict[tuple[int, ...], ReasonerContext] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def get(self, token_ids: Sequence[int]) -> ReasonerContext:
        """Return the context of a text, computed at most once while it is kept."""
        key = tuple(int(i) for i in token_ids)
        if key in self._kept:
            self.hits += 1
            self._kept.move_to_end(key)
            return self._kept[key]
        self.misses += 1
        context = self._kept[key] = self._compute(key)
        if len(self._kept) > self._capacity:
            self._kept.popitem(last=False)
        return context
