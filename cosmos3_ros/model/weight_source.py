"""Where a transformer's weights come from, one tensor at a time.

A checkpoint of 30 GB is never held in host memory: files are mapped, and what a tower needs goes to
its device tensor by tensor.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from cosmos3_ros.resources import require

from .checkpoint import Checkpoint, CheckpointError
from .json_file import read_json_object

torch = require('torch', 'model')

WEIGHTS_FILE = 'diffusion_pytorch_model.safetensors'


class WeightSource(Protocol):
    """Named tensors of ``diffusers.Cosmos3OmniTransformer``, and its config."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Content of ``transformer/config.json``."""

    def get(self, name: str) -> Any:
        """Return a tensor as it is stored, wherever it is stored.

        :raises CheckpointError: There is no such tensor.
        """

    def rows(self, name: str, indices: Sequence[int]) -> Any:
        """Return rows of a matrix, (len(indices), width), without reading the rest."""


class CheckpointWeights:
    """Weights in the safetensors files of ``transformer/``, mapped into memory.

    :raises CheckpointError: Config or index cannot be read.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._folder = checkpoint.directory / 'transformer'
        self.config = read_json_object(self._folder / 'config.json')
        index = self._folder / f'{WEIGHTS_FILE}.index.json'
        self._places: dict[str, str] = (
            dict(read_json_object(index).get('weight_map', {})) if index.is_file() else {})
        self._open: dict[str, Any] = {}
        if not self._places:
            self._places = dict.fromkeys(self._file(WEIGHTS_FILE).keys(), WEIGHTS_FILE)

    def get(self, name: str) -> Any:
        """See :meth:`WeightSource.get`."""
        return self._holder(name).get_tensor(name)

    def rows(self, name: str, indices: Sequence[int]) -> Any:
        """See :meth:`WeightSource.rows`."""
        part = self._holder(name).get_slice(name)
        found = {i: part[i:i + 1] for i in dict.fromkeys(int(i) for i in indices)}
        return torch.cat([found[int(i)] for i in indices])

    def _holder(self, name: str) -> Any:
        if name not in self._places:
            raise CheckpointError(f'checkpoint: {self._folder} holds no tensor {name}')
        return self._file(self._places[name])

    def _file(self, name: str) -> Any:
        if name not in self._open:
            try:
                self._open[name] = require('safetensors', 'model').safe_open(
                    self._folder / name, framework='pt')
            except Exception as error:  # safetensors raises its own and OS errors
                raise CheckpointError(
                    f'checkpoint: {self._folder / name} cannot be read: {error}') from error
        return self._open[name]


class ModuleWeights:
    """Weights of a loaded module.

    :param module: ``diffusers.Cosmos3OmniTransformer``.
    """

    def __init__(self, module: Any) -> None:
        self.config: Mapping[str, Any] = dict(module.config)
        self._tensors = module.state_dict()

    def get(self, name: str) -> Any:
        """See :meth:`WeightSource.get`."""
        if name not in self._tensors:
            raise CheckpointError(f'transformer: it holds no tensor {name}')
        return self._tensors[name]

    def rows(self, name: str, indices: Sequence[int]) -> Any:
        """See :meth:`WeightSource.rows`."""
        table = self.get(name)
        return table[torch.as_tensor(list(indices), dtype=torch.int64, device=table.device)]
