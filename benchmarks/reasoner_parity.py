#!/usr/bin/env python3
"""Count tokens of the compiled reasoner that are those of ``transformers.generate``: float32, greedy.

Random weights at three small shapes, 64 prompts x 128 tokens each by default. The last line printed is
JSON; the status is 1 if a token differs. Six minutes on one core of a CPU.
"""

import argparse
import json
import logging
from pathlib import Path
import platform
import sys
import time

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cosmos3_ros.reasoner.bench_parity import SHAPES, count_matches


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--shapes', nargs='+', default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--prompts', type=int, default=64)
    parser.add_argument('--tokens', type=int, default=128, help='per prompt')
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    import torch
    import transformers

    rows = {}
    for shape in arguments.shapes:
        begin_s = time.perf_counter()
        written, equal = count_matches(shape, arguments.device, arguments.prompts, arguments.tokens)
        rows[shape] = {
            'tokens': written, 'equal': equal, 'seconds': round(time.perf_counter() - begin_s, 1)}
        logging.info('%-8s %d of %d tokens equal, %.0f s', shape, equal, written, rows[shape]['seconds'])
    report = {
        'device': arguments.device, 'machine': platform.machine(), 'torch': torch.__version__,
        'transformers': transformers.__version__, 'prompts': arguments.prompts, 'shapes': rows,
        'tokens_identical': all(row['tokens'] == row['equal'] for row in rows.values())}
    sys.stdout.write(json.dumps(report) + '\n')
    return 0 if report['tokens_identical'] else 1


if __name__ == '__main__':
    sys.exit(main())
