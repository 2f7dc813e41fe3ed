"""Requests to the policy: one at a time, the newest wins, and whatever changes their meaning drops them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
import threading
import time
from typing import TYPE_CHECKING, Any

from cosmos3_ros.contracts import ActionChunk, Observation, ObservationRefused
from cosmos3_ros.generator.observation_assembler import ObservationAssembler
from cosmos3_ros.generator.policy import Policy

from .chunk_record import ChunkRecord
from .generator_parameters import SEED_LIMIT
from .worker import Worker

if TYPE_CHECKING:
    from .base import LifecycleBase

# While a late chunk is held back (injected_latency_s), how often is looked whether it is still wanted.
HOLD_POLL_S = 0.005
# Of the ages that chunks had when they were published: how late the next one is expected, for its prefix.
EXPECTED_AGE_PERCENT = 90.0


class ChunkRequests:
    """Asks the policy in a thread of its own while an instruction is set and nobody has paused.

    Each instruction, pause and clock jump begins a new epoch; a chunk of an older epoch is never published.

    :param node: Its parameters, clock, counters and logs are used.
    :param publish: Publishes a chunk.
    :param on_chunk: Called after a chunk was published.
    :param epoch: First epoch, above that of any earlier life of the node: a request of it that its thread
        still works on must not find its number in use.
    """

    def __init__(
        self, node: LifecycleBase, policy: Policy, assembler: ObservationAssembler,
        publish: Callable[[ActionChunk], None], on_chunk: Callable[[], None], epoch: int,
    ) -> None:
        self._node, self._policy, self._assembler = node, policy, assembler
        self._publish_chunk, self._on_chunk = publish, on_chunk
        self._lock = threading.Lock()
        self._number = 0
        self.epoch = epoch
        self.instruction = ''
        self.paused = False
        self.refused = ''
        """Why there is no chunk, empty if there is one."""
        self.record = ChunkRecord()
        self.worker: Worker[Callable[[], None]] | None = None
        self.last: tuple[Observation, ActionChunk] | None = None
        """The chunk that plays and what it was computed from; None after anything that ended it."""
        self._fresh = True

    def start(self) -> None:
        """Begin to work on requests."""
        self.worker = Worker('policy', lambda work: work(), self._on_failure)

    def stop(self) -> None:
        """End the thread; the chunk in flight is thrown away."""
        self.drop_in_flight()
        worker, self.worker = self.worker, None
        if worker is not None:
            worker.close()

    def set_instruction(self, instruction: str, announce: Callable[[str], None]) -> None:
        """Take up an instruction and drop the chunk in flight; empty for none.

        :param announce: Called with it under the lock: of two at a time the one that counts comes last.
        """
        with self._lock:
            self.instruction = instruction
            self._begin_epoch()
            announce(instruction)

    def pause(self, paused: bool) -> None:
        """Hold back requests, or go on; the instruction stays. A chunk in flight is thrown away."""
        with self._lock:
            self.paused = paused
            self._begin_epoch()

    def drop_in_flight(self) -> None:
        """Throw away the chunk in flight."""
        with self._lock:
            self._begin_epoch()

    def _begin_epoch(self) -> None:
        self.epoch += 1
        self.last = None
        self._fresh = True

    def request(self) -> None:
        """Ask for a chunk, unless there is nothing to do."""
        worker, epoch = self.worker, self.epoch
        if worker is not None and self.instruction and not self.paused:
            worker.offer(lambda: self._make(epoch))

    def run(self, work: Callable[[], None]) -> None:
        """Do other work with the policy, in the thread that alone may use it."""
        if self.worker is not None:
            self.worker.offer(work)

    def _make(self, epoch: int) -> None:
        """Make one chunk; runs in the worker's thread."""
        node, requested_s = self._node, time.monotonic()
        with self._lock:
            instruction, previous = self.instruction, self.last
            if epoch != self.epoch or not instruction or self.paused:
                return
        observation = self._assembler.assemble(node.now_ns())
        assembled_s = time.monotonic()
        self.refused = observation.reason if isinstance(observation, ObservationRefused) else ''
        if isinstance(observation, ObservationRefused):
            node.counters.add('observations_refused')
            node.logs.warn('observation', f'no observation: {observation.reason}')
            return
        values, policy = node.values, self._policy
        seed = values['seed']
        if values['seed_mode'] == 'per_chunk':
            seed = (seed + self._number) % SEED_LIMIT
        chunk = policy.generate(
            observation, instruction, seed=seed, **self._continuation(previous, observation))
        if (chunk.stamp_ns, chunk.instruction) != (observation.stamp_ns, instruction):
            raise RuntimeError(
                f'policy {policy.name}: its chunk is of {chunk.stamp_ns} ns and {chunk.instruction!r}, asked '
                f'was for {observation.stamp_ns} ns and {instruction!r}: thrown away')
        self._number += 1
        generated_s = time.monotonic()
        self._hold_back(epoch)
        latency_s = time.monotonic() - requested_s
        stages_ms = {
            'assemble': (assembled_s - requested_s) * 1e3, 'policy': (generated_s - assembled_s) * 1e3,
            **{f'policy_{name}': value for name, value in getattr(policy, 'stages_ms', {}).items()}}
        self._publish(replace(chunk, latency_s=latency_s), observation, epoch, stages_ms)

    def _continuation(
        self, previous: tuple[Observation, ActionChunk] | None, observation: Observation,
    ) -> dict[str, Any]:
        """Return the argument that ties a chunk to the one that plays, if that is asked for."""
        node = self._node
        if not node.values['real_time_chunking'] or previous is None:
            return {}
        age_s = self.record.age_s.percentile(EXPECTED_AGE_PERCENT)
        if age_s != age_s:  # none published yet but the first: as late as that one was
            age_s = max(0.0, previous[1].latency_s)
        try:
            prefix = self._policy.prefix_of(  # type: ignore[attr-defined]
                previous[1], observation, age_s, decay=node.values['prefix_decay'])
        except ValueError as error:
            node.counters.add('prefixes_refused')
            node.logs.warn('prefix', f'a chunk is not tied to the one before: {error}')
            return {}
        node.counters.add('chunks_tied')
        return {'prefix': prefix}

    def _hold_back(self, epoch: int) -> None:
        node = self._node
        due_ns = node.now_ns() + int(node.values['injected_latency_s'] * 1e9)
        while node.now_ns() < due_ns and epoch == self.epoch and not node.closing.is_set():
            time.sleep(HOLD_POLL_S)

    def _publish(
        self, chunk: ActionChunk, observation: Observation, epoch: int, stages_ms: dict[str, float],
    ) -> None:
        node = self._node
        deadline_s = node.values['request_deadline_s']
        if deadline_s and chunk.latency_s > deadline_s:
            node.counters.add('chunks_late')
            node.logs.warn('late', f'a chunk took {chunk.latency_s:.3f} s and was thrown away, '
                                   f'{deadline_s:g} s is allowed (request_deadline_s)')
            return
        age_s = (node.now_ns() - chunk.stamp_ns) * 1e-9
        if -age_s > node.values['max_age_s']:
            # No observation is taken from that far ahead: the clock was set back while the chunk was made,
            # and no image of the new time has come yet that would have told.
            node.counters.add('chunks_dropped')
            node.logs.warn('clock', f'a chunk was thrown away: its observation is {-age_s:.1f} s in the '
                                    'future; was the clock set back?')
            return
        # Under the lock: no chunk of an old instruction follows the announcement of a new one.
        with self._lock:
            if epoch != self.epoch or not node.active:
                node.counters.add('chunks_dropped')
                return
            self._publish_chunk(chunk)
            self.last = observation, chunk
            first, self._fresh = self._fresh, False
        self.record.add(chunk.trace_id, chunk.latency_s, age_s, stages_ms, first=first)
        node.counters.add('chunks')
        self._on_chunk()

    def _on_failure(self, error: Exception) -> None:
        node = self._node
        node.counters.add('failures')
        # A policy refuses with ValueError; that is no bug and needs no traceback.
        if isinstance(error, ValueError):
            node.logs.warn('policy', f'no chunk: {error}')
            self.refused = str(error)
        else:
            node.report_exception('policy', error)
