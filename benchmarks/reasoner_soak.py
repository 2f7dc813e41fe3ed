#!/usr/bin/env python3
"""Let a misbehaving OpenAI-compatible server answer many clips; the last line printed is JSON.

A camera offers clips and never waits, one worker asks about the newest: what the node ``perception`` does,
without ROS. 5 % of the requests stall, 5 % end with status 500, 2 % with half a JSON, once the server
restarts.
"""

import argparse
from dataclasses import asdict
import json
from pathlib import Path
import random
import resource
import sys
import threading
import time
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'test' / 'reasoner')]

from openai_server import OpenAIServer  # noqa: E402
from reasoner_fakes import make_clip  # noqa: E402

from cosmos3_ros.reasoner import BackendError, NewestSlot, Reasoner, create_backend  # noqa: E402

STALL_S = 0.5
PERIOD_S = 0.02


def soak(clips: int, stream: bool, seed: int = 0) -> dict[str, object]:
    """Offer ``clips`` clips, each when the one before was taken, and every twentieth twice."""
    draw = random.Random(seed)

    def behave(_number: int) -> str:
        return draw.choices(('stall', '500', 'broken', 'ok'), (5, 5, 2, 88))[0]

    server = OpenAIServer(behave)
    did, retired = [], 0
    backend: Any = create_backend(
        'openai', base_url=server.base_url, model='nvidia/Cosmos3-Nano', stream=stream, timeout_s=4 * STALL_S,
        request_timeout_s=STALL_S, backoff_s=0.01, breaker_pause_s=0.2)
    reasoner, slot = Reasoner(backend), NewestSlot()
    parsed, unparsed, failures, times_s = [0], [0], {}, []
    idle = threading.Semaphore(0)

    def work() -> None:
        while (clip := slot.take()) is not None:
            begin_s = time.perf_counter()
            try:
                report = reasoner.report([clip], 'lift the cube')
                (parsed if report.parsed else unparsed)[0] += 1
            except BackendError as error:
                kind = str(error).split(': ')[-1][:40]
                failures[kind] = failures.get(kind, 0) + 1
            times_s.append(time.perf_counter() - begin_s)
            idle.release()

    threads = threading.active_count()
    worker = threading.Thread(target=work)
    worker.start()
    clip, begin_s = make_clip('wrist', 2, 32, 32), time.perf_counter()
    memory_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(clips):
        if number == clips // 2:
            did += server.did
            server.close()
        if number == clips // 2 + 10:  # ten clips meet no server at all
            server, retired = OpenAIServer(behave, port=server.port), number
        slot.offer(clip)
        if number % 20 == 0:
            slot.offer(clip)
        idle.acquire()
        time.sleep(PERIOD_S)
    slot.close()
    worker.join()
    did += server.did
    last = backend.counts.answers
    server.close()
    backend.close()
    return {
        'clips': clips, 'stream': stream, 'reports': parsed[0], 'unparsed': unparsed[0],
        'without_report': sum(failures.values()), 'reasons': failures, 'dropped': slot.dropped,
        'injected': {name: did.count(name) for name in ('stall', '500', 'broken')},
        'counts': asdict(backend.counts), 'answers': last, 'restart_at': retired,
        'seconds': round(time.perf_counter() - begin_s, 1), 'slowest_s': round(max(times_s), 2),
        'threads_left': threading.active_count() - threads,
        'memory_growth_mb': round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_kb) / 1024, 1)}


def main() -> None:
    """Run both ways and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--clips', type=int, default=1000)
    clips = parser.parse_args().clips
    sys.stdout.write(json.dumps([soak(clips, stream) for stream in (False, True)]) + '\n')


if __name__ == '__main__':
    main()
