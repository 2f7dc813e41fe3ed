"""How a checkpoint asks to be sampled, where it says so in its ``cosmos3_ros.json``."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
import math
from typing import Any


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings of the sampler; None leaves a choice to the action contract.

    :param steps: Denoising steps, 1 to 50.
    :param guidance: Classifier-free guidance scale, 0 to 20; 1 is off.
    :param guidance_interval: Timesteps (0 to 1001) strictly between which guidance is on.
    :param shift: Flow shift of the noise levels, above 0 to 100.
    """

    steps: int | None = None
    guidance: float | None = None
    guidance_interval: tuple[float, float] | None = None
    shift: float | None = None

    def __post_init__(self) -> None:
        """Refuse values of another type or outside their ranges."""
        steps = self.steps
        if steps is not None and (type(steps) is not int or not 1 <= steps <= 50):
            raise ValueError(f'steps {steps!r} arrived, a whole number from 1 to 50 is allowed')
        if self.guidance is not None and not (_is_number(self.guidance) and 0.0 <= self.guidance <= 20.0):
            raise ValueError(f'guidance {self.guidance!r} arrived, 0 to 20 is allowed')
        if self.shift is not None and not (_is_number(self.shift) and 0.0 < self.shift <= 100.0):
            raise ValueError(f'shift {self.shift!r} arrived, above 0 to 100 is allowed')
        ends = self.guidance_interval
        if ends is not None and not (
                isinstance(ends, tuple) and len(ends) == 2 and all(_is_number(end) for end in ends)
                and 0.0 <= ends[0] < ends[1] <= 1001.0):
            raise ValueError(
                f'guidance_interval {ends!r} arrived, two ascending timesteps from 0 to 1001 are allowed')

    @classmethod
    def read(cls, content: Any) -> 'Sampling':
        """Return what a JSON object says.

        :raises ValueError: It is no object, or a key or value in it is not allowed.
        """
        names = tuple(entry.name for entry in fields(cls))
        if not isinstance(content, Mapping):
            raise ValueError(f'{content!r} arrived, an object with {", ".join(names)} is allowed')
        unknown = [str(name) for name in content if name not in names]
        if unknown:
            raise ValueError(f'{", ".join(unknown)} arrived, {", ".join(names)} are allowed')
        values = dict(content)
        if isinstance(values.get('guidance_interval'), list):
            values['guidance_interval'] = tuple(values['guidance_interval'])
        return cls(**values)

    def document(self) -> dict[str, Any]:
        """Return what is said, as :meth:`read` takes it."""
        return {name: list(value) if isinstance(value, tuple) else value
                for name, value in asdict(self).items() if value is not None}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
