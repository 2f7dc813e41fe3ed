"""``cosmos3 checkpoint``: write a random checkpoint, or say what a checkpoint is."""

import argparse
from pathlib import Path
from typing import Any

from .arguments import add_json
from .console import CommandError, Output


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser('checkpoint', help='make or inspect a checkpoint')
    actions = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    init = actions.add_parser('init', help='write a randomly initialised checkpoint')
    init.add_argument('directory', type=Path, help='new or empty directory')
    init.add_argument('--preset', default='tiny', help='size (default: %(default)s)')
    init.add_argument('--seed', type=int, default=0, help='seed of the weights (default: %(default)s)')
    add_json(init)
    init.set_defaults(run=run_init)
    info = actions.add_parser('info', help='check a checkpoint and say what it is')
    info.add_argument('source', help='directory, or a name that the package knows')
    add_json(info)
    info.set_defaults(run=run_info)


def run_init(args: argparse.Namespace, output: Output) -> int:
    """Write a checkpoint."""
    from ..model.checkpoint_init import CheckpointInitError, init_checkpoint
    try:
        summary = init_checkpoint(args.directory, args.preset, args.seed)
    except CheckpointInitError as error:
        raise CommandError(str(error)) from error
    output.result({
        'directory': str(summary.directory), 'preset': summary.preset, 'seed': summary.seed, 'trained': False,
        'parameters': summary.parameters, 'size_bytes': summary.size_bytes})
    return 0


def run_info(args: argparse.Namespace, output: Output) -> int:
    """Describe a checkpoint."""
    output.result(describe(args.source))
    return 0


def describe(source: str) -> dict[str, Any]:
    """Return what a checkpoint says about itself.

    :raises CommandError: It cannot be used; the text says why.
    """
    from ..model.checkpoint import Checkpoint, CheckpointError
    try:
        found = Checkpoint.open(source)
    except CheckpointError as error:
        raise CommandError(str(error)) from error
    return {
        'directory': str(found.directory), 'checkpoint': found.label, 'trained': found.trained,
        'contract': found.contract, 'view': list(found.view), 'prompt_variant': found.prompt_variant,
        'sampling': found.sampling.document()}


def default_checkpoint(output: Output) -> Path:
    """Return the checkpoint used where none is named: the package's own, which knows the simulator only.

    :raises CommandError: It cannot be used; the text says why.
    """
    from ..model.checkpoint import DEFAULT, Checkpoint, CheckpointError
    output.say(f'using {DEFAULT}, which was trained in the simulator of this package only')
    try:
        return Checkpoint.open(DEFAULT).directory
    except CheckpointError as error:
        raise CommandError(str(error)) from error
