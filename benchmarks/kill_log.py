"""One line of JSON per strike, so that a campaign can be made in slices and go on where it ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
import json
import os
from pathlib import Path
import random
import subprocess
import time
from typing import Any

DELAYS_S = (0.2, 8.0)
"""A pick_place of the oracle takes about nine seconds."""


@dataclass(frozen=True, slots=True)
class Task:
    """One strike that is wanted.

    :param index: Its place in the campaign.
    :param delay_s: From the first chunk to the strike.
    """

    index: int
    struck: str
    seed: int
    delay_s: float


def plan_tasks(runs: int, seed: int, kinds: Sequence[str]) -> list[Task]:
    """Return the strikes of a campaign, the kinds in turn; the same for the same arguments."""
    draw = random.Random(seed)
    return [Task(i, kinds[i % len(kinds)], seed + i, draw.uniform(*DELAYS_S)) for i in range(runs)]


def find_revision() -> str:
    """Return the commit that runs, with ``-dirty`` where tracked files differ from it; empty without git."""
    try:
        done = subprocess.run(
            ['git', 'describe', '--always', '--dirty', '--abbrev=7', '--exclude=*'],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=20.0, check=True)
    except (OSError, subprocess.SubprocessError):
        return ''
    return done.stdout.strip()


def append(path: Path, task: Task, verdict: dict[str, Any], conditions: dict[str, Any]) -> None:
    """Add a verdict; on the disk when this returns.

    :param conditions: What the strike ran under, e.g. the revision.
    """
    line = json.dumps({
        'index': task.index, **verdict, **conditions, 'load': round(os.getloadavg()[0], 2),
        'at': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())})
    # After a line that was cut short, a new one.
    torn = path.exists() and not path.read_bytes().endswith(b'\n') and path.stat().st_size > 0
    with path.open('a') as file:
        file.write('\n' * torn + line + '\n')
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[dict[str, Any]]:
    """Return all lines; of one that was cut short by a crash, nothing."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def find_open(tasks: Iterable[Task], lines: Sequence[dict[str, Any]], attempts: int) -> list[Task]:
    """Return the tasks without a verdict that have been disturbed fewer than ``attempts`` times."""
    judged = {_key(line) for line in lines if not line['disturbed']}
    disturbed = Counter(_key(line) for line in lines if line['disturbed'])
    found = [(task, (task.index, task.struck, task.seed)) for task in tasks]
    return [task for task, key in found if key not in judged and disturbed[key] < attempts]


def sum_up(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Count; of a disturbed strike only its commands count."""
    verdicts = [line for line in lines if not line['disturbed']]
    kinds: dict[str, Any] = {}
    for kind in sorted({line['struck'] for line in verdicts}):
        of_kind = [line for line in verdicts if line['struck'] == kind]
        kinds[kind] = {
            'runs': len(of_kind), 'passed': sum(not line['faults'] for line in of_kind),
            'moving_when_struck': sum(line['speed_rad_s'] > 0.05 for line in of_kind),
            'reasons': dict(Counter(line['reason'] or 'none' for line in of_kind)),
            'rest_s_max': round(max(line['rest_s'] for line in of_kind), 3),
            'reason_s_max': round(max(line['reason_s'] for line in of_kind), 3)}
    violations: Counter[str] = Counter()
    for line in lines:
        violations.update(line['violations'])
    return {
        'judged': len(verdicts), 'passed': sum(not line['faults'] for line in verdicts),
        'commands_checked': sum(line['commands'] for line in lines), 'violations': dict(violations),
        'by_kind': kinds,
        'disturbed': [f'{line["struck"]}: {line["disturbed"]}' for line in lines if line['disturbed']],
        'failed': [line for line in verdicts if line['faults']]}


def _key(line: dict[str, Any]) -> tuple[int, str, int]:
    return line['index'], line['struck'], line['seed']
