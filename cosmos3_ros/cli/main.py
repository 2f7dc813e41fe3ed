"""The command ``cosmos3``."""

import argparse
from collections.abc import Sequence
from importlib import metadata
import sys

from ..resources import PACKAGE
from . import bench, checkpoint, demo, doctor, engine, imagine, record, sim, train, up
from .console import Output
from .errors import EXPECTED_ERRORS

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells have it; 2 is argparse's for a wrong command line."""

SUBCOMMANDS = (demo, up, record, checkpoint, bench, engine, imagine, sim, train, doctor)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with all subcommands."""
    parser = argparse.ArgumentParser(
        prog='cosmos3',
        description='NVIDIA Cosmos 3 on a robot: reasoner, generator and a controller inside hard limits.')
    parser.add_argument('--version', action='version', version=f'%(prog)s {_version()}')
    subparsers = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for module in SUBCOMMANDS:
        module.add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    :param arguments: Command line without the program's name; None takes the process's.
    """
    args = build_parser().parse_args(arguments)
    output = Output(as_json=getattr(args, 'json', False))
    try:
        return int(args.run(args, output))
    except KeyboardInterrupt:
        output.fail('interrupted')
        return EXIT_INTERRUPTED
    except EXPECTED_ERRORS as error:
        output.fail(str(error))
        return EXIT_FAILED


def _version() -> str:
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return 'of a checkout'


if __name__ == '__main__':
    sys.exit(main())
