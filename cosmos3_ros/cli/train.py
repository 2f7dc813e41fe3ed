"""``cosmos3 train``: LeRobot v3 datasets into a checkpoint."""

import argparse
from pathlib import Path
import shlex
import sys
import tempfile
from typing import Any

from .arguments import add_json, positive
from .console import CommandError, Output


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        'train', help='train or fine-tune a checkpoint on LeRobot v3 datasets',
        description='Train the stages of a YAML file (config/training/*.yaml explains its keys).')
    parser.add_argument('config', type=Path, help='YAML file, e.g. config/training/tiny.yaml')
    parser.add_argument(
        '--stage', default='all', choices=('vae', 'reasoner', 'actions', 'generator', 'all'),
        help='one stage, or all that the file has (default: %(default)s)')
    parser.add_argument(
        '--out', type=Path, default=Path('cosmos3-trained'), metavar='DIR',
        help='the checkpoint; DIR.run beside it keeps snapshots, logs and pictures (default: %(default)s)')
    parser.add_argument('--resume', action='store_true', help='go on with what is in --out')
    parser.add_argument(
        '--max-minutes', type=positive(float), metavar='N',
        help='stop after N minutes, ready for --resume; 9 fits a machine that is lent for 10')
    parser.add_argument(
        '--fit-minutes', type=positive(float), metavar='N',
        help="take as many steps as are done after N minutes, at most the file's, and let the learning rate "
        'fall accordingly; with one --stage')
    parser.add_argument(
        '--data', type=Path, action='append', default=[], metavar='DIR',
        help='dataset instead of the file\'s; as many as the file has take their places and weights')
    parser.add_argument(
        '--prepare', action='store_true',
        help='only decode the videos and encode the windows that the stage reads; training finds them done')
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N (default: %(default)s)')
    parser.add_argument(
        '--dry-run', action='store_true', help='say parameters, memory and time per step; reads no data')
    parser.add_argument(
        '--evaluate', type=int, default=0, metavar='N',
        help='then measure: action error on held-out data, N closed-loop episodes per task, N clips')
    parser.add_argument(
        '--threads', type=int, default=0, help="torch's threads on the CPU; 0 leaves them (default: 0)")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, output: Output) -> int:
    """Train; exit status 0 also if time ran out: the result says whether it is finished."""
    # Heavy imports only here: the other subcommands must start fast.
    from ..resources import require
    from ..training.settings import TrainingError
    from ..training.settings_file import load_settings, with_datasets
    from ..training.training_run import dry_run, evaluate_run, run_training

    if args.threads > 0:
        require('torch', 'model').set_num_threads(args.threads)
    try:
        settings = with_datasets(load_settings(args.config), [str(path) for path in args.data])
        if args.dry_run:
            with tempfile.TemporaryDirectory() as scratch:
                output.result(dry_run(
                    settings, Path(scratch) / 'start', stage=args.stage, device=args.device, say=output.say))
            return 0
        command = shlex.join(['cosmos3', *sys.argv[1:]])
        report = run_training(
            settings, args.out, stage=args.stage, resume=args.resume, max_minutes=args.max_minutes,
            fit_minutes=args.fit_minutes, prepare_only=args.prepare, device=args.device, command=command,
            say=output.say, note=lambda entry: output.say(_line(entry)))
        values: dict[str, Any] = {
            'directory': str(report.directory), 'finished': report.finished, 'seconds': report.seconds,
            'size_bytes': report.size_bytes, 'stages': report.stages}
        if args.evaluate and report.finished:
            values['evaluation'] = evaluate_run(
                settings, args.out, args.evaluate, device=args.device, command=command, say=output.say)
    except TrainingError as error:
        raise CommandError(str(error)) from error
    output.result(values)
    return 0


def _line(entry: dict[str, Any]) -> str:
    values = ', '.join(
        f'{name} {value:.4g}' for name, value in entry.items() if name not in ('stage', 'step'))
    return f'{entry["stage"]} {entry["step"]:.0f}: {values}'
