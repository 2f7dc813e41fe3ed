"""Start the simulator as the process that it is, and listen to it."""

from collections import Counter, defaultdict
import contextlib
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import time

from cosmos3_ros.cli.domain import choose_domain

os.environ.setdefault('AMENT_PREFIX_PATH', sys.prefix)
ROOT = Path(__file__).resolve().parents[2]
PROFILE = ROOT / 'config' / 'fastdds_shm.xml'


def private_graph():
    """Set up the environment of this process for a graph of its own, and return the domain."""
    domain = choose_domain({})
    # Jazzy knows the variable by its old name, newer distributions warn about that one.
    jazzy = os.environ.get('ROS_DISTRO') == 'jazzy'
    os.environ.update({
        'ROS_DOMAIN_ID': str(domain), 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
        f'FAST{"RTPS" if jazzy else "DDS"}_DEFAULT_PROFILES_FILE': str(PROFILE)})
    return domain


class SimulatorProcess:
    """The executable ``simulator``, configured and activated by itself."""

    def __init__(self, *parameters, log, environment=()):
        arguments = [a for p in ('autostart:=true', *parameters) for a in ('-p', p)]
        self.log = log
        with log.open('wb') as out:
            self.popen = subprocess.Popen(
                [sys.executable, '-m', 'cosmos3_ros.nodes.simulator', '--ros-args', *arguments],
                stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, env={**os.environ, **dict(environment)})

    def children(self):
        path = Path(f'/proc/{self.popen.pid}/task')
        found = []
        for task in path.iterdir():
            found += [int(pid) for pid in (task / 'children').read_text().split()]
        return found

    def shared_memory(self):
        """Return the names of the Fast DDS segments and ports in /dev/shm that are its or its children's.

        Ports below 7400 serve the graphs of all domains on the machine, so they are nobody's.
        """
        names = set()
        for pid in (self.popen.pid, *self.children()):
            for line in Path(f'/proc/{pid}/maps').read_text().splitlines():
                if '/dev/shm/' in line:
                    names.add(line.split('/dev/shm/')[1].split()[0])
        return {
            name for name in names
            if re.fullmatch(r'fastdds_[0-9a-f]{16}', name)
            or (re.fullmatch(r'fastdds_port\d+', name) and int(name[12:]) >= 7400)}

    def end(self, number=signal.SIGINT, timeout_s=20.0):
        self.popen.send_signal(number)
        return self.popen.wait(timeout_s)

    def kill(self):
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()


def is_alive(pid):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    return False


class Listener:
    """Counts and keeps the stamps of what the simulator publishes."""

    def __init__(self, node):
        from cosmos3_ros.msg import SimulationState
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.qos import QoSProfile
        from rosgraph_msgs.msg import Clock
        from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
        self.stamps = defaultdict(list)
        self.last = {}
        self.counts = Counter()
        deep = QoSProfile(depth=50)
        node.create_subscription(Clock, '/clock', lambda m: self._take('clock', m, m.clock), deep)
        node.create_subscription(
            JointState, 'joint_states', lambda m: self._take('joint_states', m, m.header.stamp), deep)
        node.create_subscription(
            SimulationState, 'simulation_state', lambda m: self._take('state', m, m.header.stamp), deep)
        node.create_subscription(DiagnosticArray, '/diagnostics', self._diagnostics, deep)
        for camera in ('wrist', 'exterior_1', 'exterior_2'):
            node.create_subscription(
                Image, f'{camera}/image_raw',
                lambda m, c=camera: self._take(c, m, m.header.stamp), QoSProfile(depth=5))
            node.create_subscription(
                CameraInfo, f'{camera}/camera_info',
                lambda m, c=camera: self._take(f'{c}/info', m, m.header.stamp), QoSProfile(depth=5))
        node.create_subscription(
            CompressedImage, 'wrist/image_raw/compressed',
            lambda m: self._take('jpeg', m, m.header.stamp), QoSProfile(depth=5))
        self.diagnostics = {}

    def _take(self, name, message, stamp):
        self.counts[name] += 1
        self.stamps[name].append(stamp.sec * 10**9 + stamp.nanosec)
        self.last[name] = message

    def _diagnostics(self, message):
        for status in message.status:
            self.diagnostics[status.name] = {
                'message': status.message, **{pair.key: pair.value for pair in status.values}}


def wait_for(executor, condition, timeout_s=40.0):
    """Spin until ``condition`` holds; return whether it did."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        executor.spin_once(timeout_sec=0.05)
    return bool(condition())
