"""``cosmos3 bench``: measurements that print one line of JSON."""

import argparse
from typing import Any

from .arguments import add_json
from .console import Output

# Length of the run against the machine's clock that gives lateness_ms.
LATENESS_S = 5.0


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser('bench', help='measure and fuzz parts of the package')
    what = parser.add_subparsers(dest='what', required=True, metavar='WHAT')
    controller = what.add_parser(
        'controller', help='fuzz the controller with hostile chunks, checked by independent code')
    controller.add_argument('--ticks', type=int, default=100_000, help='control ticks (default: %(default)s)')
    controller.add_argument('--seed', type=int, default=0, help='reproduces a run (default: %(default)s)')
    add_json(controller)
    controller.set_defaults(run=run_controller)


def run_controller(args: argparse.Namespace, output: Output) -> int:
    """Fuzz the controller; fails if any limit was violated."""
    # Heavy imports only here: the other subcommands must start fast.
    from ..control.fuzz import run_fuzz
    from ..control.pacing import measure_lateness
    from ..evaluation.limit_file import read_limits
    from ..evaluation.motion_checker import MotionChecker

    report = run_fuzz(
        args.ticks, args.seed, lambda robot: MotionChecker(read_limits(robot.name, robot.profile.name)))
    report['lateness_ms'] = measure_lateness(LATENESS_S)
    output.result(report)
    return 0 if not any(report['violations'].values()) else 1
