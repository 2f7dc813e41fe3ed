"""Recorded episodes: plans, rollouts, resuming, and the format on disk."""

from collections import Counter
from itertools import pairwise
import json
from pathlib import Path
import shutil

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cosmos3_ros.cli.main import main
from cosmos3_ros.sim.tasks import TASKS, Goal, parse_instruction
from cosmos3_ros.sim.world import World
from cosmos3_ros.training.dataset_layout import DROID_LAYOUT
from cosmos3_ros.training.dataset_reader import Dataset
from cosmos3_ros.training.dataset_validation import check_dataset
from cosmos3_ros.training.episode_instructions import WORDINGS, word_instruction
from cosmos3_ros.training.episode_plan import FIRST_WORLD_SEED, plan_episode
from cosmos3_ros.training.episode_recorder import WORK_DIRECTORY, EpisodeRecorder
from cosmos3_ros.training.episode_rollout import EpisodeRunner
from cosmos3_ros.training.episode_settings import RecordingSettings
from cosmos3_ros.training.episode_worker import EpisodeWorker, is_demonstration
from cosmos3_ros.training.lerobot_format import DatasetError

SMALL = RecordingSettings(
    tasks=('reach',), episodes=3, seed=6, fewest_cubes=2, most_cubes=2, failure_share=0.0, anomaly_share=0.0)
OPTIONS = ['--task', 'reach', '--episodes', '3', '--seed', '6', '--set', 'fewest_cubes=2',
           '--set', 'most_cubes=2', '--set', 'failure_share=0', '--set', 'anomaly_share=0']
REAL = Path(__file__).resolve().parents[2].parent / 'shared' / 'data' / 'droid_lerobot_example'


@pytest.fixture(scope='module')
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset, recorded by two processes."""
    root = tmp_path_factory.mktemp('recorded') / 'set'
    assert [s.success for s in EpisodeRecorder(root, SMALL).record(workers=2)] == [True] * 3
    return root


def test_a_recording_is_a_sound_dataset(recorded: Path) -> None:
    report = check_dataset(recorded)
    assert report.episodes == 3 and report.facts == report.frames and report.tasks >= 2
    assert report.cameras == dict.fromkeys(DROID_LAYOUT.cameras, '160x90')
    assert not (recorded / WORK_DIRECTORY).exists()


def test_an_interrupted_recording_goes_on_and_ends_the_same(recorded: Path, tmp_path: Path) -> None:
    root = tmp_path / 'again'
    work = root / WORK_DIRECTORY
    work.mkdir(parents=True)
    (work / 'settings.json').write_text(SMALL.to_json())
    worker = EpisodeWorker(SMALL)
    worker.record(1, work / 'episode-000001')
    worker.close()
    # What a killed process leaves: an episode without a summary under its final name, another half done.
    (work / 'episode-000002').mkdir()
    (work / 'episode-000002' / 'wrist.mp4').write_bytes(b'half')
    (work / '.episode-000000.17').mkdir()
    recorder = EpisodeRecorder(root, SMALL)
    assert [s.index for s in recorder.finished()] == [1] and not recorder.is_complete
    assert sorted(s.index for s in recorder.record(workers=1)) == [0, 2]
    assert recorder.is_complete and list(recorder.record(workers=1)) == []
    files = sorted(p.relative_to(recorded) for p in recorded.rglob('*') if p.is_file())
    assert files == sorted(p.relative_to(root) for p in root.rglob('*') if p.is_file())
    for file in files:
        assert (root / file).read_bytes() == (recorded / file).read_bytes(), file


@pytest.mark.parametrize(('cut', 'message'), [
    (False, 'facts: nothing about episode 1, frame 0'), (True, r'facts/.*parquet cannot be read')])
def test_damaged_facts_are_refused(recorded: Path, tmp_path: Path, cut: bool, message: str) -> None:
    root = tmp_path / 'damaged'
    shutil.copytree(recorded, root)
    path = root / 'facts/chunk-000/file-000.parquet'
    if cut:
        path.write_bytes(path.read_bytes()[:-100])
    else:
        table = pq.read_table(path)
        pq.write_table(table.filter(pc.not_equal(table['episode_index'], 1)), path)
    with pytest.raises(DatasetError, match=message):
        check_dataset(root)


def test_other_settings_or_another_directory_are_refused(recorded: Path, tmp_path: Path) -> None:
    other = RecordingSettings(**{**json.loads(SMALL.to_json()), 'tasks': ('reach',), 'seed': 7})
    with pytest.raises(DatasetError, match=r'another seed \(6\); give the same, or another directory'):
        EpisodeRecorder(recorded, other)
    (tmp_path / 'letter').write_text('dear')
    with pytest.raises(DatasetError, match='holds something else'):
        EpisodeRecorder(tmp_path, SMALL)


def test_the_command_records_checks_and_says_what_is_wrong(
        recorded: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(['sim', 'record', '--out', str(recorded), *OPTIONS, '--json']) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result['episodes'], result['expert_success_share'], result['tasks']) == (3, 1.0, {'reach': 3})
    assert main(['sim', 'check', str(recorded), '--json']) == 0
    assert json.loads(capsys.readouterr().out)['samples'] == len(Dataset.open(recorded))
    assert main(['sim', 'check', str(tmp_path), '--json']) == 1
    assert 'info.json does not exist' in json.loads(capsys.readouterr().out)['error']
    assert main(['sim', 'record', '--out', str(tmp_path / 'x'), '--set', 'width=100', '--json']) == 1
    assert 'width: 100 arrived, a multiple of 32' in json.loads(capsys.readouterr().out)['error']
    assert main(['sim', 'record', '--out', str(tmp_path / 'x'), '--set', 'speed=1', '--json']) == 1
    assert 'NAME=VALUE with one of' in json.loads(capsys.readouterr().out)['error']


def test_the_layout_is_lerobots(recorded: Path) -> None:
    """Names and types that LeRobot 0.4.4's reader relies on (datasets/utils.py, lerobot_dataset.py)."""
    info = json.loads((recorded / 'meta/info.json').read_text())
    assert info['codebase_version'] == 'v3.0' and info['splits'] == {'train': '0:3'}
    assert info['data_path'] == 'data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet'
    assert info['video_path'] == 'videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4'
    data = pq.read_table(recorded / 'data/chunk-000/file-000.parquet')
    numbers = {n: f for n, f in info['features'].items() if f['dtype'] != 'video'}
    assert set(data.column_names) == set(numbers)
    arrow = {'float32': 'float', 'int64': 'int64', 'bool': 'bool'}
    for name, feature in numbers.items():
        width, kind = feature['shape'][0], arrow[feature['dtype']]
        wanted = kind if width == 1 else f'fixed_size_list<element: {kind}>[{width}]'
        assert str(data.schema.field(name).type) == wanted, name
    assert data['index'].to_pylist() == list(range(info['total_frames']))
    tasks = pq.read_table(recorded / 'meta/tasks.parquet')
    # LeRobot looks a task up by its place and takes the pandas index for the text.
    assert json.loads(tasks.schema.metadata[b'pandas'])['index_columns'] == ['task']
    assert tasks['task_index'].to_pylist() == list(range(info['total_tasks']))
    episodes = pq.read_table(recorded / 'meta/episodes/chunk-000/file-000.parquet').to_pylist()
    for index, row in enumerate(episodes):
        assert row['episode_index'] == index
        assert row['dataset_to_index'] - row['dataset_from_index'] == row['length']
        for key in DROID_LAYOUT.cameras.values():
            span = row[f'videos/{key}/to_timestamp'] - row[f'videos/{key}/from_timestamp']
            # LeRobot seeks from_timestamp + timestamp, to 1e-4 s.
            assert span == pytest.approx(row['length'] / 15, abs=1e-4)
    statistics = json.loads((recorded / 'meta/stats.json').read_text())
    assert set(statistics) == set(info['features'])
    for name, found in statistics.items():
        assert set(found) == {'min', 'max', 'mean', 'std', 'count', 'q01', 'q10', 'q50', 'q90', 'q99'}
        video = info['features'][name]['dtype'] == 'video'
        assert np.shape(found['mean']) == ((3, 1, 1) if video else tuple(info['features'][name]['shape']))
        order = [np.asarray(found[key]) for key in ('min', 'q01', 'q10', 'q50', 'q90', 'q99', 'max')]
        assert all((low <= high).all() for low, high in pairwise(order)), name


@pytest.mark.skipif(not REAL.is_dir(), reason='no real DROID episode beside the checkout')
def test_the_layout_is_that_of_the_real_droid_episode(recorded: Path) -> None:
    ours, theirs = (json.loads((root / 'meta/info.json').read_text()) for root in (recorded, REAL))
    shared = set(ours) & set(theirs)
    assert shared >= {'codebase_version', 'robot_type', 'fps', 'features', 'data_path', 'video_path',
                      'splits', 'chunks_size', 'data_files_size_in_mb', 'video_files_size_in_mb',
                      'total_episodes', 'total_frames', 'total_tasks'}
    same = shared - {'features', 'splits', 'total_episodes', 'total_frames', 'total_tasks'}
    assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}
    for name, feature in theirs['features'].items():
        if name == 'observation.state.cartesian_position':
            continue
        mine = ours['features'][name]
        assert mine['dtype'] == feature['dtype'] and len(mine['shape']) == len(feature['shape'])
        if feature['dtype'] == 'video':
            assert set(mine['info']) == set(feature['info'])
        else:
            assert mine == feature
    columns = [set(pq.read_schema(root / 'meta/episodes/chunk-000/file-000.parquet').names)
               for root in (recorded, REAL)]
    assert columns[1] <= columns[0]


def test_the_arm_goes_where_the_rows_say(recorded: Path) -> None:
    dataset = Dataset.open(recorded)
    for span in dataset.tables.episodes:
        state, action = (a[span.start:span.stop] for a in (dataset.tables.state, dataset.tables.action))
        # Noise of 2.5 sigma, a lag of 0.08 s at up to 0.6 rad/s, and the servo.
        assert np.abs(state[1:, :7] - action[:-1, :7]).max() < 2.5 * SMALL.noise_rad + 0.08 * 0.6 + 0.01
        assert np.abs(np.diff(action[:, :7], axis=0)).max() < 0.12


@settings(max_examples=80, deadline=None)
@given(task=st.sampled_from(TASKS), colour=st.sampled_from(('red', 'green', 'blue', 'yellow')),
       seed=st.integers(0, 2**32))
def test_every_wording_is_understood(task: str, colour: str, seed: int) -> None:
    goal = Goal(task, colour)
    assert parse_instruction(word_instruction(goal, np.random.default_rng(seed))) == goal
    for wording in WORDINGS[task]:
        assert parse_instruction(wording.format(colour=colour)) == goal


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), index=st.integers(0, 10**6))
def test_a_plan_is_a_function_of_seed_and_number(seed: int, index: int) -> None:
    asked = RecordingSettings(seed=seed)
    plan = plan_episode(asked, index)
    assert plan == plan_episode(asked, index) and plan != plan_episode(asked, index + 3)
    assert plan.world_seed >= FIRST_WORLD_SEED and plan.task == TASKS[index % 3]
    assert 2 <= len(plan.cubes) <= 4 and not (plan.failure and (plan.anomaly or plan.disturbances))
    json.dumps(plan.to_document(), allow_nan=False)


def test_the_shares_are_those_asked_for() -> None:
    asked = RecordingSettings(failure_share=0.2, anomaly_share=0.3)
    plans = [plan_episode(asked, i) for i in range(2000)]
    # Five standard deviations of a binomial.
    failures, anomalies = (sum(bool(fate) for fate in fates) for fates in (
        [p.failure for p in plans], [p.anomaly for p in plans]))
    for share, count in ((0.2, failures), (0.3, anomalies)):
        assert abs(count - 2000 * share) < 5 * (2000 * share * (1 - share))**0.5
    assert set(Counter(p.failure for p in plans)) == {'', 'wrong_cube', 'gives_up', 'drops', 'misses'}


@pytest.mark.parametrize(('change', 'message'), [
    ({'tasks': ('dance',)}, r"tasks: \['dance'\] arrived"), ({'tasks': ()}, r'tasks: \[\] arrived'),
    ({'episodes': 0}, 'episodes: 0 arrived, 1 to'), ({'width': 100}, 'multiple of 32'),
    ({'seed': -1}, 'seed: -1 arrived'),
    ({'fewest_cubes': 3, 'most_cubes': 2}, 'most_cubes: 2 arrived, 3 to 4'),
    ({'failure_share': 0.7, 'anomaly_share': 0.7}, 'at most 1 together'),
    ({'noise_rad': float('nan')}, 'noise_rad: nan arrived')])
def test_settings_are_checked(change: dict, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        RecordingSettings(**change)


@pytest.fixture(scope='module')
def fates() -> dict[str, tuple]:
    """A disturbed episode, and one of each way to fail, from small recordings' plans."""
    found: dict[str, tuple] = {}
    world: dict[tuple[str, ...], World] = {}
    asked = RecordingSettings(tasks=('reach',), failure_share=0.5, anomaly_share=0.0, disturbances=1.0)
    for index in range(100):
        plan = plan_episode(asked, index)
        early = plan.disturbances and plan.disturbances[0].frame < 12
        fate = plan.failure or ('disturbed' if early else '')
        if fate and fate not in found:
            if plan.cubes not in world:
                world[plan.cubes] = World(asked.simulation(plan.cubes))
            found[fate] = plan, EpisodeRunner(world[plan.cubes]).run(plan)
        if len(found) == 3:
            break
    return found


def test_a_disturbed_arm_comes_back(fates: dict[str, tuple]) -> None:
    plan, trace = fates['disturbed']
    taught = is_demonstration(plan, trace)
    first = plan.disturbances[0].frame
    assert trace.success and taught[:first].all() and not taught[first] and taught[-1]
    led = np.flatnonzero(~taught)
    assert plan.disturbances[0].frames <= len(led) <= sum(d.frames for d in plan.disturbances)


@pytest.mark.parametrize('fate', ['wrong_cube', 'gives_up'])
def test_a_failure_shows_and_teaches_nothing(fates: dict[str, tuple], fate: str) -> None:
    plan, trace = fates[fate]
    assert not trace.success and not is_demonstration(plan, trace).any()
    failed = [frame.failed for frame in trace.frames]
    # It does not begin as a failure, and stays one.
    assert not failed[0] and failed[-1] and failed == sorted(failed)


def test_processes_share_the_gpus_that_are_named():
    from cosmos3_ros.training.episode_worker import share_renderers

    chosen = []
    for number in range(1, 5):
        environment = {'MUJOCO_EGL_DEVICE_ID': '0,1'}
        share_renderers(environment, (number,))
        chosen.append(environment['MUJOCO_EGL_DEVICE_ID'])
    assert sorted(chosen) == ['0', '0', '1', '1']
    one = {'MUJOCO_EGL_DEVICE_ID': '1'}
    share_renderers(one, (3,))
    assert one == {'MUJOCO_EGL_DEVICE_ID': '1'}


def test_without_facts_the_same_pictures_are_drawn(tmp_path):
    """The policy's half of a recording does not depend on whether the reasoner's is written."""
    from cosmos3_ros.training.dataset_reader import Dataset
    from cosmos3_ros.training.episode_recorder import EpisodeRecorder
    from cosmos3_ros.training.episode_settings import RecordingSettings

    opened = []
    for facts in (True, False):
        root = tmp_path / str(facts)
        wanted = RecordingSettings(
            tasks=('reach',), episodes=1, seed=3, facts=facts, anomaly_share=0.0, failure_share=0.0)
        list(EpisodeRecorder(root, wanted).record(1))
        opened.append(Dataset.open(root))
    told, untold = opened
    assert told.facts(0, 0) is not None and untold.facts(0, 0) is None
    assert np.array_equal(told.pictures(0, 'wrist'), untold.pictures(0, 'wrist'))
    assert np.array_equal(told.tables.action, untold.tables.action)
