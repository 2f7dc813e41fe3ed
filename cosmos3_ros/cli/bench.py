"""``cosmos3 bench``: measurements that print one line of JSON."""

import argparse
from typing import Any

from ..resources import require
from .arguments import add_json
from .console import Output


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
    fuzz = require('cosmos3_ros.control.fuzz', 'dev')
    report = fuzz.run_fuzz(ticks=args.ticks, seed=args.seed)
    output.result(report)
    return 0 if not any(report['violations'].values()) else 1
