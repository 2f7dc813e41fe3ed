"""What the machine itself allows: a loop that only sleeps, at the highest priority it can get.

Where this one misses deadlines, they are the machine's (a host that takes processors away, firmware) and not
those of the loop that is measured beside it. The last line printed is JSON, once SIGINT or SIGTERM has come.
"""

import contextlib
import gc
import json
import os
import signal
import sys
import threading
import time

PERIOD_NS = 2_000_000
LATE_NS = 10_000_000
PRIORITY = 90


def main() -> None:
    """Sleep on absolute deadlines until a signal comes."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    gc.disable()
    missed, worst_ns, rounds = 0, 0, 0
    due_ns = time.monotonic_ns() + PERIOD_NS
    while not ended.is_set():
        time.sleep(max(0, due_ns - time.monotonic_ns()) * 1e-9)
        late_ns = time.monotonic_ns() - due_ns
        worst_ns = max(worst_ns, late_ns)
        missed += late_ns > LATE_NS
        rounds += 1
        due_ns += PERIOD_NS * (1 + late_ns // PERIOD_NS)
    sys.stdout.write(json.dumps(
        {'rounds': rounds, 'missed_deadlines_10ms': missed, 'lateness_max_ms': worst_ns * 1e-6}) + '\n')


if __name__ == '__main__':
    main()
