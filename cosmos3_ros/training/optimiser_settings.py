"""How a stage is optimised, and the checks that all settings share."""

from dataclasses import dataclass
import math


class TrainingError(ValueError):
    """A run cannot start or go on. The text says what arrived, what is allowed and what to change."""


def check_range(where: str, name: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside ``low`` to ``high``.

    :raises TrainingError: It is.
    """
    if not (math.isfinite(value) and low <= value <= high):
        raise TrainingError(f'{where}.{name}: {value} arrived, {low:g} to {high:g} is allowed')


def check_choice(where: str, name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a word that is none of ``allowed``.

    :raises TrainingError: It is none.
    """
    if value not in allowed:
        raise TrainingError(f'{where}.{name}: {value!r} arrived, one of {", ".join(allowed)} is allowed')


@dataclass(frozen=True, slots=True)
class OptimiserSettings:
    """AdamW, warm-up, then a cosine down to a fraction.

    Betas, epsilon, weight decay and clipping: NVIDIA's recipe for the DROID policy (facts sheet 8).

    :param steps: Optimiser steps of the stage.
    :param batch: Samples per step, all processes and micro-batches together.
    :param micro_batch: Samples per forward and process; 0 is all of them.
    :param ema_decay: Of the averaged weights, which are what is kept; 0 keeps the last ones.
    """

    steps: int
    batch: int
    learning_rate: float
    micro_batch: int = 0
    warmup_steps: int = 0
    final_fraction: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8
    weight_decay: float = 0.05
    gradient_norm: float = 1.0
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        for name, low, high in (
                ('steps', 1, 10_000_000), ('batch', 1, 1_000_000), ('micro_batch', 0, 1_000_000),
                ('learning_rate', 1e-9, 1.0), ('warmup_steps', 0, 1_000_000), ('final_fraction', 0.0, 1.0),
                ('beta1', 0.0, 0.9999), ('beta2', 0.0, 0.99999), ('epsilon', 1e-16, 1e-2),
                ('weight_decay', 0.0, 10.0), ('gradient_norm', 1e-6, 1e6), ('ema_decay', 0.0, 0.99999)):
            check_range('optimiser', name, getattr(self, name), low, high)
        if self.micro_batch and self.batch % self.micro_batch:
            raise TrainingError(
                f'optimiser.micro_batch: {self.micro_batch} arrived, a divisor of batch {self.batch} is '
                'needed')

    def forward_size(self, processes: int) -> int:
        """Return the samples of one forward of one process; held-out samples come in as many.

        So measuring compiles no other shape, and needs no more memory, than training. Every process has
        something to do in every step: those that wait for its gradients would wait for ever.

        :raises TrainingError: There are more processes than samples in a step.
        """
        if self.batch < processes:
            raise TrainingError(
                f'optimiser.batch: {self.batch} arrived, at least one sample for each of {processes} '
                'processes is needed')
        share = self.batch // processes
        return min(self.micro_batch, share) if self.micro_batch else share

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of step 0, 1, 2, ..."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        share = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        fall = 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))
        return self.learning_rate * (self.final_fraction + (1.0 - self.final_fraction) * fall)
