"""Alternatives: other instructions from the same moment, beside the dataset and in the first lesson."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_recordings import make_recording
import torch

from cosmos3_ros.generator.composed_view import View
from cosmos3_ros.sim.expert import Expert
from cosmos3_ros.sim.tasks import TASKS, Goal, parse_instruction
from cosmos3_ros.sim.world import World
from cosmos3_ros.training.dataset_alternatives import Alternatives, read_alternatives
from cosmos3_ros.training.dataset_reader import Dataset
from cosmos3_ros.training.dataset_validation import check_dataset
from cosmos3_ros.training.episode_alternatives import AlternativeRunner, other_goals
from cosmos3_ros.training.episode_plan import EpisodePlan, plan_episode
from cosmos3_ros.training.episode_recorder import EpisodeRecorder
from cosmos3_ros.training.episode_rollout import EpisodeRunner
from cosmos3_ros.training.episode_settings import RATE_HZ, RecordingSettings
from cosmos3_ros.training.latent_windows import encode_windows
from cosmos3_ros.training.lerobot_format import DatasetError
from cosmos3_ros.training.recording import Recording

ROW_NS = round(1e9 / RATE_HZ)
CUBES = ('red', 'green', 'blue')
SMALL = RecordingSettings(
    tasks=('reach',), episodes=2, seed=6, fewest_cubes=3, most_cubes=3, failure_share=0.0, anomaly_share=0.0,
    facts=False, alternatives=2, alternatives_every=8)
FILE = 'alternatives/chunk-000/file-000.parquet'


def plan_of(task: str, failure_share: float = 0.0) -> EpisodePlan:
    """Return the plan of an episode with three cubes."""
    return plan_episode(RecordingSettings(
        tasks=(task,), episodes=1, seed=3, fewest_cubes=3, most_cubes=3, failure_share=failure_share,
        anomaly_share=0.0), 0)


@pytest.fixture(scope='module')
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset with alternatives."""
    root = tmp_path_factory.mktemp('alternatives') / 'set'
    assert [s.success for s in EpisodeRecorder(root, SMALL).record(workers=1)] == [True] * 2
    return root


@pytest.fixture(scope='module')
def scene() -> World:
    """A world of three cubes."""
    return World(RecordingSettings().simulation(CUBES))


@given(goal=st.builds(Goal, st.sampled_from(TASKS), st.sampled_from(CUBES)), seed=st.integers(0, 2**32 - 1),
       tasks=st.sets(st.sampled_from(TASKS)))
@settings(max_examples=40, deadline=None)
def test_what_else_could_be_asked_for_is_distinct_and_never_the_same(
        scene: World, goal: Goal, seed: int, tasks: set[str]) -> None:
    scene.reset('reach', seed)
    before = scene.snapshot()
    found = other_goals(scene, goal, tuple(tasks))
    assert goal not in found and len(set(found)) == len(found)
    assert {other.task for other in found} <= tasks
    for task in tasks - {'push'}:
        asked = {other.colour for other in found if other.task == task}
        assert asked == set(CUBES) - ({goal.colour} if task == goal.task else set())
    assert np.array_equal(scene.snapshot().qpos, before.qpos)


def put(world: World, zone: tuple[float, float], **cubes: tuple[float, float]) -> None:
    """Place the zone and all cubes of a world."""
    state = world.snapshot()
    qpos = state.qpos.copy()
    for colour, place in cubes.items():
        at = world.scene.cube_qpos[colour]
        qpos[at:at + 2] = place
    world.restore(replace(state, qpos=qpos, zone_xy=np.array(zone)))


@pytest.mark.parametrize(('cubes', 'pushed'), [
    # All beside each other, the zone straight ahead of the red one.
    ({'red': (0.45, 0.0), 'green': (0.45, 0.2), 'blue': (0.45, -0.2)}, {'red', 'green', 'blue'}),
    # Blue stands in red's way, but beside the others'.
    ({'red': (0.4, 0.0), 'green': (0.6, 0.2), 'blue': (0.52, -0.04)}, {'green', 'blue'}),
    # Blue stands where the arm would go down behind red; its own way leads through red.
    ({'red': (0.5, 0.0), 'green': (0.45, 0.2), 'blue': (0.41, 0.01)}, {'green'}),
    # Behind red the arm would be too near to the base.
    ({'red': (0.38, 0.0), 'green': (0.45, 0.2), 'blue': (0.45, -0.2)}, {'green', 'blue'}),
    # Around the zone, none in the way of another.
    ({'red': (0.6, 0.15), 'green': (0.45, 0.1), 'blue': (0.45, -0.15)}, {'red', 'green', 'blue'})])
def test_a_push_is_asked_for_where_its_way_is_free(
        scene: World, cubes: dict[str, tuple[float, float]], pushed: set[str]) -> None:
    scene.reset('reach', 1)
    put(scene, (0.6, 0.0), **cubes)
    found = other_goals(scene, Goal('reach', 'red'), TASKS)
    assert {other.colour for other in found if other.task == 'push'} == pushed
    assert Goal('pick_place', 'red') in found and Goal('reach', 'blue') in found
    others = other_goals(scene, Goal('push', 'green'), ('push',))
    assert {other.colour for other in others} == pushed - {'green'}


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_the_push_that_a_scene_was_made_for_is_possible_in_it(scene: World, seed: int) -> None:
    goal = scene.reset('push', seed)
    assert goal in other_goals(scene, Goal('reach', goal.colour), TASKS)


@pytest.mark.parametrize('task', TASKS)
def test_alternatives_leave_the_episode_as_it_is(task: str) -> None:
    plan = plan_of(task)
    config = RecordingSettings().simulation(plan.cubes)
    plain = EpisodeRunner(World(config)).run(plan)
    branched = EpisodeRunner(World(config), AlternativeRunner(config, TASKS, 3, 8)).run(plan)
    assert not plain.alternatives and branched.alternatives
    assert len(plain.frames) == len(branched.frames)
    for one, other in zip(plain.frames, branched.frames, strict=True):
        assert np.array_equal(one.qpos, other.qpos) and np.array_equal(one.action, other.action)
    at = [a.frame for a in branched.alternatives]
    assert at == sorted(at) and all(frame % 8 == 0 for frame in at) and at[0] == 0
    assert max(np.bincount(at)) == 3
    for alternative in branched.alternatives:
        frame = branched.frames[alternative.frame]
        assert parse_instruction(alternative.instruction) != branched.goal
        assert alternative.rows.shape == (32, 8)
        # No farther from the measured state than the episode's own row could be.
        assert np.abs(alternative.rows[0, :7] - frame.state[:7]).max() < 0.12


def test_an_alternative_leads_to_the_cube_that_it_names() -> None:
    world = World(RecordingSettings().simulation(('red', 'green', 'blue')))
    goal = world.reset('reach', 12)
    memory = Expert(1.0 / RATE_HZ).begin(world, goal)
    snapshot = world.snapshot()
    runner = AlternativeRunner(world.config, ('reach',), 7, 1)
    found = runner.branch(0, world, goal, memory, seed=5)
    asked = {parse_instruction(a.instruction).colour for a in found}
    assert asked == {'red', 'green', 'blue'} - {goal.colour}
    for alternative in found:
        world.restore(snapshot)
        last = memory.joints
        for row in alternative.rows:
            world.track(last, row[:7], row[7], ROW_NS)
            last = row[:7]
        cube = world.cube_pose(parse_instruction(alternative.instruction).colour)
        assert np.linalg.norm(world.tcp[:2] - cube[:2]) < 0.03
    world.restore(snapshot)
    again = runner.branch(0, world, goal, memory, seed=5)
    assert all(np.array_equal(a.rows, b.rows) and a.instruction == b.instruction
               for a, b in zip(found, again, strict=True))


def test_an_episode_that_fails_has_none() -> None:
    plan = plan_of('reach', failure_share=1.0)
    config = RecordingSettings().simulation(plan.cubes)
    assert not EpisodeRunner(World(config), AlternativeRunner(config, TASKS, 3, 8)).run(plan).alternatives


def test_they_lie_beside_the_dataset(recorded: Path) -> None:
    report = check_dataset(recorded)
    dataset = Dataset.open(recorded)
    found = read_alternatives(recorded, tuple(dataset.tables.episodes))
    assert found is not None and len(found) == len(found.text_index) == report.alternatives > 8
    assert {parse_instruction(text).task for text in found.texts} == {'reach'}
    gap = np.abs(found.action[:, 0, :7] - dataset.tables.state[found.start, :7])
    assert gap.max() < 0.12
    assert read_alternatives(recorded / 'meta', ()) is None


def _spoiled(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    values = table['action'].to_pylist()
    yield 'row 1: instruction is None, a sentence is needed', table.set_column(
        table.column_names.index('instruction'), 'instruction',
        pa.array(['wait', None, *table['instruction'].to_pylist()[2:]], pa.string()))
    yield 'column instruction is missing', table.drop_columns(['instruction'])
    yield 'row 0: frame 100000 of episode 0 is not in the dataset', table.set_column(
        table.column_names.index('frame_index'), 'frame_index',
        pa.array([100_000, *table['frame_index'].to_pylist()[1:]], pa.int64()))
    place = table.column_names.index('action')
    short = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(8 * len(values), np.float32)), 8)
    yield "row 0: 'action' has 8 numbers, 256 are allowed", table.set_column(
        place, 'action', short)
    broken = np.array(values, np.float32)
    broken[3, 7] = np.nan
    yield r"row 3: 'action'\[7\] is nan, finite numbers are allowed", table.set_column(
        place, 'action', pa.FixedSizeListArray.from_arrays(pa.array(broken.ravel()), 256))


def test_what_cannot_be_used_is_refused_with_file_and_row(recorded: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(recorded)
    path = tmp_path / FILE
    path.parent.mkdir(parents=True)
    cases = list(_spoiled(pq.read_table(recorded / FILE)))
    assert len(cases) == 5
    for message, table in cases:
        pq.write_table(table, path)
        with pytest.raises(DatasetError, match=message):
            read_alternatives(tmp_path, tuple(dataset.tables.episodes))
    path.write_bytes((recorded / FILE).read_bytes()[:-50])
    with pytest.raises(DatasetError, match='cannot be read'):
        read_alternatives(tmp_path, tuple(dataset.tables.episodes))


def test_they_follow_the_windows_of_their_own_split(synthetic: Recording) -> None:
    others = synthetic.alternatives
    assert others is not None
    train, held = (synthetic.chosen_alternatives(0.25, held_out=held) for held in (False, True))
    assert sorted([*train, *held]) == list(range(len(others)))
    assert (synthetic.episode[others.start[train]] < 3).all()
    assert (synthetic.episode[others.start[held]] == 3).all()


def test_encoded_they_show_their_frame_state_rows_and_text(synthetic: Recording) -> None:
    class Pixels:
        """Encodes a clip as the mean of its picture."""

        def encode(self, clips: torch.Tensor, _looks: object = None) -> torch.Tensor:
            return clips.float().mean(dim=(1, 2, 3, 4)).view(-1, 1, 1, 1, 1)

    others = synthetic.alternatives
    assert others is not None
    starts, chosen = np.array([0, 5]), np.array([1, 3])
    view = View.of(54, 64)
    windows = encode_windows(
        synthetic, starts, Pixels(), view, 'cpu', 'cpu', frames=1, alternatives=chosen)  # type: ignore[arg-type]
    assert len(windows) == 4
    for place, number in enumerate(chosen, start=2):
        frame = int(others.start[number])
        assert np.array_equal(windows.rows[place, 0].numpy(), synthetic.state[frame])
        assert np.array_equal(windows.rows[place, 1:].numpy(), others.action[number])
        assert windows.texts[windows.text_index[place]] == others.texts[others.text_index[number]]
        alone = encode_windows(
            synthetic, np.array([frame]), Pixels(), view, 'cpu', 'cpu', frames=1)  # type: ignore[arg-type]
        assert torch.equal(windows.latents[place], alone.latents[0])
    assert not windows.past[2:].any() and not windows.unknown[2:].any()
    with pytest.raises(ValueError, match='33 arrived, 1 is allowed'):
        encode_windows(
            synthetic, starts, Pixels(), view, 'cpu', 'cpu', alternatives=chosen)  # type: ignore[arg-type]


@pytest.fixture(scope='module')
def synthetic() -> Recording:
    """Four episodes in memory with an alternative in each."""
    random = np.random.default_rng(1)
    return replace(make_recording(), alternatives=Alternatives(
        start=np.array([3, 50, 90, 130]), action=random.normal(size=(4, 32, 8)).astype(np.float32),
        text_index=np.array([0, 1, 1, 0]), texts=('wait', 'go up')))
