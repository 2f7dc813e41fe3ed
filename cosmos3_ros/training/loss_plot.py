"""Loss curves of a run's stages as one picture."""

import json
from pathlib import Path

from ..resources import require
from .settings import STAGES


def read_log(run_directory: Path, stage: str) -> list[dict[str, float]]:
    """Return the log of a stage, oldest first; empty if it has none."""
    path = run_directory / f'{stage}.log.jsonl'
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


def plot_losses(run_directory: Path, path: Path) -> bool:
    """Draw every value of every stage's log that is a loss, on logarithmic axes.

    :returns: False if there is nothing to draw.
    """
    logs = {stage: read_log(run_directory, stage) for stage in STAGES}
    logs = {stage: log for stage, log in logs.items() if log}
    if not logs:
        return False
    figure_kind = require('matplotlib.figure', 'record').Figure
    figure = figure_kind(figsize=(4.2 * len(logs), 3.2), layout='constrained')
    for axes, (stage, log) in zip(figure.subplots(1, len(logs), squeeze=False)[0], logs.items(), strict=True):
        for name in dict.fromkeys(name for entry in log for name in entry):
            if name in ('step', 'learning_rate', 'gradient_norm') or name.endswith('accuracy'):
                continue
            known = [entry for entry in log if name in entry]
            axes.plot([entry['step'] for entry in known], [entry[name] for entry in known], label=name,
                      linewidth=1.0)
        axes.set_yscale('log')
        axes.set_title(stage)
        axes.set_xlabel('step')
        axes.legend(fontsize=7)
        axes.grid(visible=True, alpha=0.3)
    figure.savefig(path, dpi=110, metadata={'Software': None})
    return True
