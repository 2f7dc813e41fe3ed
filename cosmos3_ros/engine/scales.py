"""Largest inputs of the layers' matrices, seen on real clips: what FP8's static scales come from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
import hashlib
import json
import math
from pathlib import Path
from typing import Any

from .errors import EngineError

FORMAT = 1
_LARGEST_BYTES = 4_000_000


@dataclass(frozen=True, slots=True)
class Scales:
    """A calibration.

    :param checkpoint: Content hash of the weights that ran.
    :param data: What they saw.
    :param moments: How many moments of it.
    :param amax: Tower to matrix to the largest magnitude of its input; matrices have the checkpoint's
        layer numbers, so that every way to cut a tower finds its own.
    :param excluded: Tower to the matrices that are not quantised.
    """

    checkpoint: str
    label: str
    data: str
    moments: int
    amax: Mapping[str, Mapping[str, float]]
    excluded: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        """Refuse what is no magnitude."""
        if self.moments < 1:
            raise EngineError(f'scales: {self.moments} moments arrived, at least 1 is needed')
        for tower, found in self.amax.items():
            for name, value in found.items():
                if not (isinstance(value, int | float) and math.isfinite(value) and value > 0.0):
                    raise EngineError(
                        f'scales: {tower}, {name}: {value!r} arrived, a positive number is needed')

    def write(self, path: Path) -> None:
        """Write JSON, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f'{path.name}.partial')
        partial.write_text(
            json.dumps({'format': FORMAT, **asdict(self)}, indent=2, sort_keys=True) + '\n', encoding='utf-8')
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> 'Scales':
        """Read what :meth:`write` wrote.

        :raises EngineError: Not such a file.
        """
        try:
            if path.stat().st_size > _LARGEST_BYTES:
                raise EngineError(f'it has more than {_LARGEST_BYTES} bytes')
            content: dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
            if content['format'] != FORMAT:
                raise EngineError(f'format {content["format"]} arrived, {FORMAT} is allowed')
            return cls(
                str(content['checkpoint']), str(content['label']), str(content['data']),
                int(content['moments']), {t: dict(found) for t, found in content['amax'].items()},
                {t: tuple(names) for t, names in content['excluded'].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EngineError) as error:
            raise EngineError(
                f'calibration: {path} holds no scales: {error!r}; make them with "cosmos3 engine calibrate"',
            ) from error

    @property
    def digest(self) -> str:
        """SHA-256 of what the scales depend on; part of the plans' key."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def require_checkpoint(self, content_hash: str) -> None:
        """Refuse scales of other weights.

        :raises EngineError: Whose they are.
        """
        if self.checkpoint != content_hash:
            raise EngineError(
                f'calibration: the scales are of {self.label}, the weights here are {content_hash}; make '
                'them again with "cosmos3 engine calibrate"')
