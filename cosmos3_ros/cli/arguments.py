"""Arguments that several subcommands share."""

import argparse
from collections.abc import Callable
from pathlib import Path

from ..resources import shared_file

TASKS = ('reach', 'push', 'pick_place')


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument(
        '--json', action='store_true', help='end with one line of JSON on stdout; words go to stderr')


def add_graph_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every command that starts the nodes has."""
    parser.add_argument('--robot', default='panda', help='robot of config/robots (default: %(default)s)')
    parser.add_argument(
        '--profile', default='lab', help='limits of config/profiles.yaml (default: %(default)s)')
    parser.add_argument(
        '--checkpoint', type=Path, metavar='DIR',
        help='Cosmos 3 checkpoint for perception and policy; by default cosmos3-tiny, in the package')
    parser.add_argument(
        '--device', default='cpu', help='torch device of the models (default: %(default)s)')
    parser.add_argument(
        '--log-dir', type=Path, metavar='DIR', help='where the logs of the nodes go')
    parser.add_argument(
        '--set', action='append', default=[], metavar='NODE.PARAMETER=VALUE', dest='settings',
        help='set a node parameter, e.g. controller.tracker=pid; may be repeated')


def known_robots() -> tuple[str, ...]:
    """Return the names of the shipped robots."""
    return tuple(sorted(path.stem for path in shared_file('config', 'robots').glob('*.yaml')))


def positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    """Return an argparse type that takes positive numbers only."""
    def convert(text: str) -> float:
        value = kind(text)
        if value <= 0:
            raise argparse.ArgumentTypeError(f'{text} arrived, a positive number is allowed')
        return value

    convert.__name__ = kind.__name__
    return convert
