"""What runs a tower's segments: the GPU of this machine, or ONNX Runtime in its place."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
import statistics
from time import perf_counter
from typing import Any, Protocol

from cosmos3_ros.resources import require

from .cache import Machine, read_plan
from .compiler import Compiler
from .errors import EngineError, EngineRefusedError
from .fidelity import Runner
from .manifest import Manifest
from .precision import Precision, find_precision
from .runners import OnnxRunner
from .runtime import RUNTIME_CACHE, PlanRunner, find_machine
from .segments import Segment
from .vectors import Tensors

torch = require('torch', 'model')

WARM_UP = 5

Prepared = Sequence[tuple[Runner, Mapping[str, Any]]]


class Executor(Protocol):
    """Makes runners and times them."""

    @property
    def machine(self) -> Machine:
        """What can run here."""

    @property
    def device(self) -> str:
        """Torch's device of inputs and outputs."""

    @property
    def label(self) -> str:
        """What runs, for reports: the GPU's name."""

    def compute(self, precision: Precision) -> str:
        """Return torch's name of the type of activations."""

    def bounds(self, precision: Precision) -> Precision:
        """Return what the gate holds a plan of ``precision`` to here; never less than that precision."""

    def load(
        self, directory: Path, manifest: Manifest, segments: Sequence[Segment],
    ) -> tuple[Runner, ...]:
        """Return a runner per segment.

        :raises EngineRefusedError: A file is missing, damaged, or not taken.
        """

    def time_ms(self, prepared: Prepared, repetitions: int) -> list[float]:
        """Return the durations of ``repetitions`` passes through all segments, warmed up before."""


class PlanExecutor:
    """TensorRT on this machine's GPU. Not executed by us; see :mod:`runtime`.

    :param flavour: See :data:`compiler.FLAVOURS`.
    :param streaming_budget_bytes: Weights kept on the GPU, of plans built with weight streaming.
    """

    def __init__(
        self, flavour: str = 'rtx', device: str = 'cuda', streaming_budget_bytes: int | None = None,
    ) -> None:
        self._compiler = Compiler(flavour)
        self.machine = find_machine(self._compiler)
        self.device = device
        self._budget_bytes = streaming_budget_bytes

    @property
    def label(self) -> str:
        """See :class:`Executor`."""
        if self.machine.target is None:
            return 'no GPU'
        return str(torch.cuda.get_device_name(self.device))

    def compute(self, precision: Precision) -> str:
        """See :class:`Executor`."""
        return precision.compute

    def bounds(self, precision: Precision) -> Precision:
        """See :class:`Executor`."""
        return precision

    def load(
        self, directory: Path, manifest: Manifest, segments: Sequence[Segment],
    ) -> tuple[Runner, ...]:
        """See :class:`Executor`."""
        self._check_room(manifest)
        runners = []
        for segment, entry in zip(segments, manifest.plans, strict=True):
            kernels = directory / f'{segment.name}.{RUNTIME_CACHE}'
            runners.append(PlanRunner(
                self._compiler, read_plan(directory, entry, manifest), segment, device=self.device,
                runtime_cache=kernels.read_bytes() if kernels.is_file() else b'',
                streaming_budget_bytes=self._budget_bytes, rebuild=manifest.rebuild_command))
        return tuple(runners)

    def time_ms(self, prepared: Prepared, repetitions: int) -> list[float]:
        """Return milliseconds between CUDA events on the stream that does the work."""
        times = []
        for i in range(WARM_UP + repetitions):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for runner, inputs in prepared:
                runner.run(inputs)
            end.record()
            end.synchronize()
            if i >= WARM_UP:
                times.append(float(begin.elapsed_time(end)))
        return times

    def _check_room(self, manifest: Manifest) -> None:
        needed = sum(plan.size_bytes for plan in manifest.plans)
        free, _ = torch.cuda.mem_get_info(self.device)
        if self._budget_bytes is None and needed > free:
            raise EngineRefusedError(
                f'engine: the plans of {manifest.key.tower} take {needed / 1e9:.1f} GB, the GPU has '
                f'{free / 1e9:.1f} free; take a smaller precision, or build with --weight-streaming')


class OnnxExecutor:
    """The float32 exports on ONNX Runtime's CPU provider, instead of the plans.

    Everything around the plans then runs on any machine: chains, gate, stored prompts, reports. Needs
    the files that ``cosmos3 engine build --keep-onnx`` leaves beside the plans.
    """

    machine = Machine('onnxruntime', '', None, interprets=True)
    device = 'cpu'

    @property
    def label(self) -> str:
        """See :class:`Executor`."""
        return f'ONNX Runtime {require("onnxruntime", "tensorrt").__version__}, CPU, float32 exports'

    def compute(self, precision: Precision) -> str:  # noqa: ARG002 (always the same)
        """See :class:`Executor`."""
        return 'float32'

    def bounds(self, precision: Precision) -> Precision:
        """Return the export's bounds, or ``precision``'s where those are closer.

        In float32 nothing excuses what bfloat16 does: one wrong weight is seen.
        """
        exported = find_precision(precision.exported)
        return replace(
            exported, cosine=max(exported.cosine, precision.cosine),
            deviation=min(exported.deviation, precision.deviation))

    def load(
        self, directory: Path, manifest: Manifest, segments: Sequence[Segment],
    ) -> tuple[Runner, ...]:
        """See :class:`Executor`."""
        exported = find_precision(manifest.key.precision).exported
        paths = [directory / f'{segment.name}.{exported}.onnx' for segment in segments]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise EngineRefusedError(
                f'engine: {directory} lacks {", ".join(missing)}; build with --keep-onnx: '
                f'{manifest.rebuild_command}')
        return tuple(
            _Float32(OnnxRunner(path, segment)) for path, segment in zip(paths, segments, strict=True))

    def time_ms(self, prepared: Prepared, repetitions: int) -> list[float]:
        """See :class:`Executor`."""
        times = []
        for i in range(1 + repetitions):
            begin_s = perf_counter()
            for runner, inputs in prepared:
                runner.run(inputs)
            if i:
                times.append((perf_counter() - begin_s) * 1e3)
        return times


class _Float32:
    """Takes what a bfloat16 graph takes, for a runner that knows float32."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def run(self, inputs: Mapping[str, Any]) -> Tensors:
        """See :class:`fidelity.Runner`."""
        return self._runner.run({
            name: tensor.float() if tensor.dtype == torch.bfloat16 else tensor
            for name, tensor in inputs.items()})


EXECUTORS = {'tensorrt': PlanExecutor, 'onnxruntime': OnnxExecutor}


def time_pass(
    executor: Executor, segments: Sequence[Segment], runners: Sequence[Runner], sizes: dict[str, int],
    repetitions: int,
) -> tuple[float, float]:
    """Return median and 99th percentile in ms of one pass over zeros.

    :param sizes: Of the dimensions that vary, see :func:`segments.usual_passes`.
    :raises EngineError: No repetitions.
    """
    if repetitions < 1:
        raise EngineError(f'repetitions: {repetitions} arrived, at least 1 is allowed')
    prepared = [
        (runner, _blank(segment, sizes, executor.device))
        for segment, runner in zip(segments, runners, strict=True)]
    ordered = sorted(executor.time_ms(prepared, repetitions))
    return statistics.median(ordered), ordered[round(0.99 * (len(ordered) - 1))]


def _blank(segment: Segment, sizes: dict[str, int], device: str) -> dict[str, Any]:
    kinds = {'compute': torch.bfloat16, 'float32': torch.float32, 'int64': torch.int64, 'bool': torch.bool}
    blank = {
        port.name: torch.zeros(port.sizes(sizes), dtype=kinds[port.kind], device=device)
        for port in segment.inputs}
    if 'mask' in blank:
        blank['mask'][:] = True
    return blank
