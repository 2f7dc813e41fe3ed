"""A segment to ONNX, with the dynamo exporter."""

from dataclasses import dataclass
import hashlib
import logging
from pathlib import Path
from typing import Any
import warnings

from cosmos3_ros.resources import require

from .errors import EngineError
from .graphs.fp8_linear import OPSET
from .segments import Segment
from .vectors import Tensors, cast_inputs

torch = require('torch', 'model')

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Exported:
    """An ONNX file with its weights beside it.

    :param sha256: Over the graph and the weights.
    """

    path: Path
    sha256: str
    size_bytes: int


def export_segment(
    module: Any, segment: Segment, path: Path, dtype: str,
) -> Exported:
    """Write ``path`` (the graph) and ``path.data`` (the weights).

    Opset 23: its ``Attention`` keeps grouped heads in one operator, for which TensorRT has dedicated
    kernels, and Q/DQ takes FP8 around bfloat16. Weights are external, because one file is limited to
    2 GiB.

    :param dtype: torch's name of the compute type, which the module's weights have.
    :raises EngineError: The exporter could not follow the module.
    """
    require('onnxscript', 'tensorrt')
    inputs = cast_inputs(segment, _example(segment, _trace_sizes(segment)), dtype)
    dynamic = [
        {i: torch.export.Dim.DYNAMIC for i, part in enumerate(port.shape) if isinstance(part, str)} or None
        for port in segment.inputs]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter('ignore')
            program = torch.onnx.export(
                module, tuple(inputs.values()), dynamo=True, opset_version=OPSET, verbose=False,
                input_names=[port.name for port in segment.inputs],
                output_names=[port.name for port in segment.outputs],
                dynamic_shapes=_shape_tree(segment, dynamic))
    except Exception as error:  # the exporter wraps failures of many kinds
        raise EngineError(f'{segment.name}: export failed: {error}') from error
    program.save(path, external_data=True)
    return Exported(path, *hash_onnx(path))


def hash_onnx(path: Path) -> tuple[str, int]:
    """Return the SHA-256 over graph and weights, and their size in bytes."""
    total, size = hashlib.sha256(), 0
    for part in (path, path.with_name(f'{path.name}.data')):
        if part.is_file():
            with part.open('rb') as file:
                total.update(hashlib.file_digest(file, 'sha256').digest())
            size += part.stat().st_size
    return total.hexdigest(), size


def _shape_tree(segment: Segment, dynamic: list[Any]) -> Any:
    """Arrange the dynamic axes as the forwards' signatures are: named arguments, then ``*more``."""
    if segment.tower == 'vision':
        return tuple(dynamic)
    if segment.tower == 'generation':
        return (tuple(dynamic),)
    # Without further arguments torch.export sees no ``*more`` at all: segments in the middle of the model.
    return (*dynamic[:6], tuple(dynamic[6:])) if dynamic[6:] else tuple(dynamic)


def _example(segment: Segment, sizes: dict[str, int]) -> Tensors:
    """Return zeros of the given sizes: enough to trace."""
    kinds = {'compute': torch.float32, 'float32': torch.float32, 'int64': torch.int64, 'bool': torch.bool}
    return {
        port.name: torch.zeros(port.sizes(sizes), dtype=kinds[port.kind]) for port in segment.inputs}


def _trace_sizes(segment: Segment) -> dict[str, int]:
    """Return small sizes that differ from each other and from 0 and 1, which tracing would fix."""
    names = sorted({part for port in segment.inputs for part in port.shape if isinstance(part, str)})
    sizes = {name: 5 + 2 * i for i, name in enumerate(names)}
    if 'attended' in sizes:
        sizes['attended'] = sizes['cached'] + sizes['tokens']
    return sizes
