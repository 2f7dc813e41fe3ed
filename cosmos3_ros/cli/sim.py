"""``cosmos3 sim``: record datasets in the simulator, and check datasets."""

import argparse
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .arguments import TASKS, add_json, positive
from .console import CommandError, Output

_FAILURES_SHOWN = 10


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser('sim', help='record episodes of the simulator; check a dataset')
    actions = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    record = actions.add_parser(
        'record', help='render expert episodes into a LeRobotDataset v3; goes on where it was interrupted')
    record.add_argument('--out', type=Path, required=True, metavar='DIR', help='directory of the dataset')
    record.add_argument(
        '--task', default='all', choices=('all', *TASKS), help='what to do (default: %(default)s)')
    record.add_argument(
        '--episodes', type=positive(int), default=60, metavar='N', help='(default: %(default)s)')
    record.add_argument(
        '--seed', type=int, default=0, metavar='S', help='reproduces a recording (default: %(default)s)')
    record.add_argument(
        '--workers', type=positive(int), default=2, metavar='N', help='processes (default: %(default)s)')
    record.add_argument(
        '--width', type=int, default=160, metavar='PIXELS',
        help='of the pictures: 160 is what cosmos3-tiny sees, 640 the cameras\' own (default: %(default)s)')
    record.add_argument(
        '--no-facts', action='store_true',
        help='write no facts: enough for the policy, not for the reasoner, and twice as fast')
    record.add_argument(
        '--set', action='append', default=[], metavar='NAME=VALUE', dest='settings',
        help='another setting of the recording, e.g. failure_share=0; may be repeated')
    add_json(record)
    record.set_defaults(run=run_record)
    check = actions.add_parser('check', help='read a whole dataset and say what is wrong with it')
    check.add_argument('directory', type=Path, help='directory of a LeRobotDataset v3')
    check.add_argument(
        '--blank-camera', action='append', default=[], metavar='SLOT', dest='blank_cameras',
        help='a camera slot that may be without video; may be repeated')
    add_json(check)
    check.set_defaults(run=run_check)


def run_record(args: argparse.Namespace, output: Output) -> int:
    """Record a dataset; fails if the expert failed where it should not have."""
    from ..training.episode_recorder import EpisodeRecorder

    settings = _read_settings(args)
    recorder = EpisodeRecorder(args.out, settings)
    already = len(recorder.finished())
    if recorder.is_complete:
        output.say(f'{args.out} is complete; nothing was recorded')
    elif already:
        output.say(f'{already} of {settings.episodes} episodes are there already')
    started = monotonic()
    frames = 0
    with _progress(output) as bar:
        task = bar.add_task('recording', total=settings.episodes, completed=already)
        for summary in recorder.record(args.workers):
            frames += summary.frames
            bar.advance(task)
    seconds = monotonic() - started
    episodes = recorder.finished()
    unspoiled = [e for e in episodes if not e.failure]
    failed = [e for e in unspoiled if not e.success]
    for episode in failed[:_FAILURES_SHOWN]:
        output.warn(f'the expert failed in episode {episode.index}: {episode.instruction}')
    total = sum(e.frames for e in episodes)
    output.result({
        'directory': str(args.out), 'episodes': len(episodes), 'frames': total,
        'recorded_seconds': round(total / 15.0, 1),
        'tasks': dict(Counter(e.task for e in episodes)),
        'expert_success_share': len(unspoiled) and (len(unspoiled) - len(failed)) / len(unspoiled),
        'failed_on_purpose': dict(Counter(e.failure for e in episodes if e.failure)),
        'shown_wrongly': dict(Counter(e.anomaly for e in episodes if e.anomaly)),
        'wall_seconds': round(seconds, 1), 'frames_per_second': round(frames / max(seconds, 1e-9), 1)})
    return 0


def run_check(args: argparse.Namespace, output: Output) -> int:
    """Check a dataset; anything wrong is an error that names file and row."""
    from ..training.dataset_validation import check_dataset

    with _progress(output) as bar:
        task = bar.add_task('checking', total=None)
        report = check_dataset(
            args.directory, blank_cameras=args.blank_cameras,
            progress=lambda done, total: bar.update(task, completed=done, total=total))
    output.result({'directory': str(args.directory), **asdict(report)})
    return 0


def _read_settings(args: argparse.Namespace) -> Any:
    from ..training.episode_settings import RecordingSettings

    kinds = {
        name: type(value) for name, value in asdict(RecordingSettings()).items()
        if name not in ('tasks', 'facts')}
    given: dict[str, Any] = {}
    for setting in args.settings:
        name, equals, text = setting.partition('=')
        if not equals or name not in kinds:
            raise CommandError(f'--set {setting}: NAME=VALUE with one of {", ".join(kinds)} is allowed')
        try:
            given[name] = kinds[name](text)
        except ValueError:
            raise CommandError(
                f'--set {setting}: {text!r} arrived, {kinds[name].__name__} is needed') from None
    chosen = {'episodes': args.episodes, 'seed': args.seed, 'width': args.width,
              'facts': not args.no_facts, 'tasks': TASKS if args.task == 'all' else (args.task,)}
    return RecordingSettings(**{**chosen, **given})


def _progress(output: Output) -> Progress:
    return Progress(
        TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TextColumn('episodes'),
        TimeRemainingColumn(), console=output.console, transient=True)
