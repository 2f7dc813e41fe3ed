"""The one adapter to TensorRT: the RTX flavour for GeForce and RTX PRO, the classic one for data centres.

Both have the same Python interface. They differ in what a plan is for: TensorRT-RTX compiles ahead
of time for named architectures and needs no GPU to do it; classic TensorRT compiles for the GPU that
it runs on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import logging
from pathlib import Path
from typing import Any

from cosmos3_ros.resources import MissingDependencyError, require

from .errors import EngineError
from .segments import Segment

logger = logging.getLogger(__name__)

FLAVOURS = {'rtx': 'tensorrt_rtx', 'classic': 'tensorrt'}
EXTRA = {'rtx': 'tensorrt', 'classic': 'tensorrt-classic'}

GPU_NAMES = {
    'sm80': 'A100', 'sm86': 'RTX 30', 'sm89': 'RTX 40 (RTX 4090)',
    'sm120': 'RTX 50 and RTX PRO Blackwell', 'sm121': 'DGX Spark',
}


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How a plan is built.

    :param targets: Architectures, e.g. ``('sm89', 'sm120')``; ``('current',)`` is this machine's GPU.
    :param weight_streaming: The plan may keep weights in host memory and stream them.
    :param refittable: Weights may be exchanged later; needs a GPU while building.
    """

    targets: tuple[str, ...]
    weight_streaming: bool = False
    refittable: bool = False


class Compiler:
    """TensorRT of one flavour.

    :param flavour: One of :data:`FLAVOURS`.
    :raises EngineError: Unknown flavour.
    :raises resources.MissingDependencyError: It is not installed; the text names the extra.
    """

    def __init__(self, flavour: str = 'rtx') -> None:
        if flavour not in FLAVOURS:
            raise EngineError(f'flavour: {flavour!r} arrived, one of {", ".join(FLAVOURS)} is allowed')
        self.flavour = flavour
        self.trt: Any = require(FLAVOURS[flavour], EXTRA[flavour])
        self.version = str(self.trt.__version__)
        self.logger = _make_logger(self.trt)

    def targets(self) -> tuple[str, ...]:
        """Return the architectures that :class:`BuildOptions` may name."""
        if self.flavour == 'classic':
            return ('current',)
        kinds = self.trt.ComputeCapability.__members__
        return tuple(name.lower() for name in kinds if name != 'NONE')

    def check(self, options: BuildOptions) -> None:
        """Refuse options that this flavour or machine cannot serve.

        :raises EngineError: What arrived and what is allowed.
        """
        allowed = self.targets()
        if not options.targets:
            raise EngineError(f'target: none arrived, at least one of {", ".join(allowed)} is needed')
        for target in options.targets:
            if target not in allowed:
                raise EngineError(
                    f'target: {target!r} arrived, one of {", ".join(allowed)} is allowed with the flavour '
                    f'{self.flavour}')
        if options.refittable and not _gpu_present():
            raise EngineError(
                'refittable: a plan whose weights can be exchanged is built on a machine with a GPU, and '
                'this one has none; leave --refittable out')
        if 'current' in options.targets and not _gpu_present():
            raise EngineError(
                f'target: current arrived, but this machine has no GPU; name one of {", ".join(allowed[:-1])}'
                if self.flavour == 'rtx' else
                'flavour: classic TensorRT builds for the GPU of its machine, and this one has none; use rtx')

    def compile(
        self, onnx: Path, segment: Segment, options: BuildOptions, destination: Path,
        on_step: Callable[[str], None] | None = None,
    ) -> int:
        """Build a plan from an ONNX file and write it.

        :param on_step: Told what is going on.
        :return: Bytes of the plan.
        :raises EngineError: TensorRT cannot parse or build the graph; the text carries its words.
        """
        self.check(options)
        say = on_step or (lambda _text: None)
        builder = self.trt.Builder(self.logger)
        flags = 1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(flags)
        parser = self.trt.OnnxParser(network, self.logger)
        say('parse')
        # Bytes that happen to be a protocol buffer parse without an error, to an empty network.
        if not parser.parse_from_file(str(onnx)) or not network.num_outputs:
            words = '; '.join(str(parser.get_error(i)) for i in range(parser.num_errors)) or 'it is empty'
            raise EngineError(f'{segment.name}: TensorRT cannot read the graph: {words}')
        config = self._configure(builder, options)
        self._add_profiles(builder, config, network, segment)
        say('build')
        self.logger.errors.clear()
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise EngineError(
                f'{segment.name}: TensorRT {self.version} cannot build it: {"; ".join(self.logger.errors)}')
        say('write')
        partial = destination.with_suffix('.partial')
        with partial.open('wb') as file:
            file.write(plan)
        partial.replace(destination)
        return int(plan.nbytes)

    def _configure(self, builder: Any, options: BuildOptions) -> Any:
        config = builder.create_builder_config()
        if self.flavour == 'rtx':
            config.num_compute_capabilities = len(options.targets)
            for i, target in enumerate(options.targets):
                config.set_compute_capability(getattr(self.trt.ComputeCapability, target.upper()), i)
        if options.weight_streaming:
            config.set_flag(self.trt.BuilderFlag.WEIGHT_STREAMING)
        if options.refittable:
            config.set_flag(self.trt.BuilderFlag.REFIT)
        return config

    def _add_profiles(self, builder: Any, config: Any, network: Any, segment: Segment) -> None:
        present = {network.get_input(i).name for i in range(network.num_inputs)}
        for profile in segment.profiles:
            made = builder.create_optimization_profile()
            for port in segment.inputs:
                if port.name in present and any(isinstance(part, str) for part in port.shape):
                    made.set_shape(port.name, *(port.sizes(profile.values(which)) for which in range(3)))
            if config.add_optimization_profile(made) < 0:
                raise EngineError(f'{segment.name}: TensorRT refuses the profile {profile.name}')


def installed_flavours() -> tuple[str, ...]:
    """Return the flavours that can be imported here."""
    found = []
    for flavour in FLAVOURS:
        try:
            Compiler(flavour)
        except MissingDependencyError:
            continue
        found.append(flavour)
    return tuple(found)


def current_target() -> str | None:
    """Return the architecture of this machine's first GPU, e.g. ``sm89``; None without one."""
    torch = require('torch', 'model')
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return f'sm{major}{minor}'


def named_targets(targets: Sequence[str]) -> tuple[str, ...]:
    """Return architectures with this machine's GPU in place of ``current``, none twice.

    Without a GPU ``current`` stays; :meth:`Compiler.check` refuses it.
    """
    here = current_target() if 'current' in targets else None
    return tuple(dict.fromkeys(here if t == 'current' and here else t for t in targets))


def describe_targets(targets: Sequence[str]) -> str:
    """Return architectures with the cards that have them."""
    return ', '.join(f'{t} ({GPU_NAMES[t]})' if t in GPU_NAMES else t for t in targets)


def _gpu_present() -> bool:
    return current_target() is not None


def _make_logger(trt: Any) -> Any:
    """Return a logger that passes TensorRT's words to ours and keeps its errors."""
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.ERROR, trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.DEBUG, trt.ILogger.INFO: logging.DEBUG}

    def begin(self: Any) -> None:
        trt.ILogger.__init__(self)
        self.errors = []

    def log(self: Any, severity: Any, message: str) -> None:
        level = levels.get(severity, logging.DEBUG)
        if level == logging.ERROR:
            self.errors.append(message.strip())
        logger.log(min(level, logging.WARNING), 'TensorRT: %s', message.strip())

    return type('_Logger', (trt.ILogger,), {'__init__': begin, 'log': log})()
