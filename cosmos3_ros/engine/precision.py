"""Precisions that plans are built in."""

from dataclasses import dataclass, replace
from typing import Literal

from .errors import EngineError

Matrices = Literal['plain', 'fp8', 'nvfp4']


@dataclass(frozen=True, slots=True)
class Precision:
    """How a graph computes.

    :param compute: torch's name of the type of activations and of unquantised weights.
    :param matrices: What the layers' matrices hold: the compute type; ``fp8`` (e4m3, inputs too);
        ``nvfp4`` (e2m1 in blocks of 16, weights alone).
    :param exported: Precision of the float32 export that ONNX Runtime runs on a CPU, in its place.
    :param least_target: Oldest architecture that has the types.
    :param cosine: Least cosine of an output against float32 torch that the gate accepts.
    :param deviation: Largest deviation that the gate accepts, relative to the largest magnitude of the
        output. A cosine alone would not see one wrong weight in a large matrix.
    """

    name: str
    compute: str
    matrices: Matrices
    exported: str
    least_target: int
    cosine: float
    deviation: float

    @property
    def calibrated(self) -> bool:
        """Whether inputs have scales, which come from vectors or a calibration."""
        return self.matrices == 'fp8'

    def bounded(self, cosine: float | None, deviation: float | None) -> 'Precision':
        """Return it with other bounds; None keeps one.

        :raises EngineError: No bound that anything could meet, or that everything would.
        """
        found = replace(
            self, cosine=self.cosine if cosine is None else cosine,
            deviation=self.deviation if deviation is None else deviation)
        if not 0.0 < found.cosine < 1.0 or not 0.0 < found.deviation < 1.0:
            raise EngineError(
                f'least cosine {found.cosine:g}, most deviation {found.deviation:g} arrived, above 0 and '
                'below 1 is allowed for both')
        return found

    def check_targets(self, targets: tuple[str, ...]) -> None:
        """Refuse architectures that lack the types.

        :param targets: E.g. ``('sm89', 'sm120')``; ``current`` is left to TensorRT.
        :raises EngineError: Which, and what is allowed.
        """
        for target in targets:
            number = target.removeprefix('sm')
            if number.isdecimal() and int(number) < self.least_target:
                raise EngineError(
                    f'target: {target} arrived, the precision {self.name} needs sm{self.least_target} or '
                    'newer; build this one with another --precision')


# Bounds: peers' gate is a cosine of 0.999 per stage (facts sheet of peers, 2.5); deviations from what
# torch itself loses by rounding, times three (docs/engine.md, "The gate").
PRECISIONS = {
    p.name: p for p in (
        Precision('fp32', 'float32', 'plain', 'fp32', 0, 0.9999, 1e-4),
        Precision('bf16', 'bfloat16', 'plain', 'fp32', 80, 0.999, 6e-2),
        Precision('fp8', 'bfloat16', 'fp8', 'fp8_fp32', 89, 0.98, 4e-1),
        Precision('nvfp4', 'bfloat16', 'nvfp4', 'nvfp4_fp32', 120, 0.9, 6e-1),
        # What ONNX Runtime on a CPU can run of the quantised graphs: the same scales around float32.
        Precision('fp8_fp32', 'float32', 'fp8', 'fp8_fp32', 0, 0.98, 4e-1),
        Precision('nvfp4_fp32', 'float32', 'nvfp4', 'nvfp4_fp32', 0, 0.9, 6e-1),
    )
}
PLANS = ('bf16', 'fp8', 'nvfp4')
"""Precisions that plans can have."""


def find_precision(name: str) -> Precision:
    """Return a precision by name.

    :raises EngineError: Unknown name.
    """
    if name not in PRECISIONS:
        raise EngineError(f'precision: {name!r} arrived, one of {", ".join(PRECISIONS)} is allowed')
    return PRECISIONS[name]
