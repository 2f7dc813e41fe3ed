"""``cosmos3 bench``: measurements that print one line of JSON."""

import argparse
from functools import cache
import os
from typing import TYPE_CHECKING, Any

from rich.progress import Progress

from .arguments import add_json, positive
from .console import Output

if TYPE_CHECKING:
    from ..evaluation.limit_file import CheckedLimits
    from ..evaluation.motion_checker import MotionChecker
    from ..robots import Robot

# Length of the run against the machine's clock that gives lateness_ms.
LATENESS_S = 5.0


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser('bench', help='measure and fuzz parts of the package')
    what = parser.add_subparsers(dest='what', required=True, metavar='WHAT')
    controller = what.add_parser(
        'controller', help='fuzz the controller with hostile chunks, checked by independent code')
    controller.add_argument(
        '--ticks', type=positive(int), default=100_000, help='control ticks (default: %(default)s)')
    controller.add_argument(
        '--seed', type=int, default=0, help='reproduces a run, whatever --workers is (default: %(default)s)')
    controller.add_argument(
        '--workers', type=positive(int), default=os.cpu_count() or 1,
        help='processes that share the work; with 1, the times are those of an idle core '
        '(default: %(default)s)')
    add_json(controller)
    controller.set_defaults(run=run_controller)
    generator = what.add_parser(
        'generator', help='time, memory and repeatability of a policy, against diffusers')
    generator.add_argument(
        '--checkpoint', required=True,
        help="directory, packaged name or Hub id, or nano-random: random weights at Cosmos3-Nano's shape")
    generator.add_argument('--device', default='cpu', help='torch device (default: %(default)s)')
    generator.add_argument(
        '--prompt-tokens', type=int, nargs='+', default=[128], metavar='N',
        help='lengths of the prompt (default: 128)')
    generator.add_argument(
        '--repeats', type=int, default=20, help='timed requests per row (default: %(default)s)')
    add_json(generator)
    generator.set_defaults(run=run_generator)
    reasoner = what.add_parser(
        'reasoner', help='time, memory and parity of a reasoner, against transformers with the same weights')
    reasoner.add_argument(
        '--checkpoint', required=True,
        help="directory, packaged name or Hub id, or nano-random: random weights at Cosmos3-Nano's shape")
    reasoner.add_argument('--device', default='cpu', help='torch device (default: %(default)s)')
    reasoner.add_argument(
        '--repeats', type=int, default=30, help='timed runs per number (default: %(default)s)')
    reasoner.add_argument(
        '--prompts', type=int, default=8,
        help='prompts per shape of the token comparison (default: %(default)s)')
    reasoner.add_argument(
        '--tokens', type=int, default=32, help='tokens of each of them (default: %(default)s)')
    add_json(reasoner)
    reasoner.set_defaults(run=run_reasoner)


def run_controller(args: argparse.Namespace, output: Output) -> int:
    """Fuzz the controller; fails if any limit was violated or a plan had no solution."""
    # Heavy imports only here: the other subcommands must start fast.
    from ..control.fuzz import run_fuzz
    from ..control.pacing import measure_lateness

    with Progress(console=output.console, transient=True) as progress:
        bar = progress.add_task('sessions')
        report = run_fuzz(
            args.ticks, args.seed, _make_checker, workers=args.workers,
            on_progress=lambda done, total: progress.update(bar, completed=done, total=total))
    report['lateness_ms'] = measure_lateness(LATENESS_S)
    output.result(report)
    return 1 if any(report['violations'].values()) or report['infeasible'] else 0


def _make_checker(robot: 'Robot') -> 'MotionChecker':
    from ..evaluation.motion_checker import MotionChecker

    return MotionChecker(_read_limits(robot.name, robot.profile.name))


@cache
def _read_limits(robot: str, profile: str) -> 'CheckedLimits':
    from ..evaluation.limit_file import read_limits

    return read_limits(robot, profile)


def run_generator(args: argparse.Namespace, output: Output) -> int:
    """Measure a policy's requests; fails if one gave different bytes the second time."""
    from ..generator.bench import run_bench

    report = run_bench(
        args.checkpoint, args.device, prompt_tokens=tuple(args.prompt_tokens), repeats=args.repeats)
    output.result(report)
    return 0 if report['deterministic'] else 1


def run_reasoner(args: argparse.Namespace, output: Output) -> int:
    """Measure a reasoner; fails if it writes other tokens, or another context, than its reference."""
    from ..reasoner.bench import run_bench

    report = run_bench(
        args.checkpoint, args.device, repeats=args.repeats, prompts=args.prompts, tokens=args.tokens)
    output.result(report)
    return 0 if report['tokens_identical'] and not report['context_max_diff'] else 1
