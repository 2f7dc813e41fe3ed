"""Run plans on a GPU.

NOT EXECUTED BY US: no RTX GPU was to be had where this was written, and TensorRT-RTX refuses others.
What is here follows the documented interface of TensorRT-RTX 1.7 and is reached only behind the gate,
which compares every stage with stored vectors before a node may go active. ``cosmos3 engine verify``
runs exactly this on your machine.
"""

from collections.abc import Mapping, Sequence
import logging
from pathlib import Path
from typing import Any

from cosmos3_ros.resources import require

from .cache import Machine
from .compiler import Compiler, current_target
from .dimensions import Dimensions
from .errors import EngineError, EngineRefusedError
from .fidelity import Fidelity, measure, require_fidelity
from .manifest import Manifest
from .precision import Precision
from .segment_build import vectors_path
from .segments import Profile, Segment, as_tower, cut_tower
from .vectors import Tensors, load_vectors

torch = require('torch', 'model')
logger = logging.getLogger(__name__)

RUNTIME_CACHE = 'runtime.cache'


def find_machine(compiler: Compiler) -> Machine:
    """Return what this machine can run."""
    return Machine(compiler.flavour, compiler.version, current_target())


def choose_profile(segment: Segment, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the index of the profile that takes inputs of ``shapes``.

    :raises EngineError: None does; the text says which size is out of range.
    """
    sizes: dict[str, int] = {}
    for port in segment.inputs:
        for part, size in zip(port.shape, shapes[port.name], strict=True):
            expected = sizes.setdefault(part, size) if isinstance(part, str) else part
            if expected != size:
                raise EngineError(
                    f'{segment.name}: {port.name} has {size} where {part} ({expected}) is needed')
    misfits = []
    for i, profile in enumerate(segment.profiles):
        wrong = _misfit(profile, sizes)
        if wrong is None:
            return i
        misfits.append(wrong)
    raise EngineError(f'{segment.name}: no profile takes these sizes: {"; ".join(misfits)}')


def _misfit(profile: Profile, sizes: Mapping[str, int]) -> str | None:
    for name, size in sizes.items():
        least, _, most = profile.ranges[name]
        if not least <= size <= most:
            return f'{profile.name} takes {name} from {least} to {most}, {size} arrived'
    return None


class PlanRunner:
    """One plan on one GPU, on torch's current stream.

    Inputs are read where they lie and outputs are written into buffers that stay, one set per shape:
    what one segment writes, the next reads, without a copy. An output is overwritten by the next run
    of the same shape.

    :param plan: Bytes that :func:`cache.read_plan` let through.
    :param runtime_cache: Kernels that an earlier start compiled for this GPU; see :meth:`kernels`.
    :raises EngineRefusedError: TensorRT does not take the plan.
    """

    def __init__(
        self, compiler: Compiler, plan: bytes, segment: Segment, *, device: str = 'cuda',
        runtime_cache: bytes = b'', streaming_budget_bytes: int | None = None, rebuild: str = '',
    ) -> None:
        trt = compiler.trt
        self._segment, self._device = segment, torch.device(device)
        self._runtime = trt.Runtime(compiler.logger)
        compiler.logger.errors.clear()
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineRefusedError(
                f'engine: TensorRT {compiler.version} does not take the plan {segment.name}: '
                f'{"; ".join(compiler.logger.errors)}; build again: {rebuild}')
        if streaming_budget_bytes is not None:
            # Before any context exists, as TensorRT demands.
            self._engine.weight_streaming_budget_v2 = streaming_budget_bytes
        self._config = self._cache = None
        if compiler.flavour == 'rtx':
            self._config = self._engine.create_runtime_config()
            self._cache = self._config.create_runtime_cache()
            if runtime_cache:
                self._cache.deserialize(runtime_cache)
            self._config.set_runtime_cache(self._cache)
            # RTX captures CUDA graphs itself once kernels for a shape are compiled.
            self._config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._taken = {
            self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)}
        self._contexts: dict[int, Any] = {}
        self._buffers: dict[tuple[tuple[int, ...], ...], Tensors] = {}

    def run(self, inputs: Mapping[str, Any]) -> Tensors:
        """See :class:`fidelity.Runner`; returns at once, the work is on torch's current stream."""
        held = {name: tensor.to(self._device).contiguous() for name, tensor in inputs.items()}
        shapes = {name: tuple(tensor.shape) for name, tensor in held.items()}
        stream = torch.cuda.current_stream(self._device)
        context = self._context(choose_profile(self._segment, shapes), stream)
        for name, tensor in held.items():
            if name in self._taken:
                if not context.set_input_shape(name, shapes[name]):
                    raise EngineError(
                        f'{self._segment.name}: TensorRT refuses {name} of shape {shapes[name]}')
                context.set_tensor_address(name, tensor.data_ptr())
                # Freed memory must not be given away before the stream has read it.
                tensor.record_stream(stream)
        outputs = self._outputs(context, tuple(shapes.values()))
        for name, tensor in outputs.items():
            context.set_tensor_address(name, tensor.data_ptr())
        if not context.execute_async_v3(stream.cuda_stream):
            raise EngineError(f'{self._segment.name}: TensorRT could not run')
        return outputs

    def kernels(self) -> bytes:
        """Return the kernels compiled for this GPU, to be given as ``runtime_cache`` next time."""
        if self._cache is None:
            return b''
        return bytes(self._cache.serialize())

    def _context(self, profile: int, stream: Any) -> Any:
        if profile not in self._contexts:
            context = (
                self._engine.create_execution_context() if self._config is None
                else self._engine.create_execution_context(self._config))
            if context is None or not context.set_optimization_profile_async(profile, stream.cuda_stream):
                raise EngineError(f'{self._segment.name}: no execution context; is the GPU memory full?')
            self._contexts[profile] = context
        return self._contexts[profile]

    def _outputs(self, context: Any, key: tuple[tuple[int, ...], ...]) -> Tensors:
        if key not in self._buffers:
            kinds = {'compute': torch.bfloat16, 'float32': torch.float32}
            self._buffers[key] = {
                port.name: torch.empty(
                    tuple(context.get_tensor_shape(port.name)), dtype=kinds[port.kind], device=self._device)
                for port in self._segment.outputs}
        return self._buffers[key]


def manifest_segments(manifest: Manifest, dimensions: Dimensions) -> tuple[Segment, ...]:
    """Return the segments that a manifest's plans are.

    :raises EngineRefusedError: The manifest cuts the tower otherwise than this version does.
    """
    cut = cut_tower(as_tower(manifest.key.tower), dimensions, manifest.key.shapes, manifest.segment_bytes)
    if [segment.name for segment in cut] != [plan.name for plan in manifest.plans]:
        raise EngineRefusedError(
            f'engine: the manifest holds {[plan.name for plan in manifest.plans]}, '
            f'{[segment.name for segment in cut]} is needed; build again: {manifest.rebuild_command}')
    return cut


def pass_gate(
    directory: Path, manifest: Manifest, segments: Sequence[Segment], runners: Sequence[Any],
    precision: Precision,
) -> list[Fidelity]:
    """Hold every segment to its stored vectors; a node goes active only after this returns.

    :param precision: The type of inputs, and the bounds: :meth:`executors.Executor.bounds`.
    :raises EngineRefusedError: Which stage drifted.
    """
    found: list[Fidelity] = []
    for segment, runner in zip(segments, runners, strict=True):
        inputs, outputs = load_vectors(vectors_path(directory, segment))
        found += measure(segment, runner, inputs, outputs, precision.compute)
    require_fidelity(found, precision, manifest.rebuild_command)
    return found
