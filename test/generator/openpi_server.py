"""An openpi policy server that speaks the documented bytes, misbehaves on request and keeps a record of it.

As a program it draws what to do from a seed, prints its port, and when its standard input ends, its record.
"""

import argparse
from contextlib import suppress
import json
import random
import sys
import threading
import time

import numpy as np
from websockets.sync.server import serve

from cosmos3_ros.generator.msgpack_numpy import pack, unpack

ARM_JOINTS = 7
LATE_OFFSET_RAD = 0.5
"""Added to what is sent too late, so that nobody takes it for an answer."""
SHARES = {
    'ok': 790, 'stall': 25, 'late': 25, 'close': 30, 'error': 30, 'error_map': 10, 'nan': 30, 'short': 30,
    'wide': 10, 'integers': 10, 'broken': 10, 'half': 10, 'bare': 40, 'answer_and_close': 20,
    'outage': 0}
"""Requests in a thousand that meet each behaviour."""
ANSWERED = ('ok', 'bare', 'answer_and_close')
"""Behaviours that give a good answer."""


def answer(request):
    """A chunk that says which request it belongs to: rows are its joints, the last one moved by its task."""
    rows = np.zeros((32, 8), np.float32)
    rows[:, :ARM_JOINTS] = request['observation/joint_position']
    task = request['prompt'].rpartition(' ')[2]
    if task.isdigit():
        rows[:, ARM_JOINTS - 1] += 0.001 * int(task)
    return rows


class OpenpiServer:
    """Serves on a free local port until closed.

    :param behave: Number of the request to a behaviour of :data:`SHARES`.
    :param late_s: How late a late answer is.
    :param outage_s: How long an outage lasts: whoever connects is turned away.
    """

    def __init__(self, behave=lambda _number: 'ok', metadata=None, late_s=0.4, outage_s=3.0):
        self.record = []
        """Per request: connection, number on it, first joint, prompt, behaviour, monotonic seconds."""
        self.turned_away = 0
        self._behave, self._metadata = behave, {} if metadata is None else metadata
        self._late_s, self._outage_s, self._outage_ends = late_s, outage_s, 0.0
        self._lock, self._connections = threading.Lock(), 0
        self._server = serve(self._serve, '127.0.0.1', 0, compression=None, max_size=None)
        self.port = self._server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self):
        return f'ws://127.0.0.1:{self.port}'

    def close(self):
        self._server.shutdown()
        self._thread.join(5.0)

    def _serve(self, connection):
        if time.monotonic() < self._outage_ends:
            self.turned_away += 1
            return
        with self._lock:
            self._connections += 1
            name = self._connections
        with suppress(Exception):
            connection.send(pack(self._metadata))
            for position, message in enumerate(connection):
                request = unpack(message)
                with self._lock:
                    what = self._behave(len(self.record))
                    joint = float(request['observation/joint_position'][0])
                    self.record.append(
                        (name, position, joint, request['prompt'], what, round(time.monotonic(), 3)))
                if not self._reply(connection, what, answer(request)):
                    return

    def _reply(self, connection, what, rows):
        """Behave; false ends the connection."""
        if what == 'late':
            time.sleep(self._late_s)
            connection.send(pack({'action': rows + np.float32(LATE_OFFSET_RAD)}))
        elif what == 'error':
            connection.send('Traceback (most recent call last):\n  File "x"\nKeyError: prompt\n')
            connection.close(1011, 'Internal server error. Traceback included in previous frame.')
        elif what == 'outage':
            self._outage_ends = time.monotonic() + self._outage_s
        elif what == 'bare':
            connection.send(pack(rows))
        elif what not in ('stall', 'close'):
            whole = pack(self._content(what, rows))
            connection.send(whole[:len(whole) // 2] if what == 'half' else whole)
        return what not in ('close', 'error', 'outage', 'answer_and_close')

    def _content(self, what, rows):
        if what == 'nan':
            rows[3, 2] = np.nan
        change = {
            'short': lambda: {'action': rows[:16]},
            'wide': lambda: {'action': np.zeros((32, 10), np.float32)},
            'integers': lambda: {'action': rows.astype(np.int32)}, 'broken': lambda: [1, 2],
            'error_map': lambda: {'type': 'error', 'message': 'Internal inference error'}}
        return change.get(what, lambda: {'action': rows, 'server_timing': {'infer_ms': 1.0}})()


def draw_behaviours(seed, outage_every):
    """Return a function from a request's number to what happens to it."""
    source, names = random.Random(seed), list(SHARES)
    weights = [SHARES[name] for name in names]

    def behave(number):
        drawn = source.choices(names, weights)[0]
        # Warm-up makes the first two requests.
        if number < 2:
            return 'ok'
        return 'outage' if outage_every and number % outage_every == outage_every // 2 else drawn

    return behave


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--outage-every', type=int, default=1000)
    parser.add_argument('--outage-s', type=float, default=3.5)
    parser.add_argument('--late-s', type=float, default=1.0)
    given = parser.parse_args()
    server = OpenpiServer(
        draw_behaviours(given.seed, given.outage_every), late_s=given.late_s, outage_s=given.outage_s)
    sys.stdout.write(f'{server.port}\n')
    sys.stdout.flush()
    sys.stdin.read()
    server.close()
    sys.stdout.write(json.dumps({'record': server.record, 'turned_away': server.turned_away}) + '\n')


if __name__ == '__main__':
    main()
