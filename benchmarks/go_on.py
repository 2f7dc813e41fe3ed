"""Change a file of training settings so that a run goes on from a checkpoint instead of from nothing.

``python benchmarks/go_on.py SETTINGS.yaml CHECKPOINT [STAGE...]``. Only the named stages stay, by default all
but the autoencoder's. They start from the checkpoint's weights with lower learning rates, and no head is made
to pass noise: it does already. A reasoner alone is held to what the checkpoint's tower reads of it. Used by
``train_tiny.sh`` and ``teach_policy.sh``.
"""

from pathlib import Path
import sys
from typing import Any

import yaml

RATES = {'reasoner': 0.7, 'actions': 0.8, 'generator': 0.5}
"""Factors of the learning rates."""

REASONER_BATCH = 128
"""No autoencoder is trained beside it, so there is room."""

CONTEXT_WEIGHT = 100.0
"""Of a reasoner that is trained alone, unless the file says one: docs/training.md, "Four stages"."""


def change(settings: dict[str, Any], checkpoint: Path, stages: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the changed settings."""
    left_out = {'vae', *RATES} - set(stages or RATES)
    kept = {name: section for name, section in settings.items() if name not in left_out}
    kept['start'] = {'checkpoint': str(checkpoint.resolve())}
    for name, factor in RATES.items():
        if name in kept:
            optimiser = dict(kept[name]['optimiser'])
            optimiser['learning_rate'] = float(optimiser['learning_rate']) * factor
            if name == 'reasoner':
                optimiser['batch'] = max(int(optimiser['batch']), REASONER_BATCH)
            kept[name] = {**kept[name], 'optimiser': optimiser}
            if stages == ('reasoner',):
                kept[name].setdefault('context_weight', CONTEXT_WEIGHT)
            if 'pass_noise' in kept[name]:
                kept[name]['pass_noise'] = False
    return kept


if __name__ == '__main__':
    file = Path(sys.argv[1])
    changed = change(yaml.safe_load(file.read_text(encoding='utf-8')), Path(sys.argv[2]), tuple(sys.argv[3:]))
    file.write_text(yaml.safe_dump(changed, sort_keys=False), encoding='utf-8')
