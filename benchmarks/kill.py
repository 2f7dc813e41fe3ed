"""Kill parts of the running graph at random moments of a task, and see what becomes of the arm.

``python benchmarks/kill.py --runs 50 --seed 1 --json``: each run resets the scene, arms, lets the oracle pick
and place, and strikes after a random time: kill -9 of generator, perception, cameras or controller, SIGTERM
to the controller, or frozen joint states. Every time the measured arm must come to rest, every recorded
command must be inside every limit (judged by ``cosmos3_ros.evaluation``, which shares no code with the
controller), and the reason must be latched. The last line is JSON.

With ``--log FILE`` it runs unattended: in slices of ``--slice`` runs, each with a fresh graph in a process of
its own that may hang or die, and every verdict is a line of FILE as soon as its slice is over. Called again,
it goes on with what has no verdict yet.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
import math
import os
from pathlib import Path
import signal
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

from kill_log import Task, append, find_open, find_revision, plan_tasks, read, sum_up  # noqa: E402

from cosmos3_ros.cli.checkpoint import default_checkpoint  # noqa: E402
from cosmos3_ros.cli.console import CommandError, Output  # noqa: E402
from cosmos3_ros.cli.environment import fast_dds_variable  # noqa: E402
from cosmos3_ros.cli.processes import ProcessDiedError  # noqa: E402
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
ATTEMPTS = 5
"""A run that was disturbed (see ``kill_graph.Attempt``) is done again, so often at most."""
LEASE = (
    '<builtin><discovery_config><leaseDuration><sec>6</sec></leaseDuration>'
    '<leaseAnnouncement><sec>1</sec></leaseAnnouncement></discovery_config></builtin>')
"""A killed process leaves the graph after this long, not after 20 s: nothing is restarted before."""
START_S, RUN_S = 180.0, 120.0
"""A slice that takes longer than the one and as many of the other as it has runs hangs."""
INTERRUPT_S = 60.0
"""A slice that is interrupted ends its processes within this time."""
FRUITLESS = 3
"""Slices in a row without a verdict that end a campaign."""


def use_short_lease(directory: Path) -> None:
    """Make the shipped Fast DDS profile, with a shorter lease, the one that this run's processes use."""
    text = shared_file('config', 'fastdds_shm.xml').read_text()
    path = directory / 'fastdds.xml'
    path.write_text(text.replace('<rtps>', f'<rtps>{LEASE}', 1))
    os.environ[fast_dds_variable(os.environ)] = str(path)


def run(
    tasks: Sequence[Task], directory: Path, output: Output, *, light: bool = False,
    settings: dict[str, dict[str, Any]] | None = None, budget_s: float = math.inf,
) -> tuple[list[tuple[Task, Verdict]], str]:
    """Strike and return the verdicts, and what ended it early.

    :param light: See ``kill_graph``.
    :param settings: Node to parameters that differ.
    :param budget_s: No run begins later than this.
    """
    began_s = time.monotonic()
    limits = read_limits('panda', 'lab')
    checkpoint = None if light else default_checkpoint(output)
    directory.mkdir(parents=True, exist_ok=True)
    use_short_lease(directory)
    attempts = []
    broken = ''
    with running('cosmos3_kill', directory / 'log', output, own_domain=True) as live:
        # These import rclpy, which reads the environment that running() has set.
        from kill_graph import KillGraph
        from kill_verdict import judge
        graph = KillGraph(
            live, directory, checkpoint=checkpoint, light=light, settings=settings or {})
        graph.start()
        for task in tasks:
            for _ in range(ATTEMPTS):
                if broken or time.monotonic() > began_s + budget_s:
                    break
                try:
                    attempt = graph.strike(task.struck, task.seed, task.delay_s)
                except (CommandError, ProcessDiedError) as error:
                    broken = f'{task.struck}: {error}'
                    # What went wrong after the strike is the strike's outcome; before, there was none.
                    attempt = graph.give_up(str(error))
                except KeyboardInterrupt:
                    # What was struck before is judged nevertheless.
                    broken = f'{task.struck}: interrupted'
                    break
                if not attempt.struck_ns and not attempt.disturbed:
                    break
                trouble = f'  disturbed: {attempt.disturbed}' if attempt.disturbed else ''
                output.say(f'{task.struck:12} seed {task.seed} after {task.delay_s:.2f} s{trouble}')
                attempts.append((task, attempt))
                if not attempt.disturbed:
                    break
        graph.finish()
    if broken:
        output.say(f'broken: {broken}')
    # A graph that broke before the first strike has recorded nothing to judge.
    verdicts = judge(graph.bag, [attempt for _, attempt in attempts], limits) if attempts else []
    return [(task, verdict) for (task, _), verdict in zip(attempts, verdicts, strict=True)], broken


def campaign(args: argparse.Namespace, tasks: Sequence[Task], output: Output) -> str:
    """Run slices in processes of their own until every task has its line in the log; return why not."""
    deadline_s, fruitless, ended = time.monotonic() + args.budget, 0, ''
    while left := find_open(tasks, read(args.log), ATTEMPTS):
        if time.monotonic() > deadline_s:
            return f'{len(left)} runs are left: the time is up'
        if fruitless == FRUITLESS:
            return f'{len(left)} runs are left: {fruitless} slices in a row brought nothing; {ended}'
        # A task that broke a slice is tried after the others, not first again.
        part = left[fruitless:][:args.slice] or left[:1]
        lines = len(read(args.log))
        command = [
            sys.executable, str(Path(__file__).resolve()), '--runs', str(args.runs), '--seed', str(args.seed),
            '--kinds', args.kinds, '--only', ','.join(str(task.index) for task in part),
            '--append', str(args.log), '--budget', str(max(0.0, deadline_s - time.monotonic())), '--json']
        command += [flag for flag in ('--light', '--patient') if getattr(args, flag.removeprefix('--'))]
        ended = _run_slice(command, START_S + RUN_S * len(part))
        fruitless = 0 if len(read(args.log)) > lines else fruitless + 1
        output.say(f'{len(find_open(tasks, read(args.log), ATTEMPTS))} of {len(tasks)} runs are left'
                   + (f'; {ended}' if ended else ''))
    return ''


def _run_slice(command: list[str], limit_s: float) -> str:
    """Run a slice; interrupt it where it hangs, and kill it only where that does not help."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            for patience_s, number in (
                    (limit_s, signal.SIGINT), (INTERRUPT_S, signal.SIGTERM), (INTERRUPT_S, signal.SIGKILL)):
                try:
                    code = process.wait(patience_s)
                except subprocess.TimeoutExpired:
                    process.send_signal(number)
                    continue
                return f'a slice ended with exit code {code}' if code not in (0, 1) else ''
        except KeyboardInterrupt:
            # Ctrl-C reaches the slice too; its processes end with it.
            process.wait(INTERRUPT_S)
            raise
    return f'a slice did not end within {limit_s:.0f} s'


def main() -> int:
    """Run from the command line; fails unless every run was judged and passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--runs', type=int, default=50)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--kinds', default=','.join(KINDS), help='in turn (default: %(default)s)')
    parser.add_argument('--light', action='store_true', help='without perception, with small images')
    parser.add_argument('--patient', action='store_true', help='bear with a machine that stalls for a second')
    parser.add_argument('--budget', type=float, default=math.inf, metavar='S', help='begin no run later')
    parser.add_argument('--only', metavar='I,…', help='only these of the runs, counted from 0')
    parser.add_argument('--log', type=Path, help='run in slices; a line per run goes there; goes on with it')
    parser.add_argument('--slice', type=int, default=6, help='runs of one graph (default: %(default)s)')
    parser.add_argument('--append', type=Path, metavar='LOG', help='one slice: add the verdicts there')
    parser.add_argument('--output', type=Path, help='keep bag and logs there; must not exist')
    parser.add_argument('--json', action='store_true', help='one line of JSON, words to stderr')
    args = parser.parse_args()
    output, began_s = Output(args.json), time.monotonic()
    kinds = tuple(args.kinds.split(','))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        parser.error(f'--kinds: {", ".join(unknown)} arrived, allowed are: {", ".join(KINDS)}')
    if args.light and 'perception' in kinds:
        parser.error('--kinds: perception arrived, but --light leaves it out')
    tasks = plan_tasks(args.runs, args.seed, kinds)
    if args.only is not None:
        tasks = [tasks[int(index)] for index in args.only.split(',')]
    conditions = {'revision': find_revision(), 'patient': args.patient, 'light': args.light}
    if args.log is not None:
        broken = campaign(args, tasks, output)
        wanted = {(task.index, task.struck, task.seed) for task in tasks}
        lines = [line for line in read(args.log) if (line['index'], line['struck'], line['seed']) in wanted]
        conditions = {'revisions': sorted({line['revision'] for line in lines})}
    else:
        with tempfile.TemporaryDirectory() as scratch:
            judged, broken = run(
                tasks, args.output or Path(scratch), output, light=args.light,
                settings=PATIENT if args.patient else {}, budget_s=args.budget)
        lines = [{'index': task.index, **asdict(verdict)} for task, verdict in judged]
        if args.append is not None:
            for task, verdict in judged:
                append(args.append, task, asdict(verdict), conditions)
    result = {
        'runs': args.runs, 'seed': args.seed, **sum_up(lines), 'broken': broken, **conditions,
        'elapsed_s': round(time.monotonic() - began_s, 1)}
    output.result(result)
    return int(result['passed'] != len(tasks))


if __name__ == '__main__':
    sys.exit(main())
