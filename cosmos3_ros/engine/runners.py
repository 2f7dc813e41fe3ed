"""Run a segment without a GPU: torch itself, or ONNX Runtime on the exported file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cosmos3_ros.resources import require

from .errors import EngineError
from .segments import Segment
from .vectors import Tensors

torch = require('torch', 'model')


class TorchRunner:
    """The module that was exported."""

    def __init__(self, module: Any, segment: Segment) -> None:
        self._module, self._segment = module, segment

    def run(self, inputs: Mapping[str, Any]) -> Tensors:
        """See :class:`fidelity.Runner`."""
        with torch.inference_mode():
            outputs = self._module(*(inputs[port.name] for port in self._segment.inputs))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return dict(zip((port.name for port in self._segment.outputs), outputs, strict=True))


class OnnxRunner:
    """The exported file on ONNX Runtime's CPU provider, which knows float32 and FP8 Q/DQ, not bfloat16.

    :param threads: Of one operator.
    :raises EngineError: The file cannot be loaded.
    """

    def __init__(self, path: Path, segment: Segment, threads: int = 1) -> None:
        runtime = require('onnxruntime', 'tensorrt')
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
        except Exception as error:  # its exceptions share no base class
            raise EngineError(f'{segment.name}: ONNX Runtime cannot load {path}: {error}') from error
        self._segment = segment
        # The exporter drops inputs that the graph does not read.
        self._taken = {given.name for given in self._session.get_inputs()}

    def run(self, inputs: Mapping[str, Any]) -> Tensors:
        """See :class:`fidelity.Runner`."""
        outputs = self._session.run(
            [port.name for port in self._segment.outputs],
            {name: tensor.numpy() for name, tensor in inputs.items() if name in self._taken})
        return {
            port.name: torch.from_numpy(array)
            for port, array in zip(self._segment.outputs, outputs, strict=True)}
