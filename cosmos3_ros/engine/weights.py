"""Where the weights of a segment come from, read one tensor at a time."""

from collections.abc import Mapping
import json
from pathlib import Path
from typing import Any, Protocol
import zlib

from cosmos3_ros.resources import require

from .errors import EngineError

_PARTS = (
    ('transformer', 'diffusion_pytorch_model.safetensors'),
    ('vision_encoder', 'model.safetensors'),
)


class WeightSource(Protocol):
    """Gives tensors by the names of the checkpoint's files."""

    def tensor(self, name: str, shape: tuple[int, ...]) -> Any:
        """Return the torch tensor called ``name``, of ``shape``.

        :raises EngineError: It is not there, or has another shape.
        """


class CheckpointWeights:
    """The safetensors files of a checkpoint in Nano's layout; nothing is read before it is asked for.

    :param directory: The checkpoint.
    :raises EngineError: A folder has neither weights nor an index.
    """

    def __init__(self, directory: str | Path) -> None:
        self._files: dict[str, Path] = {}
        for folder, single in _PARTS:
            path = Path(directory) / folder
            for file, names in _index(path, single).items():
                self._files.update(dict.fromkeys(names, path / file))

    def tensor(self, name: str, shape: tuple[int, ...]) -> Any:
        """See :class:`WeightSource`."""
        if name not in self._files:
            raise EngineError(f'checkpoint: it has no weight {name}')
        with require('safetensors', 'model').safe_open(self._files[name], framework='pt') as file:
            value = file.get_tensor(name)
        if tuple(value.shape) != shape:
            raise EngineError(f'checkpoint: {name} has shape {tuple(value.shape)}, {shape} is needed')
        return value


class SeededWeights:
    """Random bfloat16 weights of any shape, the same on every machine: for benchmarks without a checkpoint.

    :param seed: Of all tensors; the name selects the stream.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def tensor(self, name: str, shape: tuple[int, ...]) -> Any:
        """See :class:`WeightSource`."""
        torch = require('torch', 'model')
        if name.endswith('bias'):
            return torch.zeros(shape, dtype=torch.bfloat16)
        if 'norm' in name:
            return torch.ones(shape, dtype=torch.bfloat16)
        stream = torch.Generator().manual_seed(zlib.crc32(f'{self._seed}/{name}'.encode()))
        fan_in = 1
        for size in shape[1:]:
            fan_in *= size
        scale = 1.0 if name == 'embed_tokens.weight' else 0.02 if len(shape) == 1 else fan_in ** -0.5
        # Drawn in float32, where torch is several times faster.
        return torch.randn(shape, generator=stream).mul_(scale).to(torch.bfloat16)


class OverriddenWeights:
    """Another source with some tensors exchanged: fine-tuned heads, or a fault that a test injects."""

    def __init__(self, source: WeightSource, tensors: Mapping[str, Any]) -> None:
        self._source, self._tensors = source, dict(tensors)

    def tensor(self, name: str, shape: tuple[int, ...]) -> Any:
        """See :class:`WeightSource`."""
        return self._tensors[name] if name in self._tensors else self._source.tensor(name, shape)


def _index(folder: Path, single: str) -> dict[str, list[str]]:
    """Return file name -> tensor names."""
    index = folder / f'{single}.index.json'
    if index.is_file():
        try:
            weights = json.loads(index.read_text(encoding='utf-8'))['weight_map']
        except (ValueError, KeyError) as error:
            raise EngineError(f'checkpoint: {index} is not an index of weights: {error!r}') from error
        files: dict[str, list[str]] = {}
        for name, file in weights.items():
            files.setdefault(str(file), []).append(str(name))
        return files
    if not (folder / single).is_file():
        raise EngineError(f'checkpoint: {folder} holds neither {single} nor its index')
    with require('safetensors', 'model').safe_open(folder / single, framework='pt') as file:
        return {single: list(file.keys())}
