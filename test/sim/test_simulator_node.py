"""The simulator as a process: what it publishes, what it refuses, and that nothing is left of it."""

import contextlib
from pathlib import Path
import signal
import time

import numpy as np
import pytest
from simulator_process import Listener, SimulatorProcess, is_alive, private_graph, wait_for

rclpy = pytest.importorskip('rclpy', reason='ROS 2 is not installed; the simulator node needs it')
pytest.importorskip('cosmos3_ros.msg', reason='the interfaces are not built; run make setup')

CAMERAS = ('wrist', 'exterior_1', 'exterior_2')
MILLISECOND = 1_000_000


class Session:
    """One simulator and one listening node."""

    def __init__(self, directory, *parameters, environment=()):
        from cosmos3_ros.srv import ResetEpisode
        from rclpy.executors import SingleThreadedExecutor
        private_graph()
        self.closed = False
        rclpy.init()
        self.node = rclpy.create_node('listener')
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.listener = Listener(self.node)
        self.client = self.node.create_client(ResetEpisode, 'simulator/reset_episode')
        self.process = SimulatorProcess(
            'task:=reach', *parameters, log=directory / 'simulator.log', environment=environment)

    def reset(self, task, seed):
        from cosmos3_ros.srv import ResetEpisode
        future = self.client.call_async(ResetEpisode.Request(task=task, seed=seed))
        assert wait_for(self.executor, future.done), self.process.log.read_text()
        return future.result()

    def wait(self, condition, timeout_s=40.0):
        assert wait_for(self.executor, condition, timeout_s), self.process.log.read_text()

    def close(self):
        if self.closed:
            return
        self.closed = True
        if self.process.popen.poll() is None:
            self.process.end()
        self.process.kill()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown()


def is_active(running):
    return running.listener.diagnostics.get('simulator', {}).get('state') == 'active'


@pytest.fixture(scope='module')
def session(tmp_path_factory):
    running = Session(tmp_path_factory.mktemp('simulator'))
    try:
        # The camera process is discovered apart from the simulator, and may be heard first.
        running.wait(lambda: is_active(running) and all(
            running.listener.counts[name] > 3 for name in (*CAMERAS, 'clock', 'joint_states', 'state')))
        yield running
    finally:
        running.close()


def test_no_image_is_lost_and_sets_share_their_stamp(session):
    listener = session.listener
    first = {c: len(listener.stamps[c]) for c in CAMERAS}
    begin = listener.stamps['clock'][-1]
    session.wait(lambda: listener.stamps['clock'][-1] > begin + 5000 * MILLISECOND)
    # The last set may be in the middle of arriving.
    stamps = {c: listener.stamps[c][first[c]:] for c in CAMERAS}
    end = min(s[-1] for s in stamps.values())
    start = max(s[0] for s in stamps.values())
    sets = {c: [t for t in s if start <= t <= end] for c, s in stamps.items()}
    assert sets['wrist'] == sets['exterior_1'] == sets['exterior_2']
    # A render process that is starved skips whole sets and says so; what it drew must all arrive.
    gaps = np.round(np.diff(sets['wrist']) / (1e9 / 15)).astype(int)
    skipped = int(listener.diagnostics['simulator_cameras'].get('image_sets_skipped', 0))
    assert (gaps - 1).sum() <= skipped
    assert len(sets['wrist']) + (gaps - 1).sum() >= 70


def test_images_are_what_their_headers_say(session):
    for camera in CAMERAS:
        image, info = session.listener.last[camera], session.listener.last[f'{camera}/info']
        # The policy sees the exterior cameras at half size, so that is how they are drawn.
        size = (640, 360) if camera == 'wrist' else (320, 180)
        assert (image.width, image.height, image.encoding, image.step) == (*size, 'rgb8', 3 * size[0])
        assert image.header.frame_id == info.header.frame_id == f'{camera}_optical_frame'
        assert np.asarray(image.data).std() > 10.0
        assert (info.width, info.height) == size and info.k[0] == info.k[4] > 100.0
    session.wait(lambda: session.listener.counts['jpeg'] > 0)
    assert bytes(session.listener.last['jpeg'].data[:2]) == b'\xff\xd8'


def test_time_only_grows(session):
    for name in ('clock', 'joint_states', 'state', *CAMERAS):
        assert (np.diff(session.listener.stamps[name]) > 0).all(), name
    clock = np.diff(session.listener.stamps['clock'])
    assert np.median(clock) == 10 * MILLISECOND


def test_joint_states_carry_arm_and_gripper(session):
    message = session.listener.last['joint_states']
    assert list(message.name) == [
        *(f'panda_joint{i}' for i in range(1, 8)), 'robotiq_85_left_knuckle_joint']
    assert len(message.position) == len(message.velocity) == len(message.effort) == 8
    assert 0.0 <= message.position[7] < 0.05
    # Near home (panda.yaml), tool down.
    assert list(message.position[:7]) == pytest.approx([0.0, -0.6, 0.0, -2.2, 0.0, 1.6, 0.785], abs=0.3)


def test_reset_starts_the_episode_that_was_asked_for(session):
    listener = session.listener
    answer = session.reset('push', 5)
    assert answer.accepted and answer.instruction.startswith('push the ')
    session.wait(lambda: listener.last['state'].episode == answer.episode)
    state = listener.last['state']
    assert (state.task, state.seed, state.instruction) == ('push', 5, answer.instruction)
    again = session.reset('', 5)
    assert again.accepted and again.instruction == answer.instruction
    assert again.episode == answer.episode + 1


def test_an_unknown_task_is_refused_and_the_node_stays_up(session):
    before = session.listener.counts['clock']
    answer = session.reset('juggle', 0)
    assert not answer.accepted
    assert 'juggle' in answer.message and 'reach, push, pick_place' in answer.message
    session.wait(lambda: session.listener.counts['clock'] > before + 20)


def command(session, joints, stamp_ns=None, names=None):
    from sensor_msgs.msg import JointState
    names = names or [*(f'panda_joint{i}' for i in range(1, 8)), 'robotiq_85_left_knuckle_joint']
    message = JointState(name=names, position=[float(j) for j in joints], velocity=[0.0] * len(joints))
    now = session.listener.stamps['clock'][-1] if stamp_ns is None else stamp_ns
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(now, 10**9)
    return message


def rejected(session):
    return int(session.listener.diagnostics['simulator'].get('rejected', 0))


def test_commands_move_the_arm_and_bad_ones_do_not(session):
    from sensor_msgs.msg import JointState
    session.reset('reach', 1)
    publisher = session.node.create_publisher(JointState, 'joint_command', 10)
    session.wait(lambda: publisher.get_subscription_count() > 0)
    start = np.array(session.listener.last['joint_states'].position)
    goal = start.copy()
    goal[0] += 0.1
    goal[7] = 0.4

    def reached():
        publisher.publish(command(session, goal))
        return np.abs(np.array(session.listener.last['joint_states'].position) - goal).max() < 0.01

    session.wait(reached)
    for bad in (
        command(session, [np.nan] * 8),
        command(session, goal[:3], names=['panda_joint1', 'panda_joint2', 'elbow']),
        command(session, goal + 1.0),
        command(session, goal - 0.05, stamp_ns=1),
    ):
        counted = rejected(session)
        publisher.publish(bad)
        session.wait(lambda before=counted: rejected(session) > before)
    assert np.abs(np.array(session.listener.last['joint_states'].position) - goal).max() < 0.02
    session.wait(lambda: session.listener.diagnostics['simulator']['following'] == 'False')
    diagnostics = session.listener.diagnostics['simulator']
    assert int(diagnostics['commands_received']) > 4 and int(diagnostics['command_timeouts']) >= 1


@contextlib.contextmanager
def another(directory, *parameters, environment=()):
    """A session of its own, after the shared one: rclpy is initialised once per process and domain."""
    running = Session(directory, *parameters, environment=environment)
    try:
        yield running
    finally:
        running.close()


def test_the_shared_session_ends_here(session):
    session.close()


def test_in_lockstep_time_waits_for_commands(tmp_path):
    from sensor_msgs.msg import JointState
    from std_srvs.srv import Trigger
    with another(tmp_path, 'lockstep:=true', 'render:=false', 'lockstep_command_s:=0.004') as running:
        step = running.node.create_client(Trigger, 'simulator/step')
        running.wait(lambda: step.service_is_ready() and is_active(running))
        publisher = running.node.create_publisher(JointState, 'joint_command', 10)
        running.wait(lambda: publisher.get_subscription_count() > 0)
        future = step.call_async(Trigger.Request())
        running.wait(lambda: future.done() and running.listener.counts['joint_states'] > 5)
        assert future.result().success
        # One camera period of 66 ms has passed, and then nothing more.
        newest = running.listener.stamps['joint_states'][-1]
        position = running.listener.last['joint_states'].position
        sent = 0

        def enough():
            nonlocal sent
            publisher.publish(command(running, position))
            sent += 1
            return running.listener.stamps['joint_states'][-1] - newest > 190 * MILLISECOND

        running.wait(enough)
        # Each command lets 4 ms pass; one camera period may still have been on its way before.
        assert running.listener.stamps['joint_states'][-1] - newest <= (4 * sent + 67) * MILLISECOND
        assert running.reset('push', 1).accepted


def test_without_opengl_configuring_fails_with_the_packages_to_install(tmp_path):
    with another(tmp_path, environment={'__EGL_VENDOR_LIBRARY_FILENAMES': '/dev/null'}) as running:
        listener = running.listener
        running.wait(lambda: 'libegl1' in listener.diagnostics.get('simulator', {}).get('message', ''))
        running.wait(lambda: listener.diagnostics['simulator']['state'] == 'unconfigured')
        assert running.process.popen.poll() is None and not running.process.children()
        assert running.process.end() == 0


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_it_ends(tmp_path, number):
    private_graph()
    process = SimulatorProcess('image_width:=160', 'image_height:=90', log=tmp_path / 'log')
    try:
        deadline = time.monotonic() + 40.0
        while 'simulator]: active' not in process.log.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert 'simulator]: active' in process.log.read_text()
        children = process.children()
        names = process.shared_memory()
        assert len(children) == 1 and names
        status = process.end(number)
        assert status == (0 if number != signal.SIGKILL else -signal.SIGKILL)
        deadline = time.monotonic() + 10.0
        while any(is_alive(pid) for pid in children) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not [pid for pid in children if is_alive(pid)]
        if number != signal.SIGKILL:
            # A killed process cannot remove Fast DDS's segments; ours have no name to begin with.
            assert not [name for name in names if Path('/dev/shm', name).exists()]
        assert 'Traceback' not in process.log.read_text()
    finally:
        process.kill()
        for name in names if number == signal.SIGKILL else ():
            Path('/dev/shm', name).unlink(missing_ok=True)
