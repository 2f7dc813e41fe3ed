"""Classifier-free guidance and the interval of noise levels in which it is on."""

from dataclasses import dataclass
from typing import Any

from .policy import PolicyError


@dataclass(frozen=True, slots=True)
class Guidance:
    """Guidance of a chunk.

    :param scale: 1 is off (and halves the work); the DROID policy's server uses 3.
    :param interval: Timesteps (0..1000) strictly between which it is on; None is always. NVIDIA
        documents ``(960, 1001)`` for Edge, which leaves the first of four steps. Their comparison
        excludes both ends, whatever their text says (``omni_mot_model.py:3325``).
    """

    scale: float
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if not 0.0 <= self.scale <= 20.0:
            raise PolicyError(f'guidance: {self.scale} arrived, 0 to 20 is allowed')
        if self.interval is not None and not (
                len(self.interval) == 2 and 0 <= self.interval[0] < self.interval[1] <= 1001):
            raise PolicyError(
                f'guidance_interval: {self.interval} arrived, two ascending timesteps from 0 to 1001 '
                'are allowed')

    def active(self, timestep: float) -> bool:
        """Whether the unconditional branch is needed at ``timestep``."""
        if self.scale == 1.0:
            return False
        return self.interval is None or self.interval[0] < timestep < self.interval[1]

    def combine(self, conditional: Any, unconditional: Any) -> Any:
        """Return ``u + scale (c - u)`` (Ho and Salimans, 2022)."""
        return unconditional + self.scale * (conditional - unconditional)
