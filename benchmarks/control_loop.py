"""The controller's loop beside three camera streams: rate, lateness and missed deadlines.

``python benchmarks/control_loop.py --scheduling fifo|normal [--seconds 60] --json``. The node ``controller``
is the real executable, moving an arm (``obedient_arm.py``) that lives in another process; three more
processes publish 640x480 images at 30 Hz and one takes them. Everything is on the machine's clock. The last
line is JSON: percentiles are those of the worst 10 s, the maximum is that of the whole time.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
import sys
import tempfile
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cosmos3_ros.cli.console import CommandError, Output  # noqa: E402
from cosmos3_ros.cli.processes import ManagedProcess  # noqa: E402
from cosmos3_ros.cli.running import Running, running  # noqa: E402

CAMERAS = ('wrist/image_raw', 'exterior_1/image_raw', 'exterior_2/image_raw')
CAMERA_HZ = 30
PRIORITY = 60
SETTLE_S = 3.0
START_S = 40.0
END_S = 5.0


def measure(live: Running, priority: int, seconds: float) -> dict[str, Any]:
    """Run the graph for ``seconds`` and return what the loop and the other processes counted."""
    from cosmos3_ros.cli.graph import NodeSpec
    start, monitor = live.processes.start, live.monitor
    python = [sys.executable]
    streams, arm_script = str(HERE / 'camera_streams.py'), str(HERE / 'obedient_arm.py')
    cameras = [start(f'camera_{i}', [*python, streams, 'publish', topic, str(CAMERA_HZ)])
               for i, topic in enumerate(CAMERAS)]
    listener = start('listener', [*python, streams, 'listen', *CAMERAS])
    arm = start('arm', [*python, arm_script])
    live.graph.start([NodeSpec('controller', {
        'robot': 'panda', 'profile': 'lab', 'arm_on_activate': True, 'rt_priority': priority})], {})
    live.graph.configure()
    live.graph.activate()
    if not live.session.wait_for(
            lambda: monitor.mode == 'RUNNING' and monitor.controller.plans_committed > 0, START_S,
            live.processes.check):
        raise CommandError(f'the controller is {monitor.mode}, RUNNING was expected within {START_S:g} s')
    live.rest(SETTLE_S)
    bare = start('bare_loop', [*python, str(HERE / 'bare_loop.py')])
    stolen_s = stolen_time_s()
    first = monitor.reports['controller']
    begin = {key: first.number(key) for key in ('ticks', 'overruns', 'late_over_10ms', 'plans_committed')}
    windows = []
    while monitor.reports['controller'].arrived_s < first.arrived_s + seconds:
        live.rest(0.2)
        if not windows or monitor.reports['controller'] is not windows[-1]:
            windows.append(monitor.reports['controller'])
    last = windows[-1]
    elapsed_s = last.arrived_s - first.arrived_s
    counts = {key: last.number(key) - value for key, value in begin.items()}

    def worst(key: str) -> float:
        return round(max(window.number(key) for window in windows) * 1e-3, 3)

    stolen_s = stolen_time_s() - stolen_s
    images = [int(_last_line(live, process)) for process in (*cameras, listener)]
    return {
        'seconds': round(elapsed_s, 2), 'real_time': last.values.get('real_time') == 'True',
        'rate_hz': round(counts['ticks'] / elapsed_s, 2), 'missed_points': int(counts['overruns']),
        'missed_deadlines_10ms': int(counts['late_over_10ms']),
        'lateness_ms': {'p50': worst('lateness_us_p50'), 'p99': worst('lateness_us_p99'),
                        'max': worst('lateness_us_max')},
        'tick_ms': {'p50': worst('tick_us_p50'), 'p99': worst('tick_us_p99'), 'max': worst('tick_us_max')},
        'plans': int(counts['plans_committed']), 'mode': monitor.mode,
        'stops': [f'{stop.reason}: {stop.detail}' for stop in monitor.stops],
        'arm': json.loads(_last_line(live, arm)),
        'bare_loop': json.loads(_last_line(live, bare)), 'stolen_by_host_s': round(stolen_s, 2),
        'images_sent': sum(images[:-1]), 'images_taken': images[-1]}


def stolen_time_s() -> float:
    """Return for how long the host has kept processors from this virtual machine (proc(5): steal)."""
    return int(Path('/proc/stat').read_text().split()[8]) / os.sysconf('SC_CLK_TCK')


def _last_line(live: Running, process: ManagedProcess) -> str:
    live.processes.stop_one(process, END_S)
    return process.tail(1)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--scheduling', choices=('fifo', 'normal'), default='fifo')
    parser.add_argument('--seconds', type=float, default=60.0)
    parser.add_argument('--json', action='store_true', help='one line of JSON, words to stderr')
    args = parser.parse_args()
    output = Output(args.json)
    with tempfile.TemporaryDirectory() as scratch, running(
            'cosmos3_loop', Path(scratch) / 'log', output, own_domain=True) as live:
        result = measure(live, PRIORITY if args.scheduling == 'fifo' else 0, args.seconds)
    output.result({'scheduling': args.scheduling, **result})
    return 0


if __name__ == '__main__':
    sys.exit(main())
