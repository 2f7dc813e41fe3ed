"""What a stage needs to go on exactly where it was: weights, optimiser, average, generators, step, log.

Samples and noise are functions of seed and step, so the step is the sampler's whole position. The
generators of torch are kept too: dropout (of adapters) draws from them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..resources import require
from .settings import TrainingError

torch = require('torch', 'model')


def save_snapshot(path: Path, content: Mapping[str, Any]) -> None:
    """Write a snapshot; the one before stays until the new one is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + '.part')
    torch.save({**content, 'generators': generator_states()}, scratch)
    scratch.replace(path)


def load_snapshot(path: Path, digest: str) -> dict[str, Any] | None:
    """Return a snapshot, tensors on the host, or None if there is none.

    :param digest: Of the settings; see :func:`settings_file.settings_digest`.
    :raises TrainingError: It cannot be read or belongs to other settings.
    """
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # pickle, zip and OS errors of many kinds
        raise TrainingError(f'snapshot {path} cannot be read: {error}; delete it to start over') from error
    if content.get('digest') != digest:
        raise TrainingError(
            f'snapshot {path}: it was written with other settings; go on with those, or name a new --out')
    return content


def generator_states() -> dict[str, Any]:
    """Return the states of torch's own generators."""
    states = {'cpu': torch.get_rng_state()}
    if torch.cuda.is_available():
        states['cuda'] = torch.cuda.get_rng_state()
    return states


def restore_generators(states: Mapping[str, Any]) -> None:
    """Put torch's own generators where a snapshot left them."""
    torch.set_rng_state(states['cpu'])
    if 'cuda' in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states['cuda'])
