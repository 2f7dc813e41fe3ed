"""Judges a stream of chunks that were made from a joint that tells the time.

The first joint moves at a constant rate, so its position in a chunk says which observation the chunk was
really computed from, whatever its stamp says; the last joint says for which task.
"""

from dataclasses import dataclass

import numpy as np

from cosmos3_ros.contracts import (
    ActionChunk,
    ControllerMode,
    JointMeasurement,
    ModelIdentity,
    StopReason,
)
from cosmos3_ros.control.config import ControllerConfig
from cosmos3_ros.control.controller import Controller
from cosmos3_ros.robots import load_robot

CLOCK_RATE_RAD_S = 5e-4
"""Of the joint that tells the time; float32 on the wire resolves half a millisecond of it."""
CLOCK_START_RAD = -0.9
TIME_TOLERANCE_S = 2e-3
TASK_STEP_RAD = 1e-3
TICK_NS = 20_000_000
STEP_NS, HORIZON = 66_666_667, 32


@dataclass(frozen=True)
class Seen:
    """One chunk as it was received: row 0, the number that its trace ends with, and when it came."""

    arrived_ns: int
    stamp_ns: int
    instruction: str
    number: int
    row: np.ndarray
    gripper: float


class ChunkWitness:
    """Collects what is wrong with received chunks.

    :param start_ns: When the first joint stood at :data:`CLOCK_START_RAD`.
    :param home_rad: Where the other joints stand.
    """

    def __init__(self, start_ns, home_rad):
        self.start_ns, self.home_rad = start_ns, np.asarray(home_rad)
        self.seen: list[Seen] = []
        self.faults: list[str] = []

    def joints_at(self, stamp_ns):
        """Return the joints that are published at a stamp."""
        joints = self.home_rad.copy()
        joints[0] = CLOCK_START_RAD + CLOCK_RATE_RAD_S * (stamp_ns - self.start_ns) * 1e-9
        return joints

    def take(self, message, arrived_ns):
        """Judge one message of ``action_chunk``."""
        stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        rows = np.frombuffer(message.positions, np.float64).reshape(message.horizon, -1)
        number = int(message.trace_id.rpartition('-')[2])
        chunk = Seen(
            arrived_ns, stamp_ns, message.instruction, number, rows[0].copy(), float(message.gripper[0]))
        made_s = (rows[0, 0] - CLOCK_START_RAD) / CLOCK_RATE_RAD_S
        claimed_s = (stamp_ns - self.start_ns) * 1e-9
        task = chunk.instruction.rpartition(' ')[2]
        told = round((rows[0, -1] - self.home_rad[-1]) / TASK_STEP_RAD)
        for wrong, text in (
                (abs(made_s - claimed_s) > TIME_TOLERANCE_S,
                 f'made from the observation at {made_s:.3f} s, stamped {claimed_s:.3f} s'),
                (told != int(task), f'made for task {told}, labelled {chunk.instruction!r}'),
                (rows.shape != (HORIZON, 7) or (rows != rows[0]).any(), f'rows of shape {rows.shape} differ'),
                (np.abs(rows[0, 1:-1] - self.home_rad[1:-1]).max() > 1e-5, 'other joints moved'),
                (not message.trace_id.startswith(f'openpi-{stamp_ns}-'), f'trace {message.trace_id}'),
                (arrived_ns < stamp_ns, 'arrived before its observation')):
            if wrong:
                self.faults.append(f'chunk {len(self.seen)}: {text}')
        if self.seen:
            last = self.seen[-1]
            if stamp_ns < last.stamp_ns or chunk.number <= last.number:
                self.faults.append(f'chunk {len(self.seen)}: older than the one before')
            if int(task) < int(last.instruction.rpartition(' ')[2]):
                self.faults.append(
                    f'chunk {len(self.seen)}: of {chunk.instruction!r} after {last.instruction!r}')
        self.seen.append(chunk)

    def gaps(self, longer_s):
        """Return the numbers of the chunks after which nothing came for so long."""
        return [i for i in range(len(self.seen) - 1)
                if self.seen[i + 1].arrived_ns - self.seen[i].arrived_ns > longer_s * 1e9]

    def play(self, first, last):
        """Let a real controller follow chunks ``first`` to ``last`` and the silence after them.

        :returns: When it stopped as stale, nanoseconds of the chunks' clock, or None; and whether it stood
            at the end. Any other stop is a fault.
        """
        robot = load_robot('panda', 'lab')
        controller = Controller(robot, ControllerConfig(rate_hz=50.0, stop_on_stale_chunk=True))
        controller.warm_up()
        chunks = self.seen[first:last + 1]
        now_ns = chunks[0].arrived_ns - 10 * TICK_NS
        end_ns = self.seen[last + 1].arrived_ns if last + 1 < len(self.seen) else chunks[-1].arrived_ns
        position, velocity = self.joints_at(now_ns), np.zeros(7)
        position[-1] = chunks[0].row[-1]

        def measure():
            controller.measure(JointMeasurement(
                now_ns, robot.joint_names, position, velocity, gripper=0.0), now_ns)

        measure()
        armed = controller.arm(now_ns)
        if not armed.accepted:
            self.faults.append(f'the controller does not arm: {armed.reason}')
        pending, stopped_ns = list(chunks), None
        while now_ns < end_ns or (stopped_ns is not None and controller.mode is ControllerMode.STOPPING):
            now_ns += TICK_NS
            while pending and pending[0].arrived_ns <= now_ns:
                verdict = controller.submit(chunk_of(pending.pop(0), robot.joint_names), now_ns)
                if not verdict.accepted:
                    self.faults.append(f'the controller refuses a chunk: {verdict.reason}')
            command = controller.tick(now_ns)
            if command is not None:
                position, velocity = command.position, command.velocity
            measure()
            state = controller.state(now_ns)
            if stopped_ns is None and state.stop_reason is not StopReason.NONE:
                stopped_ns = now_ns
                if state.stop_reason is not StopReason.STALE_CHUNK:
                    self.faults.append(
                        f'the controller stopped: {state.stop_reason.name}: {state.stop_detail}')
        return stopped_ns, bool(np.abs(velocity).max() < 1e-6)


def chunk_of(seen, joint_names):
    """Return a received chunk as a contract."""
    return ActionChunk(
        stamp_ns=seen.stamp_ns, step_ns=STEP_NS, joint_names=joint_names,
        positions=np.tile(seen.row, (HORIZON, 1)), gripper=np.full(HORIZON, seen.gripper),
        contract='droid_joint', instruction=seen.instruction, seed=0, steps=0, guidance=1.0, policy='openpi',
        identity=ModelIdentity('soak', 'soak', True), trace_id=str(seen.number), latency_s=0.0)
