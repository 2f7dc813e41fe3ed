"""A LeRobot v3 episode is read exactly, and each kind of broken dataset is named."""

import json
from pathlib import Path
from typing import Any

from lerobot_dataset import FPS, LENGTHS, VIDEO, write_dataset, write_video
import numpy as np
import pytest

from cosmos3_ros.evaluation.episode_playback import JointTrack, schedule
from cosmos3_ros.evaluation.lerobot_episode import EpisodeError, EpisodeLayout, decode_frames, read_episode

DROID = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'droid_lerobot_example'

def test_second_episode_is_found_inside_the_shared_files(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    first, second = read_episode(tmp_path, 0), read_episode(tmp_path, 1)
    assert (first.instruction, second.instruction) == ('push the red cube', '')
    assert first.joint_position.shape == (20, 7) and second.joint_position.shape == (12, 7)
    np.testing.assert_allclose(second.joint_position[0], 0.21)
    assert second.stamps_s[0] == 0.0 and set(second.videos) == {'wrist', 'exterior_1', 'exterior_2'}
    levels = [float(frame.mean()) for frame in decode_frames(second.videos['wrist'])]
    np.testing.assert_allclose(levels, [8 * i for i in range(20, 32)], atol=3)


def test_missing_video_is_reported_not_raised(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    key = EpisodeLayout().cameras['wrist']
    (tmp_path / VIDEO.format(video_key=key, chunk_index=0, file_index=0)).unlink()
    episode = read_episode(tmp_path)
    assert set(episode.videos) == {'exterior_1', 'exterior_2'}
    assert 'does not exist, though info.json names it' in episode.missing['wrist']


def test_truncated_parquet_is_named(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    path = tmp_path / 'data' / 'chunk-000' / 'file-000.parquet'
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(EpisodeError, match=r'file-000\.parquet cannot be read, it may be truncated'):
        read_episode(tmp_path)


def test_truncated_video_is_named(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    key = EpisodeLayout().cameras['wrist']
    write_video(tmp_path / VIDEO.format(video_key=key, chunk_index=0, file_index=0), [0] * 7)
    with pytest.raises(EpisodeError, match=r'ended after 7 frames, the episode has 20'):
        list(decode_frames(read_episode(tmp_path).videos['wrist']))


def test_wrong_rate_is_named(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    path = tmp_path / 'meta' / 'info.json'
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, 'fps': 30}))
    with pytest.raises(EpisodeError, match=r'fps 30, the timestamps say 15'):
        read_episode(tmp_path)


def test_video_of_another_rate_is_named(tmp_path: Path) -> None:
    write_dataset(tmp_path, video_fps=30)
    with pytest.raises(EpisodeError, match=r'the video has 30 fps, info.json says 15'):
        read_episode(tmp_path)


def test_nan_in_joints_is_named(tmp_path: Path) -> None:
    joints = np.zeros((sum(LENGTHS), 7))
    joints[3, 2] = np.nan
    write_dataset(tmp_path, joints=joints)
    with pytest.raises(EpisodeError, match=r'joint_positions: nan arrived at index \(3, 2\)'):
        read_episode(tmp_path)


@pytest.mark.parametrize(('change', 'message'), [
    ({'codebase_version': 'v2.1'}, "codebase_version 'v2.1' arrived, v3.x is allowed"),
    ({'fps': 0}, 'fps 0 arrived'),
    ({'fps': 'fast'}, "fps 'fast' arrived"),
])
def test_wrong_metadata_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_dataset(tmp_path)
    path = tmp_path / 'meta' / 'info.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(EpisodeError, match=message):
        read_episode(tmp_path)


def test_unknown_episode_column_and_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match=r'info\.json does not exist'):
        read_episode(tmp_path)
    write_dataset(tmp_path)
    with pytest.raises(EpisodeError, match='episode 9 arrived, 0 to 1 are allowed'):
        read_episode(tmp_path, 9)
    with pytest.raises(EpisodeError, match=r"no column 'joints'; there are: .*timestamp"):
        read_episode(tmp_path, layout=EpisodeLayout(joint_position='joints'))


def test_track_passes_through_the_recorded_samples(tmp_path: Path) -> None:
    random = np.random.RandomState(0).normal(size=(sum(LENGTHS), 7))
    write_dataset(tmp_path, joints=random)
    episode = read_episode(tmp_path)
    track = JointTrack(episode)
    for i, stamp in enumerate(episode.stamps_s):
        np.testing.assert_allclose(track.at(float(stamp))[0], episode.joint_position[i], atol=1e-12)
    step = 1e-6
    before, after = track.at(0.5 - step)[0], track.at(0.5 + step)[0]
    np.testing.assert_allclose(track.at(0.5)[1], (after - before) / (2 * step), atol=1e-4)
    assert not track.at(-1.0)[1].any() and not track.at(99.0)[1].any()


@pytest.mark.parametrize('rate_hz', [0.0, 100.0])
def test_schedule_holds_every_image_once_and_in_order(tmp_path: Path, rate_hz: float) -> None:
    write_dataset(tmp_path)
    episode = read_episode(tmp_path)
    events = list(schedule(episode, rate_hz, 0.5))
    times = [event.time_s for event in events]
    assert times == sorted(times)
    assert [event.index for event in events if event.kind == 'image'] == list(range(20))
    joints = np.array([event.time_s for event in events if event.kind == 'joints'])
    assert joints[0] == pytest.approx(-0.5)
    assert np.diff(joints).max() <= (1.0 / rate_hz if rate_hz else 1.0 / FPS) + 1e-9


@pytest.mark.skipif(not DROID.is_dir(), reason='the public DROID example episode is not on this machine')
def test_real_droid_episode() -> None:
    episode = read_episode(DROID)
    assert (len(episode.stamps_s), episode.fps) == (722, 15.0)
    assert episode.joint_position.shape == (722, 7) and episode.action_position is not None
    assert set(episode.videos) == {'exterior_2'} and set(episode.missing) == {'wrist', 'exterior_1'}
    frames = sum(frame.shape == (360, 640, 3) for frame in decode_frames(episode.videos['exterior_2']))
    assert frames == 722
