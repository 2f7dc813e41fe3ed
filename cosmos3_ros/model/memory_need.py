"""How much device memory a policy will need, said before anything is loaded."""

from dataclasses import dataclass

from .checkpoint import CheckpointError
from .tower_shape import TowerShape

GIGA = 1e9
# Peak of everything that is no weight, in units of one branch's gate and up in bfloat16 (152 MB of Nano):
# an H200 took 18.1 GB for 13.9 GB of weights and 11.2 GB for 6.95 GB, CUDA's own 0.85 GB included
# (benchmarks/README.md), so 3.2 GB or 21 units.
_WORKING_UNITS = 21
_BYTES = {'float32': 4, 'bfloat16': 2, 'float16': 2, 'float8': 1}


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """A way to load, and what it takes.

    :param dtype: As the option of that name.
    :param understanding: ``streamed`` or ``resident``; of the backend ``diffusers`` always resident.
    """

    backend: str
    dtype: str
    understanding: str
    weights_bytes: int
    working_bytes: int

    @property
    def total_gb(self) -> float:
        """Weights and work, in 1e9 bytes."""
        return (self.weights_bytes + self.working_bytes) / GIGA

    def __str__(self) -> str:
        """Return the options and the sum."""
        return (f'{self.backend}, dtype {self.dtype}, understanding {self.understanding}: '
                f'{self.total_gb:.1f} GB')


def estimate_need(
    shape: TowerShape, vocabulary: int, generated_tokens: int, backend: str, dtype: str, understanding: str,
) -> MemoryNeed:
    """Return what a way to load takes.

    :param vocabulary: Rows of the token embedding, which ``diffusers`` keeps twice.
    :param generated_tokens: Video and action tokens of a request: 3093 for the DROID policy.
    """
    size = _BYTES[dtype]
    activation = max(size, 2)
    weights = shape.generation_parameters * size
    if backend == 'diffusers':
        weights = (2 * shape.generation_parameters + 2 * vocabulary * shape.hidden) * size
    elif understanding == 'resident':
        weights += shape.generation_parameters * activation
    return MemoryNeed(
        backend, dtype, understanding, weights, working_bytes(shape, dtype, generated_tokens))


def layer_bytes(shape: TowerShape, dtype: str) -> int:
    """Return what one layer of the generation tower takes."""
    return shape.generation_parameters // shape.layers * _BYTES[dtype]


def working_bytes(shape: TowerShape, dtype: str, generated_tokens: int) -> int:
    """Return the peak of everything that is no weight."""
    return _WORKING_UNITS * generated_tokens * 2 * shape.intermediate * max(_BYTES[dtype], 2)


def check_memory(
    shape: TowerShape, vocabulary: int, generated_tokens: int, backend: str, dtype: str, understanding: str,
    free_bytes: int,
) -> MemoryNeed:
    """Return what the asked-for way takes, or refuse it and name those that fit.

    :raises CheckpointError: It takes more than is free.
    """
    need = estimate_need(shape, vocabulary, generated_tokens, backend, dtype, understanding)
    if need.total_gb <= free_bytes / GIGA:
        return need
    others = [
        estimate_need(shape, vocabulary, generated_tokens, 'compiled', kind, 'streamed')
        for kind in ('bfloat16', 'float8')]
    fitting = [str(o) for o in others if o.total_gb <= free_bytes / GIGA and o.total_gb < need.total_gb]
    advice = (f'use {" or ".join(fitting)}' if fitting
              else 'use a smaller checkpoint (Edge) or a larger device')
    raise CheckpointError(
        f'device: {need} are needed ({need.weights_bytes / GIGA:.1f} of weights), '
        f'{free_bytes / GIGA:.1f} are free; {advice}')
