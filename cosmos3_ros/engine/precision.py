"""Precisions that plans are built in."""

from dataclasses import dataclass

from .errors import EngineError


@dataclass(frozen=True, slots=True)
class Precision:
    """How a graph computes.

    :param compute: torch's name of the type of activations and of unquantised weights.
    :param fp8: The layers' matrices take and hold FP8 (e4m3), scaled.
    :param cosine: Least cosine of an output against float32 torch that the gate accepts.
    :param deviation: Largest deviation that the gate accepts, relative to the largest magnitude of the
        output. A cosine alone would not see one wrong weight in a large matrix.
    """

    name: str
    compute: str
    fp8: bool
    cosine: float
    deviation: float


# Bounds: peers' gate is a cosine of 0.999 per stage (facts sheet of peers, 2.5); deviations from what
# torch itself loses by rounding, times three (docs/engine.md, "The gate").
PRECISIONS = {
    p.name: p for p in (
        Precision('fp32', 'float32', False, 0.9999, 1e-3),
        Precision('bf16', 'bfloat16', False, 0.999, 6e-2),
        Precision('fp8', 'bfloat16', True, 0.98, 4e-1),
        # What ONNX Runtime on a CPU can run of the FP8 graph: the same scales around float32.
        Precision('fp8_fp32', 'float32', True, 0.98, 4e-1),
    )
}


def find_precision(name: str) -> Precision:
    """Return a precision by name.

    :raises EngineError: Unknown name.
    """
    if name not in PRECISIONS:
        raise EngineError(f'precision: {name!r} arrived, one of {", ".join(PRECISIONS)} is allowed')
    return PRECISIONS[name]
