"""Pass joint states on from ``joint_states`` to ``joint_states_relayed``, byte by byte.

SIGUSR1 freezes what the controller knows of the arm, while the arm goes on; SIGUSR2 lets it know again.
SIGSTOP would not do: a stopped subscriber holds up its publishers through Fast DDS's shared memory, for a
second or so.
"""

import contextlib
import os
import signal
import threading
import time

import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState

PERIOD_S = 0.001
PRIORITY = 50
"""SCHED_FIFO where permitted: between the controller's thread and its siblings."""
DEPTH = 20


def main() -> None:
    """Relay until the process is ended."""
    frozen = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: frozen.set())
    signal.signal(signal.SIGUSR2, lambda *_: frozen.clear())
    rclpy.init()
    node = rclpy.create_node('joint_relay')
    profile = QoSProfile(depth=DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)
    publisher = node.create_publisher(JointState, 'joint_states_relayed', profile)
    subscription = node.create_subscription(JointState, 'joint_states', lambda _: None, profile, raw=True)
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    while True:
        # Not through an executor, which takes milliseconds for each message.
        with subscription.handle:
            taken = subscription.handle.take_message(JointState, True)
        if taken is None:
            time.sleep(PERIOD_S)
            continue
        if not frozen.is_set():
            publisher.publish(bytes(taken[0]))


if __name__ == '__main__':
    with contextlib.suppress(KeyboardInterrupt):
        main()
