"""What is computed from a recording: commands, rates, losses, figure and film."""

from collections.abc import Callable
import json
from pathlib import Path
import sys
from typing import Any

import av
import numpy as np
from PIL import Image
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from cosmos3_ros.evaluation.bag import BagError, open_bag, read_commands, realtime_factor
from cosmos3_ros.evaluation.figures import write_motion_figure
from cosmos3_ros.evaluation.limit_file import read_limits
from cosmos3_ros.evaluation.run_summary import check_shadow, summarise_run
from cosmos3_ros.evaluation.typestore import Definitions
from cosmos3_ros.evaluation.video import SIZE, write_video

LIMITS = read_limits('panda', 'lab')
HOME = np.array([0.0, -0.6, 0.0, -2.2, 0.0, 1.6, 0.785])
START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 2_000_000
COLOURS = {'wrist': (200, 40, 40), 'exterior_1': (40, 200, 40), 'exterior_2': (40, 40, 200)}
INTERFACES = Path(__file__).resolve().parents[2]


class BagWriter:
    """Builds messages with rosbags alone, so that no ROS is needed."""

    def __init__(self, path: Path, share: Path) -> None:
        package = share / 'share' / 'cosmos3_ros'
        package.mkdir(parents=True, exist_ok=True)
        for kind in ('msg', 'srv', 'action'):
            if not (package / kind).exists():
                (package / kind).symlink_to(INTERFACES / kind)
        self.definitions = Definitions((share, Path(sys.prefix)))
        self.path = path
        self.writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        self.writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self.writer.open()
        self.connections: dict[str, Any] = {}
        self.counts: dict[str, dict[str, Any]] = {}

    def new(self, kind: str, **values: Any) -> Any:
        self.definitions.add(kind)
        return self.definitions.store.types[kind](**values)

    def header(self, stamp_ns: int) -> Any:
        stamp = self.new('builtin_interfaces/msg/Time', sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        return self.new('std_msgs/msg/Header', stamp=stamp, frame_id='')

    def write(self, topic: str, kind: str, arrived_ns: int, message: Any) -> None:
        self.definitions.add(kind)
        store = self.definitions.store
        if topic not in self.connections:
            self.connections[topic] = self.writer.add_connection(topic, kind, typestore=store)
            self.counts[topic] = {'type': kind, 'received': 0, 'lost': 0, 'bytes': 0}
        self.writer.write(self.connections[topic], arrived_ns, store.serialize_cdr(message, kind))
        self.counts[topic]['received'] += 1

    def close(self) -> None:
        self.writer.close()
        (self.path / 'recording.json').write_text(json.dumps({'topics': self.counts, 'refused': {}}))


def smooth(t: float) -> np.ndarray:
    """A motion of 0.1 rad with rest at both ends, far inside all limits: quintic over one second."""
    s = min(max(t, 0.0), 1.0)
    return HOME + 0.1 * (10 * s**3 - 15 * s**4 + 6 * s**5)


def record(
    tmp_path: Path, motion: Callable[[float], np.ndarray] = smooth, drop: int = 0, name: str = 'bag',
) -> Path:
    """One second of commands at 500 Hz and images at 15 Hz; machine time runs 2 % slower than simulated."""
    bag = BagWriter(tmp_path / name, tmp_path / 'prefix')
    def arrival(t_ns: int) -> int:
        return START_NS + int(t_ns * 1.02)

    names = [*LIMITS.joint_names, 'finger']
    for i in range(520):
        t_ns = i * PERIOD_NS
        bag.write('/joint_command', 'sensor_msgs/msg/JointState', arrival(t_ns), bag.new(
            'sensor_msgs/msg/JointState', header=bag.header(START_NS + t_ns), name=names,
            position=np.array([*motion(t_ns * 1e-9), 0.3]), velocity=np.array([]), effort=np.array([])))
        if i % 5 == 0:
            clock = bag.header(START_NS + t_ns).stamp
            bag.write('/clock', 'rosgraph_msgs/msg/Clock', arrival(t_ns),
                      bag.new('rosgraph_msgs/msg/Clock', clock=clock))
        if i % 33 == 0:
            for camera, colour in COLOURS.items():
                pixels = np.tile(np.array(colour, dtype=np.uint8), (36, 64, 1))
                bag.write(f'/{camera}/image_raw', 'sensor_msgs/msg/Image', arrival(t_ns), bag.new(
                    'sensor_msgs/msg/Image', header=bag.header(START_NS + t_ns), height=36, width=64,
                    encoding='rgb8', is_bigendian=0, step=192, data=pixels.reshape(-1)))
    if drop:
        bag.counts['/wrist/image_raw']['lost'] = drop
    bag.close()
    return bag.path


def test_numbers_of_a_clean_run(tmp_path: Path) -> None:
    summary = summarise_run(record(tmp_path), LIMITS, ())
    assert summary.limits.total == 0, summary.limits.to_dict()
    assert summary.limits.samples == 520
    assert summary.command_rate_hz == pytest.approx(500 / 1.02, rel=1e-6)
    assert summary.realtime_factor == pytest.approx(1 / 1.02, rel=1e-6)
    assert (summary.images_published, summary.images_recorded, summary.lost) == (48, 48, 0)


def test_lost_images_and_violations_are_counted(tmp_path: Path) -> None:
    def jump(t: float) -> np.ndarray:
        return smooth(t) + (0.01 if t > 0.5 else 0.0)

    summary = summarise_run(record(tmp_path, jump, drop=3), LIMITS, ())
    assert (summary.images_published, summary.images_recorded, summary.lost) == (51, 48, 3)
    assert {'velocity', 'acceleration', 'jerk'} <= {k for k, n in summary.limits.violations.items() if n}


def test_commands_come_in_the_robots_order_with_the_gripper_apart(tmp_path: Path) -> None:
    path = record(tmp_path)
    swapped = tuple(reversed(LIMITS.joint_names))
    with open_bag(path) as bag:
        forward, backward = read_commands(bag, LIMITS.joint_names), read_commands(bag, swapped)
        assert realtime_factor(bag, '/no_clock') != realtime_factor(bag, '/no_clock')
    np.testing.assert_array_equal(forward.log.position[:, ::-1], backward.log.position)
    np.testing.assert_array_equal(forward.gripper, 0.3)
    assert forward.log.velocity is None and forward.log.acceleration is None


def test_missing_joint_topic_or_bag_are_named(tmp_path: Path) -> None:
    path = record(tmp_path)
    with open_bag(path) as bag:
        with pytest.raises(BagError, match=r'fr3_joint1 missing among panda_joint1'):
            read_commands(bag, ('fr3_joint1',))
        with pytest.raises(BagError, match=r'/other is not in the bag'):
            read_commands(bag, LIMITS.joint_names, '/other')
        with pytest.raises(BagError, match=r'none of /nothing is in the bag; it has: .*/clock'):
            list(bag.messages('/nothing'))
    with pytest.raises(BagError, match='is no readable bag'), open_bag(tmp_path / 'none'):
        pass


def test_bag_without_shadowing_has_nothing_to_check(tmp_path: Path) -> None:
    report, samples = check_shadow(record(tmp_path), LIMITS)
    assert (report.total, samples) == (0, 0)


def test_figure_shows_the_motion(tmp_path: Path) -> None:
    path = record(tmp_path)
    with open_bag(path) as bag:
        log = read_commands(bag, LIMITS.joint_names).log
    figure = tmp_path / 'deep' / 'motion.png'
    write_motion_figure(log, LIMITS, figure, title='test')
    pixels = np.asarray(Image.open(figure).convert('RGB')).astype(int)
    assert pixels.shape[1] == 1700
    blue = (np.abs(pixels - np.array([0x1b, 0x5e, 0x9c])).sum(axis=2) < 60).sum()
    assert blue > 28 * 100, 'every panel has a line'
    with pytest.raises(ValueError, match='0 commands arrived, at least 4'):
        write_motion_figure(log, LIMITS, figure, title='test', window_ns=(1, 2))


def test_film_has_every_image_at_its_time_and_place(tmp_path: Path) -> None:
    output = tmp_path / 'film.mp4'
    assert write_video(record(tmp_path), output) == 16
    with av.open(str(output)) as container:
        assert container.streams.video[0].codec_context.name == 'h264'
        frames = list(container.decode(video=0))
    assert len(frames) == 16
    assert (frames[0].width, frames[0].height) == SIZE
    assert frames[-1].time == pytest.approx(15 * 33 * PERIOD_NS * 1e-9, abs=2e-3)
    image = frames[-1].to_ndarray(format='rgb24').astype(int)
    for camera, (x, y) in {'wrist': (420, 240), 'exterior_1': (1060, 120), 'exterior_2': (1060, 360)}.items():
        np.testing.assert_allclose(image[y, x], COLOURS[camera], atol=12)


def test_film_without_images_in_the_window_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BagError, match='no image of the cameras in the window'):
        write_video(record(tmp_path), tmp_path / 'film.mp4', window_ns=(1, 2))
