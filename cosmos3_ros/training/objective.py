"""What the loop needs of a stage: something to minimise, and weights to do it with."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from ..resources import require

torch = require('torch', 'model')

MEASURED_BATCHES = 4
MEASURED_STEP = 1_000_000_000
"""No step of training has such a number: noise of held-out batches is of its own."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of one forward.

    :param step: Optimiser step, part of the noise's seed.
    :param part: Which of the step's forwards, over all processes; likewise.
    :param draws: (dataset, sample) of each.
    """

    step: int
    part: int
    draws: tuple[tuple[int, int], ...]


class Objective(Protocol):
    """A ``torch.nn.Module`` whose forward takes a :class:`Batch`."""

    def __call__(self, batch: Batch) -> dict[str, Any]:
        """Return scalars; ``loss`` is minimised, the others are written down."""

    def trained(self) -> dict[str, Any]:
        """Return the parameters that are trained, by their names in the checkpoint's files."""

    def compile_layers(self) -> None:
        """Let torch compile what is worth it; may do nothing."""

    def learning_rate_factor(self, name: str) -> float:
        """Return what the learning rate of a parameter is multiplied with."""


@runtime_checkable
class PreparedObjective(Protocol):
    """An objective that can make its forwards ready ahead of time; the loop asks whether it can."""

    def ahead(self, coming: Iterator[Batch]) -> AbstractContextManager[None]:
        """Make the coming batches ready while the context lasts.

        :param coming: Every batch that will be asked for, in that order; has no end.
        """


class MeasuredObjective(Protocol):
    """An objective that can look at held-out samples."""

    def measure(self, batch: Batch) -> dict[str, Any]:
        """Return the same scalars for held-out samples."""


def measure_held_out(
    objective: MeasuredObjective, draw: Callable[[int], tuple[tuple[int, int], ...]],
) -> dict[str, float]:
    """Return mean losses of a few batches, the same ones every time, with the weights as they are.

    :param draw: Number of the batch to its (dataset, sample).
    """
    found = []
    for i in range(MEASURED_BATCHES):
        # With gradients, unused: layers that are compiled for training would be compiled anew without.
        losses = objective.measure(Batch(MEASURED_STEP + i, 0, draw(i)))
        found.append({name: float(value.detach()) for name, value in losses.items()})
        del losses  # their graph, before the next one is made
    # Not every batch need have everything: there may be no report in one.
    values: dict[str, list[float]] = {}
    for losses in found:
        for name, value in losses.items():
            values.setdefault(name, []).append(value)
    return {name: sum(those) / len(those) for name, those in values.items()}


def noise_generator(device: Any, *numbers: int) -> Any:
    """Return a generator whose stream belongs to these numbers alone (seed, stage, step, part)."""
    mixed = 0x9E3779B97F4A7C15
    for number in numbers:  # splitmix64's finaliser (Steele, Lea and Flood, 2014)
        mixed = (mixed ^ number) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ (mixed >> 31)) * 0x94D049BB133111EB % 2**64
    return torch.Generator(device=device).manual_seed(mixed % 2**63)


def decays(name: str, parameter: Any) -> bool:
    """Whether weight decay applies: to matrices, not to norms, biases and embeddings of modalities."""
    return parameter.ndim > 1 and 'norm' not in name and not name.endswith('bias.weight')
