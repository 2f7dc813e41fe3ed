"""``cosmos3 record``: record all topics into an MCAP bag; needs no rosbag2."""

import argparse
from pathlib import Path
import signal
import threading
from typing import Any

from .arguments import add_json
from .console import Output


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser('record', help='record all topics into an MCAP bag')
    parser.add_argument('--output', type=Path, required=True, help='directory of the bag; must not exist')
    parser.add_argument('--exclude', metavar='REGEX', help='topics whose name matches are left out')
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, output: Output) -> int:
    """Record until SIGINT or SIGTERM."""
    from .. import nodes  # noqa: F401  (rclpy is imported only when something is recorded)
    from ..nodes.recorder import Recorder

    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    recorder = Recorder(args.output, exclude=args.exclude)
    output.say(f'recording into {args.output}; Ctrl-C ends it')
    summary = recorder.run(stopped.is_set)
    output.result({
        'bag': str(args.output),
        'messages': sum(topic['received'] for topic in summary['topics'].values()),
        'lost': sum(topic['lost'] for topic in summary['topics'].values()),
        'topics': len(summary['topics']),
    })
    return 0
