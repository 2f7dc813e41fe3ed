"""All towers of a checkpoint as torch modules in one precision: the exported graphs, run without engines."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cosmos3_ros.resources import require

from .decoding import LanguageChain
from .denoising import GenerationChain
from .dimensions import Dimensions, Shapes
from .modules import make_module
from .precision import Precision
from .prompt_positions import prompt_positions
from .quantization import convert, excluded_names, observed
from .runners import TorchRunner
from .segments import TOWERS, cut_tower
from .weights import CheckpointWeights

torch = require('torch', 'model')

Amax = dict[str, dict[str, float]]


class TorchTowers:
    """Vision, language and generation, each in one segment.

    :param directory: Checkpoint.
    :param device: Where they run.
    :param dtype: torch's name of their type until :meth:`convert`.
    """

    def __init__(
        self, directory: Path, shapes: Shapes, device: str = 'cpu', dtype: str = 'float32',
    ) -> None:
        self.dimensions, self.shapes = Dimensions.read(directory), shapes
        self._source, self._device, self._dtype = CheckpointWeights(directory), device, dtype
        self._segments = {t: cut_tower(t, self.dimensions, shapes, 2**62)[0] for t in TOWERS}
        self._modules = {
            t: make_module(s, self.dimensions, shapes, self._source, dtype).to(device)
            for t, s in self._segments.items()}
        d = self.dimensions
        self._table = self._source.tensor(
            'embed_tokens.weight', (d.vocabulary, d.hidden)).float().to(device)
        self._arrange()

    def convert(self, precision: Precision, amax: Amax) -> None:
        """Go to ``precision``.

        :param amax: From :meth:`calibrating`; used for FP8 only.
        """
        for tower, module in self._modules.items():
            convert(module, precision, amax.get(tower, {}))
            module.to(self._device)
        self._dtype = precision.compute
        self._arrange()

    def excluded(self) -> dict[str, tuple[str, ...]]:
        """Return the matrices that no precision quantises, per tower."""
        return {tower: tuple(excluded_names(module)) for tower, module in self._modules.items()}

    @contextmanager
    def calibrating(self, amax: Amax) -> Iterator[None]:
        """While open, record the largest magnitude of every matrix's input, per tower."""
        with ExitStack() as stack:
            for tower, module in self._modules.items():
                stack.enter_context(observed(module, amax.setdefault(tower, {})))
            yield

    def answer(
        self, input_ids: Any, visual: Any, patches: Any, grids: Any, new_tokens: int, end: tuple[int, ...],
    ) -> list[int]:
        """Answer a prompt with one clip greedily.

        :param input_ids: int64 (tokens); ``visual`` bool (tokens).
        :param patches: (patches, values) of the clip; ``grids`` int (1, 3).
        """
        positions, slots, following = prompt_positions(visual, grids, self.dimensions.vision_merge)
        frames = patches.reshape(int(grids[0, 0]), -1, patches.shape[-1])
        seen = self._runners['vision'].run(
            {'patches': frames.to(self._device, getattr(torch, self._dtype))})
        embedded = self._table[input_ids.to(self._device)].clone()
        embedded[visual.to(self._device)] = seen['tokens'].flatten(0, 1).float()
        logits = self.language.prefill(
            embedded, positions.to(self._device), slots.to(self._device), seen['deepstack'].flatten(1, 2))
        return self.language.go_on(logits, following, new_tokens, end)

    def _arrange(self) -> None:
        self._runners = {t: TorchRunner(self._modules[t], self._segments[t]) for t in TOWERS}
        self.language = LanguageChain(
            [self._segments['language']], [self._runners['language']], self.dimensions, self.shapes,
            self._table, self._dtype, self._device)
        self.generation = GenerationChain(
            [self._segments['generation']], [self._runners['generation']], self.dimensions, self.shapes,
            self._source, self._dtype)


def resident_bytes(directory: Path, shapes: Shapes, dtype: str) -> int:
    """Return the memory that :class:`TorchTowers` will take for weights."""
    dimensions = Dimensions.read(directory)
    weights = sum(cut_tower(tower, dimensions, shapes, 2**62)[0].weight_bytes for tower in TOWERS)
    table = dimensions.vocabulary * dimensions.hidden * 4
    return weights * (2 if dtype == 'float32' else 1) + table
