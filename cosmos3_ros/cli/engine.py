"""``cosmos3 engine``: build towers as TensorRT plans, verify and time them, calibrate, compare precisions."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from ..resources import require
from .arguments import add_json, positive
from .console import CommandError, Output
from .engine_build import add_build, run_build

TOWERS = ('vision', 'language', 'generation')
PRECISIONS = ('bf16', 'fp8', 'nvfp4')
RUNNERS = ('tensorrt', 'onnxruntime')
DEFAULT_OUT = Path('engines')


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser('engine', help='build, verify and time TensorRT engines')
    actions = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    _add_build(actions.add_parser('build', help='export towers and build plans; needs no GPU'))
    _add_verify(actions.add_parser(
        'verify', help='run plans on this GPU, hold them to torch, time them, print a table'))
    _add_calibrate(actions.add_parser('calibrate', help="find fp8's scales on real clips"))
    _add_drift(actions.add_parser('drift', help='compare two precisions of the same towers on real frames'))


def run_verify(args: argparse.Namespace, output: Output) -> int:
    """Execute, verify and time every set of plans; ends with a table to paste into an issue."""
    errors = require('cosmos3_ros.engine.errors', 'tensorrt')
    executors = require('cosmos3_ros.engine.executors', 'tensorrt')
    verification = require('cosmos3_ros.engine.verification', 'tensorrt')

    def executor(flavour: str) -> Any:
        made = executors.EXECUTORS[args.runner]
        return made(flavour) if args.runner == 'tensorrt' else made()

    try:
        found = [
            verification.verify_set(
                directory, executor, args.checkpoint, args.repetitions,
                partial(_say_step, output, directory.name))
            for directory in verification.find_sets(args.directory, args.tower or (), args.precision or ())]
    except errors.EngineError as error:
        raise CommandError(str(error)) from error
    table = verification.markdown_table(found)
    # Unwrapped: a table broken at the terminal's width is none.
    output.console.print(table, markup=False, soft_wrap=True)
    output.result({
        'passed': all(one.passed for one in found),
        'executed': args.runner == 'tensorrt' and any(one.loaded for one in found),
        'sets': [one.to_json() for one in found]} if output.as_json else
        {'passed': all(one.passed for one in found)})
    return 0 if all(one.passed for one in found) else 1


def run_calibrate(args: argparse.Namespace, output: Output) -> int:
    """Write scales."""
    errors = require('cosmos3_ros.engine.errors', 'tensorrt')
    calibrate = require('cosmos3_ros.cli.engine_calibrate', 'tensorrt')
    try:
        scales = calibrate.calibrate_on_data(
            _open(args.checkpoint), args.data, args.frames, args.device, args.dtype, output.say)
        scales.write(args.out)
    except errors.EngineError as error:
        raise CommandError(str(error)) from error
    output.say(f'wrote {args.out}')
    output.result({
        'scales': str(args.out), 'checkpoint': scales.label, 'moments': scales.moments,
        'matrices': sum(len(names) for names in scales.amax.values()),
        'excluded': sum(len(names) for names in scales.excluded.values())})
    return 0


def run_drift(args: argparse.Namespace, output: Output) -> int:
    """Compare two precisions."""
    errors = require('cosmos3_ros.engine.errors', 'tensorrt')
    drift = require('cosmos3_ros.cli.engine_drift', 'tensorrt')
    try:
        report = drift.compare_on_data(args.a, args.b, _open(args.checkpoint), args.data, args.frames)
    except errors.EngineError as error:
        raise CommandError(str(error)) from error
    report.write(args.out)
    output.say(f'wrote {args.out / "drift.html"} and {args.out / "drift.json"}')
    output.result(report.summary())
    return 0


def _say_step(output: Output, name: str, step: str) -> None:
    output.say(f'{name}: {step}')


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--checkpoint', required=True,
        help='directory, packaged name, Hub id, random:nano or random:nano-layer')
    parser.add_argument('--tower', action='append', choices=TOWERS, help='may be repeated (default: all)')
    parser.add_argument('--precision', default='bf16', choices=PRECISIONS, help='(default: %(default)s)')
    parser.add_argument(
        '--flavour', default='rtx', choices=('rtx', 'classic'),
        help='TensorRT-RTX, or classic TensorRT for data-centre GPUs (default: %(default)s)')
    parser.add_argument(
        '--out', type=Path, default=DEFAULT_OUT, help='directory of all engines (default: %(default)s)')
    add_build(parser)
    add_json(parser)
    parser.set_defaults(run=run_build)


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'directory', type=Path, nargs='?', default=DEFAULT_OUT,
        help='what --out was, or one set of plans in it (default: %(default)s)')
    parser.add_argument(
        '--checkpoint', help='where the weights are (default: what the plans were built from)')
    parser.add_argument('--tower', action='append', choices=TOWERS, help='may be repeated (default: all)')
    parser.add_argument(
        '--precision', action='append', choices=PRECISIONS, help='may be repeated (default: all)')
    parser.add_argument(
        '--runner', default='tensorrt', choices=RUNNERS,
        help='onnxruntime runs the float32 exports on the CPU instead of the plans, to try the command '
             'without an RTX GPU (default: %(default)s)')
    parser.add_argument(
        '--repetitions', type=positive(int), default=50, help='timed runs (default: %(default)s)')
    add_json(parser)
    parser.set_defaults(run=run_verify)


def _add_calibrate(parser: argparse.ArgumentParser) -> None:
    _add_data(parser, 8, 'moments')
    parser.add_argument('--out', type=Path, default=Path('scales.json'), help='(default: %(default)s)')
    parser.add_argument('--device', default='cpu', help='torch device (default: %(default)s)')
    parser.add_argument(
        '--dtype', default='float32', choices=('float32', 'bfloat16'),
        help='what the towers compute in (default: %(default)s)')
    add_json(parser)
    parser.set_defaults(run=run_calibrate)


def _add_drift(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('a', help='precision, the reference: fp32, bf16, fp8, nvfp4')
    parser.add_argument('b', help='precision to compare')
    _add_data(parser, 4, 'moments compared')
    parser.add_argument('--out', type=Path, default=Path('drift'), help='for drift.json and drift.html')
    add_json(parser)
    parser.set_defaults(run=run_drift)


def _add_data(parser: argparse.ArgumentParser, moments: int, what: str) -> None:
    parser.add_argument('--checkpoint', required=True, help='directory, packaged name or Hub id')
    parser.add_argument(
        '--data', type=Path, required=True, help='a LeRobot v3 episode in the layout of DROID')
    parser.add_argument(
        '--frames', type=positive(int), default=moments, help=f'{what} (default: %(default)s)')


def _open(source: str) -> Any:
    checkpoints = require('cosmos3_ros.model.checkpoint', 'model')
    try:
        return checkpoints.Checkpoint.open(source, parts=('reasoner',))
    except checkpoints.CheckpointError as error:
        raise CommandError(str(error)) from error
