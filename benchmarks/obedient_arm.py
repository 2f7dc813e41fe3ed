"""An arm for benchmarks, in a process of its own: it is where the last command told it to be.

It publishes ``joint_states`` at 200 Hz and, twice a second, a chunk that swings all joints about home, so
that the controller under test has something to plan. The last line printed is JSON: commands, rate and gaps.
"""

from array import array
import json
import signal
import sys
import threading
import time

import numpy as np
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState

from cosmos3_ros import msg
from cosmos3_ros.contracts import ActionChunk, ModelIdentity
from cosmos3_ros.nodes.messages import chunk_to_message, to_ns, to_time
from cosmos3_ros.robots import load_robot

PERIOD_NS = 5_000_000
CHUNK_EVERY = 100
ROWS, STEP_NS = 32, 66_666_667
"""The contract of DROID: 32 rows at 15 Hz."""
SWING_RAD, SWING_RAD_S = 0.15, 1.0
LATENCY_NS = 200_000_000
"""The chunk is for an observation this old, as one from a model would be."""


class ObedientArm:
    """Follows, reports and asks for motion."""

    def __init__(self) -> None:
        self._node = rclpy.create_node('obedient_arm')
        self._robot = robot = load_robot('panda')
        self._home = robot.home_rad
        names = [*robot.joint_names, robot.gripper.joint_name]
        self._state = JointState(
            name=names, position=[*self._home.tolist(), robot.gripper.open_position], velocity=[0.0] * 8)
        self._states = self._node.create_publisher(JointState, 'joint_states', QoSProfile(
            depth=10, reliability=ReliabilityPolicy.BEST_EFFORT))
        self._chunks = self._node.create_publisher(msg.ActionChunk, 'action_chunk', QoSProfile(depth=2))
        self._commands = self._node.create_subscription(
            JointState, 'joint_command', lambda _: None, QoSProfile(depth=50))
        self._stamps: list[int] = []
        self._begin_ns = time.time_ns()

    def _obey(self) -> None:
        handle = self._commands.handle
        while True:
            with handle:
                taken = handle.take_message(JointState, False)
            if taken is None:
                return
            command = taken[0]
            self._stamps.append(to_ns(command.header.stamp))
            self._state.position = array('d', command.position)
            self._state.velocity = array('d', command.velocity)

    def _ask(self, now_ns: int) -> None:
        stamp_ns = now_ns - LATENCY_NS
        # Slowly at first: the first chunk starts where the arm stands.
        at_s = (stamp_ns - self._begin_ns + STEP_NS * (1.0 + np.arange(ROWS))) * 1e-9
        swing = SWING_RAD * np.sin(SWING_RAD_S * at_s) * np.clip(at_s / 4.0, 0.0, 1.0)
        rows = self._home + swing[:, None] * np.array([1.0, 0.6, -0.8, 0.7, 1.0, 0.5, -1.0])
        self._chunks.publish(chunk_to_message(ActionChunk(
            stamp_ns=stamp_ns, step_ns=STEP_NS, joint_names=self._robot.joint_names, positions=rows,
            gripper=np.zeros(ROWS), contract='droid_joint', instruction='swing', seed=0, steps=0,
            guidance=1.0, policy='benchmark', identity=ModelIdentity('benchmark', 'benchmark', True),
            trace_id=str(stamp_ns), latency_s=LATENCY_NS * 1e-9)))

    def run(self, ended: threading.Event) -> dict[str, float]:
        """Live until ``ended`` and say what came."""
        rounds, due_ns = 0, time.monotonic_ns()
        while not ended.wait(max(0.0, (due_ns - time.monotonic_ns()) * 1e-9)):
            self._obey()
            now_ns = time.time_ns()
            self._state.header.stamp = to_time(now_ns)
            self._states.publish(self._state)
            if rounds % CHUNK_EVERY == 0:
                self._ask(now_ns)
            rounds += 1
            due_ns += PERIOD_NS
        stamps = np.array(self._stamps)
        if len(stamps) < 2:
            return {'commands': len(stamps)}
        steps_ms = np.diff(stamps) * 1e-6
        return {'commands': len(stamps), 'rate_hz': (len(stamps) - 1) / ((stamps[-1] - stamps[0]) * 1e-9),
                'largest_gap_ms': float(steps_ms.max())}


def main() -> None:
    """Live until a signal comes."""
    ended = threading.Event()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    sys.stdout.write(json.dumps(ObedientArm().run(ended)) + '\n')


if __name__ == '__main__':
    main()
