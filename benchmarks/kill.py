"""Kill parts of the running graph at random moments of a task, and see what becomes of the arm.

``python benchmarks/kill.py --runs 50 --seed 1 --json``: each run resets the scene, arms, lets the oracle pick
and place, and strikes after a random time: kill -9 of generator, perception, cameras or controller, SIGTERM
to the controller, or frozen joint states. Every time the measured arm must come to rest, every recorded
command must be inside every limit (judged by ``cosmos3_ros.evaluation``, which shares no code with the
controller), and the reason must be latched. The last line is JSON.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
import math
import os
from pathlib import Path
import random
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

from cosmos3_ros.cli.checkpoint import default_checkpoint  # noqa: E402
from cosmos3_ros.cli.console import CommandError, Output  # noqa: E402
from cosmos3_ros.cli.environment import fast_dds_variable  # noqa: E402
from cosmos3_ros.cli.running import running  # noqa: E402
from cosmos3_ros.evaluation.limit_file import read_limits  # noqa: E402
from cosmos3_ros.resources import shared_file  # noqa: E402

if TYPE_CHECKING:
    from kill_verdict import Verdict

KINDS = ('generator', 'perception', 'cameras', 'sigterm', 'joint_states', 'controller')
PATIENT = {
    'controller': {'rate_hz': 100.0, 'overrun_stop_s': 5.0, 'joint_state_stale_s': 1.5, 'clock_jump_s': 3.0,
                   'tracking_error_rad': 0.5, 'chunk_stale_s': 5.0},
    'simulator': {'command_timeout_s': 1.0},
    'generator': {'max_age_s': 2.0, 'max_skew_s': 1.0, 'max_joint_gap_s': 1.0},
}
"""For a machine whose processes stall for a second: then a stall is no stop."""
DELAYS_S = (0.2, 8.0)
"""A pick_place of the oracle takes about nine seconds."""
ATTEMPTS = 5
"""A run that was disturbed (see ``kill_graph.Attempt``) is done again, so often at most."""
LEASE = (
    '<builtin><discovery_config><leaseDuration><sec>6</sec></leaseDuration>'
    '<leaseAnnouncement><sec>1</sec></leaseAnnouncement></discovery_config></builtin>')
"""A killed process leaves the graph after this long, not after 20 s: nothing is restarted before."""


def use_short_lease(directory: Path) -> None:
    """Make the shipped Fast DDS profile, with a shorter lease, the one that this run's processes use."""
    text = shared_file('config', 'fastdds_shm.xml').read_text()
    path = directory / 'fastdds.xml'
    path.write_text(text.replace('<rtps>', f'<rtps>{LEASE}', 1))
    os.environ[fast_dds_variable(os.environ)] = str(path)


def run(
    runs: int, seed: int, directory: Path, output: Output, *, kinds: Sequence[str] = KINDS,
    light: bool = False, settings: dict[str, dict[str, Any]] | None = None, budget_s: float = math.inf,
) -> tuple[list[Verdict], dict[str, Any]]:
    """Strike ``runs`` times, the kinds in turn, and return the verdicts and their sum.

    :param light: See ``kill_graph``.
    :param settings: Node to parameters that differ.
    :param budget_s: No run begins later than this.
    """
    began_s = time.monotonic()
    draw = random.Random(seed)
    limits = read_limits('panda', 'lab')
    checkpoint = None if light else default_checkpoint(output)
    directory.mkdir(parents=True, exist_ok=True)
    use_short_lease(directory)
    attempts = []
    with running('cosmos3_kill', directory / 'log', output, own_domain=True) as live:
        # These import rclpy, which reads the environment that running() has set.
        from kill_graph import KillGraph
        from kill_verdict import judge
        graph = KillGraph(
            live, directory, checkpoint=checkpoint, light=light, settings=settings or {})
        graph.start()
        broken = ''
        tasks = [(kinds[i % len(kinds)], seed + i, draw.uniform(*DELAYS_S)) for i in range(runs)]
        for task in [task for task in tasks for _ in range(ATTEMPTS)]:
            if task not in tasks or time.monotonic() > began_s + budget_s:
                continue
            try:
                attempt = graph.strike(*task)
            except CommandError as error:
                broken = f'{task[0]}: {error}'
                break
            trouble = f'  disturbed: {attempt.disturbed}' if attempt.disturbed else ''
            output.say(f'{task[0]:12} seed {task[1]} after {task[2]:.2f} s{trouble}')
            attempts.append(attempt)
            if not attempt.disturbed:
                tasks.remove(task)
        graph.finish()
    verdicts = judge(graph.bag, attempts, limits)
    return verdicts, {
        'runs': runs, 'seed': seed, **_sum(verdicts), 'broken': broken,
        'elapsed_s': round(time.monotonic() - began_s, 1)}


def _sum(everything: list[Verdict]) -> dict[str, Any]:
    """Count; of a disturbed run only its commands count."""
    kinds = {}
    verdicts = [verdict for verdict in everything if not verdict.disturbed]
    for kind in sorted({verdict.struck for verdict in verdicts}):
        of_kind = [verdict for verdict in verdicts if verdict.struck == kind]
        kinds[kind] = {
            'runs': len(of_kind), 'passed': sum(v.passed for v in of_kind),
            'moving_when_struck': sum(v.speed_rad_s > 0.05 for v in of_kind),
            'reasons': dict(Counter(v.reason or 'none' for v in of_kind)),
            'rest_s_max': round(max(v.rest_s for v in of_kind), 3),
            'reason_s_max': round(max(v.reason_s for v in of_kind), 3)}
    violations = Counter()
    for verdict in everything:
        violations.update(verdict.violations)
    return {
        'judged': len(verdicts), 'passed': sum(v.passed for v in verdicts),
        'commands_checked': sum(v.commands for v in everything), 'violations': dict(violations),
        'by_kind': kinds, 'disturbed': [f'{v.struck}: {v.disturbed}' for v in everything if v.disturbed],
        'failed': [asdict(v) for v in verdicts if not v.passed]}


def main() -> int:
    """Run from the command line; fails unless every run was judged and passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--runs', type=int, default=50)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--kinds', default=','.join(KINDS), help='in turn (default: %(default)s)')
    parser.add_argument('--light', action='store_true', help='without perception, with small images')
    parser.add_argument('--patient', action='store_true', help='bear with a machine that stalls for a second')
    parser.add_argument('--budget', type=float, default=math.inf, metavar='S', help='begin no run later')
    parser.add_argument('--output', type=Path, help='keep bag and logs there; must not exist')
    parser.add_argument('--json', action='store_true', help='one line of JSON, words to stderr')
    args = parser.parse_args()
    output = Output(args.json)
    kinds = tuple(args.kinds.split(','))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        parser.error(f'--kinds: {", ".join(unknown)} arrived, allowed are: {", ".join(KINDS)}')
    with tempfile.TemporaryDirectory() as scratch:
        _, result = run(
            args.runs, args.seed, args.output or Path(scratch), output, kinds=kinds, light=args.light,
            settings=PATIENT if args.patient else {}, budget_s=args.budget)
    output.result(result)
    return int(result['passed'] != args.runs)


if __name__ == '__main__':
    sys.exit(main())
