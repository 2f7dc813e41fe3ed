"""The model card of a trained checkpoint, written from what the run knows of itself."""

import json
from pathlib import Path
from typing import Any

from .output_checkpoint import OutputCheckpoint
from .settings import STAGES, TrainingSettings

EVALUATION_FILE = 'evaluation.json'
"""Written beside the card by ``cosmos3 train --evaluate`` and quoted in it."""


def write_card(output: OutputCheckpoint, settings: TrainingSettings, command: str) -> Path:
    """Write ``README.md`` of the checkpoint.

    :param command: What was typed to train it.
    """
    about, stages = output.metadata(), output.stages()
    before: dict[str, Any] = about.get('base_stages', {})
    missing = [stage for stage in settings.stages if stage not in stages]
    start = about.get('base') or f'random weights, preset {about.get("preset")}'
    lines = [
        '---', 'license: apache-2.0', 'library_name: cosmos3_ros', 'tags: [robotics, cosmos3]', '---', '',
        f'# {about["name"]}', '',
        'A checkpoint in the layout of `nvidia/Cosmos3-Nano` (same classes, same files), written by',
        '`cosmos3 train`.', '',
        f'* Trained: {"no, stages missing: " + ", ".join(missing) if missing else "yes"}',
        f'* Action contract: {about["contract"]}; camera view {about["view"][0]} x {about["view"][1]};',
        f'  prompt variant {about["prompt_variant"]}',
        *_sampling(about.get('sampling', {})),
        f'* Started from: {start}; seed {settings.seed}',
        f'* Understanding tower: {about.get("understanding_hash", "as started")} (SHA-256, first 16 digits);',
        '  the reasoner reads the same bytes',
        '', '## Data', '',
        '| dataset | weight | window stride |', '|---|---|---|',
        *(f'| {Path(e.path).name} | {e.weight:g} | {e.window_stride} |' for e in settings.data.datasets),
        '', f'The last {100 * settings.data.held_out:g} % of the episodes of each dataset were held out.',
        '', '## Training', '',
        '| stage | steps | batch | seconds | seconds per step | on | last values |',
        '|---|---|---|---|---|---|---|',
        # What a stage of this run replaced is left out: its weights are not in the checkpoint any more.
        *(_row(f'{name}, before this run', before[name]) for name in STAGES if name in before),
        *(_row(name, stages[name]) for name in STAGES if name in stages),
        '', 'The understanding tower is trained with the reasoner first, and is frozen while the generator',
        'is trained: the fine-tuning recipe of NVIDIA freezes it too.', '',
        '## Again', '', '```', command or 'cosmos3 train', '```', '',
        *_evaluation(output.directory / EVALUATION_FILE),
    ]
    path = output.directory / 'README.md'
    path.write_text('\n'.join(lines), encoding='utf-8')
    return path


def _sampling(says: dict[str, Any]) -> list[str]:
    return [f'* Sampling: {", ".join(f"{name} {value}" for name, value in says.items())}'] if says else []


def _row(name: str, facts: dict[str, Any]) -> str:
    last = ', '.join(f'{key} {value:.4g}' for key, value in facts['last'].items())
    batch = facts['settings']['optimiser']['batch']
    return (f'| {name} | {facts["steps"]} | {batch} | {facts["seconds"]:.0f} | {facts["step_s"]:.3g} | '
            f'{facts["device"]} | {last} |')


def _evaluation(path: Path) -> list[str]:
    if not path.is_file():
        return ['## Evaluation', '', 'None was made.', '']
    text = json.dumps(json.loads(path.read_text(encoding='utf-8')), indent=2)
    return ['## Evaluation', '', '```json', text, '```', '']
