#!/usr/bin/env python3
"""Measure the compiled reasoner at Cosmos3-Nano's shape; the last line printed is JSON.

Same as ``cosmos3 bench reasoner --checkpoint nano-random --device cuda --json``, without ROS around it.
"""

import argparse
import json
import logging
from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cosmos3_ros.reasoner.bench import RANDOM_NANO, run_bench


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--checkpoint', default=RANDOM_NANO)
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--repeats', type=int, default=30)
    parser.add_argument('--prompts', type=int, default=8, help='per shape of the token comparison')
    parser.add_argument('--tokens', type=int, default=32, help='per prompt of the token comparison')
    arguments = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    report = run_bench(arguments.pop('checkpoint'), arguments.pop('device'), **arguments)
    names = ('ttft_ms', 'back_to_back_ttft_ms', 'vision_ms', 'prefill_ms', 'decode_ms', 'report_ms',
             'peak_memory_gb')
    logging.info('%-20s %s', '', ' '.join(f'{name:>20}' for name in names))
    for row, values in report['rows'].items():
        logging.info('%-20s %s', row, ' '.join(f'{values[name]:20.2f}' for name in names))
    sys.stdout.write(json.dumps(report) + '\n')


if __name__ == '__main__':
    main()
