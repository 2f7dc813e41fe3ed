#!/usr/bin/env python3
"""Make many chunks through the generator node with a misbehaving openpi server; the last line is JSON.

The node, its policy and the websocket are the real ones; cameras and joints are a light source. The server,
a process of its own, stalls, closes, answers too late, with errors (1011), wrong shapes, NaN, half messages,
and now and then is gone for some seconds. Every published chunk must have been computed from the observation
that its stamp names and for the instruction that it carries; a real controller that follows the chunks must
stop as stale when they stay away, and only then; counters must agree with the server's record; memory and
threads must not grow. Anything else is listed under "faults" and makes the exit status 1.
"""

import argparse
from collections import Counter
from dataclasses import asdict
import json
import os
from pathlib import Path
import subprocess
import sys
import threading
import time
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'test' / 'generator'), str(ROOT / 'test' / 'nodes')]

from cosmos3_ros.cli.domain import choose_domain  # noqa: E402
from cosmos3_ros.cli.environment import child_environment  # noqa: E402

if __name__ == '__main__':
    os.environ.update(child_environment(os.environ, choose_domain({})))
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'

from chunk_witness import HORIZON, STEP_NS, ChunkWitness  # noqa: E402
import cosmos3_ros.msg as msg  # noqa: E402
import numpy as np  # noqa: E402
from openpi_server import ANSWERED  # noqa: E402
import psutil  # noqa: E402
from ros_graph import Graph, wait_for  # noqa: E402
from sensor_msgs.msg import Image, JointState  # noqa: E402

from cosmos3_ros.nodes.generator import GeneratorNode  # noqa: E402
from cosmos3_ros.nodes.images import rgb_message  # noqa: E402
from cosmos3_ros.nodes.messages import to_time  # noqa: E402
from cosmos3_ros.robots import load_robot  # noqa: E402

SLOTS = ('wrist', 'exterior_1', 'exterior_2')
IMAGE_SIZE = (24, 32)
SOURCE_PERIOD_S = 0.025
TIMEOUT_S = 0.5
OUTAGE_S = 3.5
CHUNKS_PER_TASK = 60
SAMPLES = 40
# What an allocator may keep; a leak of one picture per request would be a megabyte each.
MEMORY_GROWTH_MB = 40.0
THREAD_GROWTH = 4
QUIET_GAP_S = 1.0
WINDOW_CHUNKS = 25
WINDOWS_KEPT = 30
KINDS = {
    'timeout': ('stall', 'late'), 'server': ('error', 'error_map'),
    'broken': ('nan', 'short', 'wide', 'integers', 'broken', 'half')}
"""Kind of failure that the policy counts, to what the server does."""


class LightSource:
    """Publishes three small pictures and a joint state under one stamp, from a thread."""

    def __init__(self, graph: Graph, witness: ChunkWitness) -> None:
        self._clock, self._witness = graph.client.get_clock(), witness
        robot = load_robot('panda')
        self._names = [*robot.joint_names, robot.gripper.joint_name]
        self._open = robot.gripper.open_position
        self._images = [graph.publisher(Image, f'{slot}/image_raw', 5) for slot in SLOTS]
        self._joints = graph.publisher(JointState, 'joint_states', 10)
        self._pixels = np.full((*IMAGE_SIZE, 3), 90, np.uint8)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._ending.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._ending.wait(SOURCE_PERIOD_S):
            stamp_ns = self._clock.now().nanoseconds
            state = JointState(name=self._names)
            state.position = [*self._witness.joints_at(stamp_ns).tolist(), self._open]
            state.header.stamp = to_time(stamp_ns)
            self._joints.publish(state)
            for slot, publisher in zip(SLOTS, self._images, strict=True):
                publisher.publish(rgb_message(self._pixels, stamp_ns=stamp_ns, frame_id=slot))


class Server:
    """The server in its own process."""

    def __init__(self, seed: int, outage_every: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / 'test' / 'generator' / 'openpi_server.py'), '--seed', str(seed),
             '--outage-every', str(outage_every), '--outage-s', str(OUTAGE_S),
             '--late-s', str(2 * TIMEOUT_S)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, 'PYTHONPATH': str(ROOT)})
        assert self._process.stdout is not None
        self.url = f'ws://127.0.0.1:{int(self._process.stdout.readline())}'

    def close(self) -> dict[str, object]:
        """End it and return its record."""
        out, _ = self._process.communicate(timeout=60.0)
        return json.loads(out.splitlines()[-1]) if out.strip() else {}

    def kill(self) -> None:
        """End it whatever it does."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def soak(chunks: int, seed: int, outage_every: int, domain: int) -> dict[str, object]:
    """Publish ``chunks`` chunks and judge them."""
    graph, server = Graph(domain), Server(seed, outage_every)
    source = None
    begin_s = time.monotonic()
    try:
        clock = graph.client.get_clock()
        witness = ChunkWitness(clock.now().nanoseconds, load_robot('panda').home_rad)
        graph.client.create_subscription(
            msg.ActionChunk, 'action_chunk', lambda m: witness.take(m, clock.now().nanoseconds), 500)
        node = graph.add(
            GeneratorNode, policy='openpi', policy_url=server.url, replan_interval_s=0.02,
            policy_options=[f'timeout_s={TIMEOUT_S}', 'breaker_failures=6', 'breaker_pause_s=0.3'],
            qos__action_chunk__depth=500, qos__images__depth=5)
        node.trigger_configure()
        if node.state_label != 'inactive':
            raise RuntimeError(node.failure)
        policy = node.policy
        source = LightSource(graph, witness)
        node.trigger_activate()
        usage = _publish(node, witness, chunks)
        node.set_instruction('')
        wait_for(lambda: not node.requests.worker.busy, 'the end of the last request')
        wait_for(lambda: len(witness.seen) >= node.counters['chunks'], 'the last chunk')
        counters, counts = node.counters.snapshot(), asdict(policy.counts)
        reconnects = policy.reconnects
    except BaseException:
        server.kill()
        raise
    finally:
        if source is not None:
            source.close()
        graph.close()
    seconds = time.monotonic() - begin_s
    record: dict[str, Any] = server.close()
    faults = list(witness.faults)
    faults += _compare(counters, counts, record, len(witness.seen))
    windows = _follow(witness, faults)
    memory_mb, threads = [m for m, _ in usage], [t for _, t in usage]
    growth_mb = float(np.median(memory_mb[-5:]) - np.median(memory_mb[:5]))
    if growth_mb > MEMORY_GROWTH_MB:
        faults.append(f'memory grew by {growth_mb:.1f} MB')
    if np.median(threads[-5:]) > np.median(threads[:5]) + THREAD_GROWTH:
        faults.append(f'threads grew from {threads[:5]} to {threads[-5:]}')
    gaps_s = np.diff([chunk.arrived_ns for chunk in witness.seen]) * 1e-9
    return {
        'chunks': len(witness.seen), 'seed': seed, 'faults': faults[:20], 'fault_count': len(faults),
        'requests': len(record['record']), 'behaviours': Counter(entry[4] for entry in record['record']),
        'turned_away': record['turned_away'], 'reconnects': reconnects, 'counts': counts,
        'counters': {name: counters.get(name, 0) for name in (
            'chunks', 'chunks_dropped', 'chunks_late', 'failures', 'observations_refused', 'exceptions')},
        'tasks': len({chunk.instruction for chunk in witness.seen}), **windows,
        'chunks_per_s': round(len(witness.seen) / seconds, 2),
        'gap_p50_s': round(float(np.median(gaps_s)), 3),
        'gap_p99_s': round(float(np.quantile(gaps_s, 0.99)), 3), 'gap_max_s': round(float(gaps_s.max()), 3),
        'memory_first_mb': round(memory_mb[0], 1), 'memory_last_mb': round(memory_mb[-1], 1),
        'memory_growth_mb': round(growth_mb, 1), 'threads_first': threads[0], 'threads_most': max(threads),
        'threads_last': threads[-1], 'seconds': round(seconds, 1)}


def _publish(node: GeneratorNode, witness: ChunkWitness, chunks: int) -> list[tuple[float, int]]:
    """Change the instruction again and again until enough chunks have come; return memory and threads."""
    process, usage, task = psutil.Process(), [], 0
    while len(witness.seen) < chunks:
        node.set_instruction(f'do task {task}')
        target = min(chunks, len(witness.seen) + CHUNKS_PER_TASK)
        wait_for(lambda target=target: len(witness.seen) >= target, f'chunk {target}', 240.0)
        task += 1
        if not usage or len(witness.seen) >= (len(usage) + 1) * chunks / SAMPLES:
            usage.append((process.memory_info().rss / 2**20, process.num_threads()))
    return usage


def _compare(
    counters: dict[str, int], counts: dict[str, int], record: dict[str, Any], received: int,
) -> list[str]:
    """Return where the node's counters, the policy's and the server's record disagree.

    A machine that stalls may miss a good answer, or an error, or not reach the server in time: that is one
    more time-out, and missing where it belongs. So the sums must agree to the last one.
    """
    entries = record['record']
    did = Counter(entry[4] for entry in entries)
    faults = []

    def check(holds: bool, text: str) -> None:
        if not holds:
            faults.append(text)

    # Warm-up makes two answers that are no chunks.
    published = counters['chunks'] + counters.get('chunks_dropped', 0)
    check(counts['answers'] == published + 2, f'{counts["answers"]} answers, {published} chunks')
    check(received == counters['chunks'], f'{received} chunks received, {counters["chunks"]} published')
    check(counters.get('exceptions', 0) == 0, f'{counters.get("exceptions")} exceptions in the node')
    failed = sum(counts[kind] for kind in ('timeout', 'connection', 'server', 'busy', 'refused', 'broken'))
    check(counts['requests'] == counts['answers'] + failed, f'requests do not add up: {counts}')
    check(counters.get('failures', 0) == failed + counts['skipped'],
          f'{counters.get("failures")} failures in the node, {failed} + {counts["skipped"]} in the policy')
    # A connection that was closed while it served is used once more anew; a fresh one is not.
    closed = sum(entry[4] in ('close', 'outage') and entry[1] == 0 for entry in entries)
    expected = {kind: sum(did[name] for name in names) for kind, names in KINDS.items()}
    expected['connection'] = closed + record['turned_away']
    expected['answers'] = sum(did[name] for name in ANSWERED)
    missed = sum(expected[kind] - counts[kind] for kind in ('server', 'broken', 'connection', 'answers'))
    check(all(counts[kind] <= expected[kind] for kind in ('server', 'broken', 'connection', 'answers')),
          f'more counted than happened: {counts}, {expected}')
    resent = sum(entry[4] in ('close', 'outage') and entry[1] > 0 for entry in entries)
    unreached = counts['requests'] + resent - len(entries) - record['turned_away']
    check(unreached >= 0 and counts['timeout'] == expected['timeout'] + missed + unreached,
          f'time-outs do not add up: {counts}, {expected}, {missed} missed, {unreached} not sent')
    return faults


def _follow(witness: ChunkWitness, faults: list[str]) -> dict[str, object]:
    """Let a controller follow the chunks around the longest gaps, and some where there was none."""
    stale_ns = HORIZON * STEP_NS + round(load_robot('panda', 'lab').profile.chunk_stale_s * 1e9)
    gaps = witness.gaps(QUIET_GAP_S)
    longest = sorted(gaps, key=lambda i: witness.seen[i].arrived_ns - witness.seen[i + 1].arrived_ns)
    ends = longest[:WINDOWS_KEPT] + list(np.linspace(WINDOW_CHUNKS, len(witness.seen) - 2, 4).astype(int))
    stops = 0
    for end in dict.fromkeys(int(end) for end in ends):
        first = max(0, end - WINDOW_CHUNKS)
        # A window must not hold another gap.
        first = max([first, *(gap + 1 for gap in gaps if gap < end)])
        due_ns = witness.seen[end].stamp_ns + stale_ns
        starved = witness.seen[end + 1].arrived_ns > due_ns + 40_000_000
        certain = starved or witness.seen[end + 1].arrived_ns < due_ns - 40_000_000
        stopped_ns, stands = witness.play(first, end)
        stops += stopped_ns is not None
        if stopped_ns is not None and (stopped_ns < due_ns or not stands):
            faults.append(f'gap after chunk {end}: the controller stopped early, or does not stand')
        elif certain and starved != (stopped_ns is not None):
            faults.append(f'gap after chunk {end}: starved {starved}, stop at {stopped_ns}, due at {due_ns}')
        elif stopped_ns is not None and stopped_ns > due_ns + 40_000_000:
            faults.append(f'gap after chunk {end}: stopped {(stopped_ns - due_ns) * 1e-9:.3f} s late')
    starved_gaps = [
        i for i in gaps if witness.seen[i + 1].arrived_ns > witness.seen[i].stamp_ns + stale_ns]
    return {
        'gaps': len(gaps), 'starving_gaps': len(starved_gaps),
        'gaps_followed': min(len(gaps), WINDOWS_KEPT), 'stale_stops': stops}


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--chunks', type=int, default=10_000, help='chunks to publish (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='of the misbehaviour (default: %(default)s)')
    parser.add_argument(
        '--outage-every', type=int, default=1000, help='requests between two outages (default: %(default)s)')
    parser.add_argument('--json', action='store_true', help='end with one line of JSON (always done)')
    given = parser.parse_args()
    result = soak(given.chunks, given.seed, given.outage_every, int(os.environ['ROS_DOMAIN_ID']))
    sys.stdout.write(json.dumps(result) + '\n')
    return int(bool(result['fault_count']))


if __name__ == '__main__':
    sys.exit(main())
