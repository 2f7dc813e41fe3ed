"""The gate: an engine must say what float32 torch said, on stored inputs, before a node may use it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from cosmos3_ros.resources import require

from .errors import EngineRefusedError
from .precision import Precision
from .segments import Segment
from .vectors import Cases, Tensors, cast_inputs

torch = require('torch', 'model')


class Runner(Protocol):
    """Runs one segment, on whatever it runs."""

    def run(self, inputs: Mapping[str, Any]) -> Tensors:
        """Return outputs by port name, torch tensors.

        :param inputs: Tensors by port name, in the types of the ports.
        """


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How close one output came to the reference.

    :param stage: Segment's name.
    :param cosine: Of the two outputs as vectors, both in float64.
    :param deviation: Largest difference, relative to the reference's largest magnitude.
    """

    stage: str
    case: str
    output: str
    cosine: float
    deviation: float

    def within(self, precision: Precision) -> bool:
        """Whether ``precision`` allows it; NaN never is."""
        return self.cosine >= precision.cosine and self.deviation <= precision.deviation

    def describe(self, precision: Precision) -> str:
        """Return one line: where, how far, what is allowed."""
        return (
            f'{self.stage}, {self.case}, {self.output}: cosine {self.cosine:.6f} (at least '
            f'{precision.cosine:g}), deviation {self.deviation:.2e} (at most {precision.deviation:g})')


def compare(stage: str, case: str, output: str, reference: Any, actual: Any) -> Fidelity:
    """Return how close ``actual`` is to ``reference``."""
    wanted, got = reference.double().flatten().cpu(), actual.double().flatten().cpu()
    if wanted.shape != got.shape:
        return Fidelity(stage, case, output, float('nan'), float('nan'))
    scale = wanted.norm() * got.norm()
    cosine = float(wanted @ got / scale) if scale > 0 else float('nan')
    deviation = float((wanted - got).abs().max() / wanted.abs().max().clamp(min=1e-30))
    return Fidelity(stage, case, output, cosine, deviation)


def measure(segment: Segment, runner: Runner, inputs: Cases, references: Cases, dtype: str) -> list[Fidelity]:
    """Run every stored case and return one :class:`Fidelity` per output."""
    found = []
    for case, given in inputs.items():
        outputs = runner.run(cast_inputs(segment, given, dtype))
        found += [
            compare(segment.name, case, port.name, references[case][port.name], outputs[port.name])
            for port in segment.outputs]
    return found


def require_fidelity(found: Iterable[Fidelity], precision: Precision, rebuild: str) -> None:
    """Refuse an engine that drifted.

    :param rebuild: Command that builds it again.
    :raises EngineRefusedError: Which stage drifted, how far, and what is allowed.
    """
    everything = list(found)
    drifted = [fidelity for fidelity in everything if not fidelity.within(precision)]
    if not everything:
        raise EngineRefusedError(f'engine: no stored vectors to compare with; build it again: {rebuild}')
    if drifted:
        # A cosine that is not a number is the worst of all.
        worst = min(drifted, key=lambda f: f.cosine if f.cosine == f.cosine else -2.0)
        raise EngineRefusedError(
            f'engine: the stage {worst.stage} drifted ({len(drifted)} of {len(everything)} outputs): '
            f'{worst.describe(precision)}; build it again: {rebuild}')


def require_tokens(expected: list[list[int]], actual: list[list[int]], rebuild: str) -> None:
    """Refuse a language engine that answers a stored prompt with other tokens.

    :raises EngineRefusedError: Which prompt, which token.
    """
    for prompt, (wanted, got) in enumerate(zip(expected, actual, strict=True)):
        if wanted != got:
            place = next((i for i, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b),
                         min(len(wanted), len(got)))
            raise EngineRefusedError(
                f'engine: greedy tokens of stored prompt {prompt} differ from token {place} on '
                f'({got[place:place + 1]} instead of {wanted[place:place + 1]}); build it again: {rebuild}')
