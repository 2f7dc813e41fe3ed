"""Node ``replay``: a recorded LeRobot episode in, live topics out, at the original timing."""

from array import array
from collections.abc import Iterator
from pathlib import Path
import queue
import sys
import threading
import time
from typing import Any

from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import Image, JointState

from cosmos3_ros.evaluation.episode_playback import Due, JointTrack, schedule
from cosmos3_ros.evaluation.lerobot_episode import Episode, Frame, decode_frames, read_episode
from cosmos3_ros.robots import load_robot

from .base import LifecycleBase, SetupError
from .diagnostics import Level, Report, Window
from .images import rgb_message
from .messages import to_time
from .parameters import Parameter, ParameterTable
from .qos import default_profile, make_profile, qos_parameters, qos_profile
from .run import run_node

DECODED_AHEAD = 15
"""Frames kept ready per camera: a second of DROID, so that a slow decode is never seen outside."""
CLOCK_HZ = 100.0
LISTENERS_S = 10.0


class ReplayNode(LifecycleBase):
    """Plays one episode once after activation and then keeps publishing the last joint state.

    Images go out at their recorded times, joint states at ``joint_states_rate_hz`` on a spline through the
    recorded samples, stamped with the node's clock at activation plus the recorded time.
    """

    NAME = 'replay'
    TABLE = ParameterTable(
        Parameter('robot', str, 'panda', 'Robot that was recorded.', read_only=True),
        Parameter('source', str, '', 'Directory of a LeRobot v3 dataset.', read_only=True),
        Parameter('episode', int, 0, 'Index of the episode.', range=(0, 2**31 - 1), read_only=True),
        Parameter('blank_cameras', list[str], [],
                  'Camera slots that may lack a video; nothing is published for them.', read_only=True),
        Parameter('joint_states_rate_hz', float, 100.0,
                  'Rate of joint_states between the recorded samples; 0 publishes the samples only.',
                  unit='Hz', range=(0.0, 1000.0), read_only=True),
        Parameter('speed', float, 1.0, 'Playback speed.', unit='x', range=(0.05, 20.0), read_only=True),
        Parameter('lead_s', float, 1.0, 'Joint states of the first pose before the first image.', unit='s',
                  range=(0.0, 60.0), read_only=True),
        Parameter('joint_states_listeners', int, 0,
                  'Subscriptions of joint_states to wait for before the first message, so that none of them '
                  'misses it; activation fails without them after 10 s.', range=(0, 100), read_only=True),
        Parameter('publish_clock', bool, False,
                  'Publish /clock with recorded time; other nodes then need use_sim_time.', read_only=True),
        *qos_parameters('images', 'joint_states'),
    )

    def setup(self) -> None:
        """Read the episode, check that robot and cameras fit."""
        values = self.values
        self._player: threading.Thread | None = None
        self._stopping = threading.Event()
        self._finished = False
        self._lateness_ms = Window(4096)
        if not values['source']:
            raise SetupError('source: empty arrived, the directory of a LeRobot v3 dataset is needed')
        self._robot = load_robot(values['robot'])
        self._episode: Episode = read_episode(Path(values['source']).expanduser(), values['episode'])
        joints = self._episode.joint_position.shape[1]
        if joints != len(self._robot.joint_names):
            raise SetupError(
                f'{values["source"]}: {joints} joints were recorded, robot {self._robot.name} has '
                f'{len(self._robot.joint_names)}; change the parameter robot')
        slots = {slot.name: slot for slot in self._robot.cameras}
        unexpected = {
            slot: reason for slot, reason in self._episode.missing.items()
            if slot in slots and slot not in values['blank_cameras']}
        if unexpected:
            raise SetupError(
                'no video for ' + '; '.join(f'{slot}: {reason}' for slot, reason in unexpected.items())
                + '. Name these slots in the parameter blank_cameras to go on without them')
        for slot, reason in self._episode.missing.items():
            self.get_logger().warning(f'camera {slot} stays blank: {reason}')
        self._track = JointTrack(self._episode)
        joint_states = values['qos.joint_states.depth']
        # A driver publishes reliably; the subscribers choose what they need.
        self._joints = self.create_publisher(
            JointState, 'joint_states', make_profile('reliable', joint_states))
        self._cameras = {
            slot: (self.create_publisher(Image, slots[slot].topic, qos_profile(values, 'images')),
                   slots[slot].frame_id)
            for slot in self._episode.videos if slot in slots}
        self._clock_publisher = (
            self.create_publisher(ClockMessage, '/clock', default_profile('camera_info'))
            if values['publish_clock'] else None)

    def warm_up(self) -> None:
        """Decode the first frames, so that the first second is on time."""
        self._decoders = {
            slot: _Decoder(decode_frames(video)) for slot, video in self._episode.videos.items()
            if slot in self._cameras}
        for decoder in self._decoders.values():
            decoder.wait_for_first()

    def start(self) -> None:
        """Begin to play."""
        if self._finished:
            raise SetupError('the episode was played; clean up and configure to play it again')
        self._wait_for_listeners()
        self._stopping.clear()
        self._player = threading.Thread(target=self._run, name='player', daemon=True)
        self._player.start()

    def _wait_for_listeners(self) -> None:
        wanted, deadline_s = self.values['joint_states_listeners'], time.monotonic() + LISTENERS_S
        while (found := self._joints.get_subscription_count()) < wanted:
            if time.monotonic() > deadline_s:
                raise SetupError(
                    f'joint_states: {found} subscriptions found, joint_states_listeners asks for {wanted}')
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop playing. An episode that was interrupted does not go on."""
        self._stopping.set()
        player, self._player = getattr(self, '_player', None), None
        if player is not None:
            player.join()
            self._finished = True

    def teardown(self) -> None:
        """End the decoders."""
        for decoder in getattr(self, '_decoders', {}).values():
            decoder.close()
        self._decoders = {}

    def _run(self) -> None:
        try:
            self._play()
        except Exception as error:
            self.report_exception('player', error)
        self._finished = True
        if not self._stopping.is_set():
            self.get_logger().info(
                f'finished: {self._episode.duration_s:.1f} s, {self.counters["joint_states"]} joint states, '
                + ', '.join(f'{self.counters[f"images.{slot}"]} images of {slot}' for slot in self._cameras))
            self._hold_last_pose()

    def _play(self) -> None:
        values = self.values
        speed, lead_s = values['speed'], values['lead_s']
        begin_s = time.monotonic()
        # With /clock from here, recorded time is the time; otherwise the node's clock goes on.
        first_ns = self.now_ns() if self._clock_publisher is None else 0
        self._origin_ns = first_ns + int(lead_s / speed * 1e9)
        for due in schedule(self._episode, values['joint_states_rate_hz'], lead_s):
            due_s = begin_s + (due.time_s + lead_s) / speed
            if self._stopping.wait(max(0.0, due_s - time.monotonic())):
                return
            self._lateness_ms.add(1e3 * (time.monotonic() - due_s))
            self._publish(due, self._origin_ns + int(due.time_s / speed * 1e9))

    def _publish(self, due: Due, stamp_ns: int) -> None:
        if due.kind == 'joints':
            if self._clock_publisher is not None:
                self._clock_publisher.publish(ClockMessage(clock=to_time(stamp_ns)))
            self._publish_joints(due.time_s, stamp_ns)
            self.counters.add('joint_states')
            return
        for slot, (publisher, frame_id) in self._cameras.items():
            frame = self._decoders[slot].take()
            publisher.publish(rgb_message(frame, stamp_ns=stamp_ns, frame_id=frame_id))
            self.counters.add(f'images.{slot}')

    def _publish_joints(self, time_s: float, stamp_ns: int) -> None:
        position, velocity, gripper = self._track.at(time_s)
        robot = self._robot
        message = JointState(name=[*robot.joint_names, robot.gripper.joint_name])
        message.header.stamp = to_time(stamp_ns)
        message.position = array('d', [*position, robot.gripper.to_joint(gripper)])
        message.velocity = array('d', [*(velocity * self.values['speed']), 0.0])
        self._joints.publish(message)

    def _hold_last_pose(self) -> None:
        """Keep the last joint state fresh: the end of a recording is no fault of the robot."""
        period_s = 1.0 / (self.values['joint_states_rate_hz'] or self._episode.fps)
        start_s, end_s = time.monotonic(), self._episode.duration_s
        step = 0
        while not self._stopping.wait(max(0.0, start_s + (step + 1) * period_s - time.monotonic())):
            step += 1
            stamp_ns = self._origin_ns + int((end_s / self.values['speed'] + step * period_s) * 1e9)
            if self._clock_publisher is not None:
                self._clock_publisher.publish(ClockMessage(clock=to_time(stamp_ns)))
            self._publish_joints(end_s, stamp_ns)
            self.counters.add('joint_states_held')

    def diagnose(self, report: Report) -> None:
        """Progress and how late the player is."""
        report.put(finished=self._finished, episode=self._episode.index, frames=len(self._episode.stamps_s),
                   instruction=self._episode.instruction, missing=', '.join(self._episode.missing),
                   **self._lateness_ms.summary('lateness_ms'))
        if self._finished:
            report.add(Level.OK, 'finished')


class _Decoder:
    """Decodes ahead in its own thread.

    :param frames: Iterator over the frames of one video.
    """

    def __init__(self, frames: Iterator[Frame]) -> None:
        self._queue: queue.Queue[Frame | Exception | None] = queue.Queue(DECODED_AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(frames,), name='decoder', daemon=True)
        self._thread.start()

    def wait_for_first(self) -> None:
        """Return when a frame lies ready or decoding has failed."""
        while self._queue.empty() and self._thread.is_alive():
            time.sleep(0.005)

    def take(self) -> Frame:
        """Return the next frame.

        :raises EpisodeError: The video could not be decoded.
        """
        item = self._queue.get()
        if isinstance(item, Exception):
            raise item
        if item is None:
            raise SetupError('no frame is left')
        return item

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._thread.join()

    def _put(self, item: Any) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def _run(self, frames: Iterator[Frame]) -> None:
        try:
            for frame in frames:
                if not self._put(frame):
                    return
        except Exception as error:
            self._put(error)
        self._put(None)


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(ReplayNode, args)


if __name__ == '__main__':
    sys.exit(main())
