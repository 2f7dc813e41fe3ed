"""The reader: samples, their padding, the mixture, and every kind of bad data."""

from collections import Counter
from collections.abc import Callable
import json
from pathlib import Path

from dataset_maker import (
    DATA,
    EPISODES,
    INFO,
    LENGTHS,
    TASKS,
    VIDEO,
    change_info,
    change_table,
    copy_dataset,
    joints,
    level,
    write_dataset,
    write_video,
)
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from cosmos3_ros.training.dataset_layout import DROID_LAYOUT, DatasetLayout
from cosmos3_ros.training.dataset_mixture import Mixture
from cosmos3_ros.training.dataset_reader import Dataset
from cosmos3_ros.training.dataset_validation import check_dataset
from cosmos3_ros.training.dataset_videos import scale_down
from cosmos3_ros.training.lerobot_format import DatasetError

WRIST = DROID_LAYOUT.cameras['wrist']
REAL = Path(__file__).resolve().parents[2].parent / 'shared' / 'data'


@pytest.fixture(scope='module')
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp('datasets') / 'sound')


@pytest.fixture(scope='module')
def dataset(sound: Path) -> Dataset:
    return Dataset.open(sound)


def test_samples_are_the_frames_that_demonstrate(dataset: Dataset) -> None:
    assert dataset.frame_count == sum(LENGTHS)
    places = [dataset.place(i) for i in range(len(dataset))]
    assert places == [(0, f) for f in range(20) if not 8 <= f < 11] + [(1, f) for f in range(12)]
    with pytest.raises(IndexError, match=r'sample 29 arrived, 0 to 28'):
        dataset.place(29)


def test_a_sample_is_the_frame_and_what_follows(dataset: Dataset) -> None:
    sample = dataset.sample_at(1, 4, horizon=5, future_frames=3)
    row = LENGTHS[0] + 4
    assert sample.instruction == TASKS[0] and (sample.episode, sample.frame) == (1, 4)
    np.testing.assert_allclose(sample.state[:7], joints()[row])
    np.testing.assert_allclose(sample.actions[:, :7], joints()[row:row + 5] + 0.01, atol=1e-6)
    np.testing.assert_allclose(sample.actions[:, 7], np.linspace(0.0, 1.0, sum(LENGTHS))[row:row + 5])
    assert not sample.is_pad.any() and sample.facts is None
    for slot in DROID_LAYOUT.cameras:
        assert abs(int(sample.images[slot].mean()) - level(1, 4)) <= 1
        assert [round(float(p.mean())) - level(1, 0) for p in sample.future[slot]] == pytest.approx(
            [20, 24, 28], abs=1)


@settings(max_examples=60, deadline=None)
@given(episode=st.integers(0, 1), share=st.floats(0.0, 0.999), horizon=st.integers(1, 40))
def test_rows_past_the_demonstration_repeat_its_last(
        dataset: Dataset, episode: int, share: float, horizon: int) -> None:
    frame = int(share * LENGTHS[episode])
    sample = dataset.sample_at(episode, frame, horizon=horizon, future_frames=horizon)
    assert sample.actions.shape == (horizon, 8) and sample.future['wrist'].shape[0] == horizon
    demonstrates = dataset.tables.demonstration[dataset.tables.episodes[episode].start:]
    for i in range(horizon):
        inside = frame + i < LENGTHS[episode] and (i == 0 or bool(demonstrates[frame:frame + i + 1].all()))
        assert sample.is_pad[i] == (not inside)
        if not inside:
            np.testing.assert_array_equal(sample.actions[i], sample.actions[i - 1])


def test_a_narrow_picture_is_not_scaled() -> None:
    picture = np.zeros((90, 160, 3), np.uint8)
    assert scale_down(picture, 160) is picture and scale_down(picture, None) is picture
    assert scale_down(picture, 80).shape == (45, 80, 3)


def test_the_memory_budget_drops_what_was_used_least(sound: Path) -> None:
    small = Dataset.open(sound, memory_bytes=1)
    for _ in range(2):
        for episode in (0, 1):
            assert abs(small.pictures(episode, 'wrist')[0].mean() - level(episode, 0)) <= 1


def test_a_missing_camera_must_be_named(sound: Path, tmp_path: Path) -> None:
    root = copy_dataset(sound, tmp_path / 'two_cameras')
    (root / VIDEO.format(key=WRIST)).unlink()
    with pytest.raises(DatasetError, match=r'camera wrist: .*file-000\.mp4 does not exist.*blank_cameras'):
        Dataset.open(root)
    blank = Dataset.open(root, blank_cameras=('wrist',))
    assert blank.blank_cameras == ('wrist',)
    sample = blank.sample(0, future_frames=2)
    assert not sample.images['wrist'].any() and sample.future['wrist'].shape == (2, 48, 64, 3)
    assert check_dataset(root, blank_cameras=('wrist',)).missing_cameras == ('wrist',)


def test_a_sound_dataset_passes(sound: Path) -> None:
    report = check_dataset(sound)
    assert (report.episodes, report.frames, report.samples, report.facts) == (2, 32, 29, 0)
    assert report.cameras == dict.fromkeys(DROID_LAYOUT.cameras, '64x48')


def _data(change: Callable[[dict], object]) -> Callable[[Path], None]:
    return lambda root: change_table(root / DATA, change)


def _set(name: str, row: int, value: object) -> Callable[[Path], None]:
    return _data(lambda columns: columns[name].__setitem__(row, value))


def _nan_action(root: Path) -> None:
    def spoil(columns: dict) -> None:
        columns[DROID_LAYOUT.action_position][17][2] = float('nan')
    change_table(root / DATA, spoil)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def _drop_feature(root: Path) -> None:
    features = json.loads((root / INFO).read_text())['features']
    del features[DROID_LAYOUT.action_position]
    change_info(root, features=features)


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    'no info': (lambda root: (root / INFO).unlink(), r'info\.json does not exist'),
    'no json': (lambda root: (root / INFO).write_text('{'), r'info\.json is no JSON'),
    'version': (lambda root: change_info(root, codebase_version='v2.1'), r"codebase_version 'v2\.1' arrived"),
    'fps of info': (lambda root: change_info(root, fps=30), r'info\.json: fps 30 arrived, 15 is needed'),
    'robot': (lambda root: change_info(root, robot_type='so100'),
              r"info\.json: robot_type 'so100' arrived, one of panda, franka, fr3"),
    'no robot': (lambda root: change_info(root, robot_type=None), r"robot_type '' arrived"),
    'missing feature': (_drop_feature, r"info\.json: no feature 'action\.joint_position'; there are"),
    'missing column': (_data(lambda columns: columns.pop('timestamp')),
                       r"file-000\.parquet: no column 'timestamp'; there are"),
    'nan action': (_nan_action, r"data/.*parquet: row 17: 'action\.joint_position'\[2\] is nan"),
    'wrong width': (_set(DROID_LAYOUT.joint_position, 5, [0.0] * 6),
                    r"data/.*: row 5: 'observation\.state\.joint_positions' has 6 numbers, 7 are allowed"),
    'empty cell': (_set(DROID_LAYOUT.joint_position, 6, None), r"row 6: '.*joint_positions' is empty"),
    'text in a number': (_data(lambda c: c.__setitem__(DROID_LAYOUT.gripper, ['shut'] * 32)),
                         r"'observation\.state\.gripper_position' has the type string"),
    'gripper in degrees': (_set(DROID_LAYOUT.gripper, 9, 47.0),
                           r'row 9: .*gripper_position.* is 47, 0 \(open\)'),
    'clock': (_set('timestamp', 25, 9.0), r'row 25: timestamp 9 of episode 1 comes'),
    'wrong fps of rows': (_data(lambda c: c.__setitem__('timestamp', [t / 2 for t in c['timestamp']])),
                          r'timestamps of episode 0 run at 30 fps, info\.json says 15'),
    'frame order': (_set('frame_index', 3, 7), r'frame_index .* where .* is due'),
    'rows missing': (_data(lambda c: [c.__setitem__(k, v[:-1]) for k, v in c.items()]),
                     r'11 rows of episode 1, meta/episodes says 12'),
    'unknown task': (_set('task_index', 2, 5), r'row 2: task_index 5 arrived, 0 to 1'),
    'truncated data': (lambda root: _cut(root / DATA), r'data/.*parquet cannot be read, it may be truncated'),
    'truncated episodes': (lambda root: _cut(root / EPISODES), r'meta/episodes/.* cannot be read'),
    'no data file': (lambda root: (root / DATA).unlink(), r'data/.*parquet does not exist'),
    'episode twice': (lambda root: change_table(
        root / EPISODES, lambda c: c.__setitem__('episode_index', [0, 0])), r'stands there twice'),
    'no tasks': (lambda root: (root / 'meta/tasks.parquet').unlink(), r'tasks\.parquet does not exist'),
    'counts': (lambda root: change_info(root, total_frames=33),
               r'total_frames 33 arrived, the tables hold 2 and 32'),
    'missing video': (lambda root: (root / VIDEO.format(key=WRIST)).unlink(),
                      r'camera wrist: .* does not exist'),
    'broken video': (lambda root: (root / VIDEO.format(key=WRIST)).write_bytes(b'no video'),
                     r'file-000\.mp4 is no readable video'),
    'fps of video': (lambda root: write_video(root / VIDEO.format(key=WRIST), fps=30),
                     r'file-000\.mp4: the video has 30 fps, info\.json says 15'),
    'video shorter than rows': (lambda root: write_video(root / VIDEO.format(key=WRIST), (20, 10)),
                                r'episode 1: .*mp4: ended after 10 frames, the episode has 12'),
    'picture size': (lambda root: _shrink(root), r'frame 0 of episode 0 is 48x64x3, info\.json says 24x64x3'),
}


def _shrink(root: Path) -> None:
    features = json.loads((root / INFO).read_text())['features']
    features[WRIST]['shape'] = [24, 64, 3]
    change_info(root, features=features)


@pytest.mark.parametrize('name', BAD)
def test_bad_data_is_refused_with_file_and_row(name: str, sound: Path, tmp_path: Path) -> None:
    spoil, message = BAD[name]
    root = copy_dataset(sound, tmp_path / 'bad')
    spoil(root)
    with pytest.raises(DatasetError, match=message) as refused:
        check_dataset(root)
    assert str(root) in str(refused.value)


def test_a_layout_knows_only_camera_slots_of_policies() -> None:
    with pytest.raises(DatasetError, match=r"\['top'\] arrived, wrist, exterior_1, exterior_2"):
        DatasetLayout(cameras={'top': 'observation.images.top'})


@settings(max_examples=40, deadline=None)
@given(first=st.floats(0.05, 20.0), second=st.floats(0.05, 20.0), batch=st.integers(1, 40),
       seed=st.integers(0, 2**32), step=st.integers(0, 10_000))
def test_a_batch_holds_the_weights_to_within_one(
        dataset: Dataset, first: float, second: float, batch: int, seed: int, step: int) -> None:
    mixture = Mixture([dataset, dataset], weights=[first, second], seed=seed)
    draws = mixture.draw(step, batch)
    assert mixture.draw(step, batch) == draws
    assert all(0 <= draw.index < len(dataset) for draw in draws)
    count = sum(draw.dataset == 0 for draw in draws)
    assert abs(count - batch * first / (first + second)) <= 1.0 + 1e-9


def test_every_sample_is_drawn_equally_often(dataset: Dataset) -> None:
    drawn = Counter(d.index for step in range(300) for d in Mixture([dataset], seed=1).draw(step, 29))
    # 300 expected each, binomial: five standard deviations.
    assert set(drawn) == set(range(29)) and all(abs(n - 300) < 5 * 300**0.5 for n in drawn.values())
    steps = {Mixture([dataset], seed=s).draw(t, 8) for s in range(3) for t in range(3)}
    assert len(steps) == 9


@pytest.mark.parametrize(('weights', 'message'), [
    ([1.0], 'one positive number for each'), ([1.0, 0.0], 'one positive'),
    ([1.0, float('nan')], 'one positive')])
def test_weights_must_be_positive(dataset: Dataset, weights: list[float], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        Mixture([dataset, dataset], weights=weights)
    with pytest.raises(DatasetError, match='at least one sample'):
        Mixture([])


@pytest.mark.skipif(
    not (REAL / 'droid_lerobot_example').is_dir(), reason='no real DROID episode beside the checkout')
def test_a_real_droid_episode_is_read() -> None:
    with pytest.raises(DatasetError, match=r'camera wrist: .* does not exist.*; camera exterior_1: .*'):
        Dataset.open(REAL / 'droid_lerobot_example')
    real = Dataset.open(REAL / 'droid_lerobot_example', blank_cameras=('wrist', 'exterior_1'), width=160)
    assert len(real) == 722 and real.info.robot_type == 'panda'
    sample = real.sample(400, horizon=32)
    # DROID's arm is where its last command sent it, to within what it moves in two rows.
    assert np.abs(sample.state[:7] - real.tables.action[398:401, :7]).min(axis=0).max() < 0.05
    assert sample.actions.shape == (32, 8) and not sample.is_pad.any()
    assert sample.actions[:, 7].min() >= 0.0 and sample.actions[:, 7].max() <= 1.0


@pytest.mark.parametrize('name', ['bridge', 'umi'])
def test_other_robots_are_refused(name: str) -> None:
    root = REAL / f'{name}_lerobot_example'
    if not root.is_dir():
        pytest.skip('no real episodes beside the checkout')
    with pytest.raises(DatasetError, match=r'robot_type .* arrived, one of panda'):
        Dataset.open(root)
