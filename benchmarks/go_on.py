"""Change a file of training settings so that a run goes on from a checkpoint instead of from nothing.

``python benchmarks/go_on.py SETTINGS.yaml CHECKPOINT``. The autoencoder stays what it is: its section is
taken out. The rest starts from the checkpoint's weights with lower learning rates, and no head is made to
pass noise: it does already. Used by ``train_tiny.sh`` where a run takes more than one lease.
"""

from pathlib import Path
import sys
from typing import Any

import yaml

RATES = {'reasoner': 0.7, 'actions': 0.8, 'generator': 0.5}
"""Factors of the learning rates."""


def change(settings: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    """Return the changed settings."""
    kept = {name: section for name, section in settings.items() if name != 'vae'}
    kept['start'] = {'checkpoint': str(checkpoint.resolve())}
    for name, factor in RATES.items():
        if name in kept:
            optimiser = dict(kept[name]['optimiser'])
            optimiser['learning_rate'] = float(optimiser['learning_rate']) * factor
            kept[name] = {**kept[name], 'optimiser': optimiser}
            if 'pass_noise' in kept[name]:
                kept[name]['pass_noise'] = False
    return kept


if __name__ == '__main__':
    file = Path(sys.argv[1])
    changed = change(yaml.safe_load(file.read_text(encoding='utf-8')), Path(sys.argv[2]))
    file.write_text(yaml.safe_dump(changed, sort_keys=False), encoding='utf-8')
