"""Facts against geometry, the reasoner's own parser, and the anomalies that make them false."""

from collections import Counter
from dataclasses import replace
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import mujoco
import numpy as np
import pytest

from cosmos3_ros.contracts import Plausibility, TaskState
from cosmos3_ros.generator.composed_view import View, compose_view
from cosmos3_ros.reasoner.questions import PromptBook
from cosmos3_ros.reasoner.scene_answer import SCENE_KEYS, read_scene
from cosmos3_ros.sim.configuration import CAMERA_SLOTS
from cosmos3_ros.sim.randomization import Randomizer
from cosmos3_ros.sim.renderer import Renderer
from cosmos3_ros.sim.scene import CUBE_HALF_M
from cosmos3_ros.sim.world import World
from cosmos3_ros.training.clip_samples import describe_clip
from cosmos3_ros.training.dataset_videos import scale_down
from cosmos3_ros.training.episode_pictures import DrawnFrame, EpisodePainter
from cosmos3_ros.training.episode_plan import CAMERA_ANOMALIES, CUBE_ANOMALIES, Anomaly, EpisodePlan
from cosmos3_ros.training.episode_rollout import EpisodeRunner
from cosmos3_ros.training.episode_settings import RecordingSettings
from cosmos3_ros.training.episode_trace import EpisodeTrace
from cosmos3_ros.training.lerobot_format import DatasetError
from cosmos3_ros.training.scene_facts import FrameFacts
from cosmos3_ros.training.scene_facts_questions import (
    Dimension,
    draw_questions,
    list_statements,
    state_truths,
)
from cosmos3_ros.training.scene_facts_report import list_hazards, report_document, report_json
from cosmos3_ros.training.settings import OptimiserSettings, ReasonerSettings

SETTINGS = RecordingSettings()
CUBES = ('red', 'green', 'blue')
SHIFT = {'floats': (0.0, 0.0, 0.12), 'jumps': (0.0, 0.12, 0.0), 'vanishes': (0.0, 0.0, 0.0)}


def plan(anomaly: Anomaly | None = None, task: str = 'pick_place') -> EpisodePlan:
    return EpisodePlan(
        index=0, task=task, cubes=CUBES, world_seed=1_000_123, noise_seed=5, noise_rad=0.0, lag_s=0.0,
        disturbances=(), failure='', failure_frame=0, anomaly=anomaly, tail=4)


@pytest.fixture(scope='module')
def world() -> World:
    return World(SETTINGS.simulation(CUBES))


@pytest.fixture(scope='module')
def trace(world: World) -> EpisodeTrace:
    return EpisodeRunner(world).run(plan())


@pytest.fixture(scope='module')
def painter(world: World) -> EpisodePainter:
    return EpisodePainter(world, SETTINGS.width)


@pytest.fixture(scope='module')
def drawn(trace: EpisodeTrace, painter: EpisodePainter) -> list[DrawnFrame]:
    """Every fifth frame of the whole task."""
    return list(painter.draw(plan(), replace(trace, frames=trace.frames[::5])))


def facts_with(trace: EpisodeTrace, painter: EpisodePainter, kind: str, subject: str) -> list[DrawnFrame]:
    """Twelve frames of the beginning, frames 4 to 7 wrong."""
    wrong = Anomaly(kind, subject, 4.01 / 12, 4, SHIFT.get(kind, (0.0, 0.0, 0.0)))
    return list(painter.draw(plan(wrong), replace(trace, frames=trace.frames[:24:2])))


def project_cube(model: Any, data: Any, camera: int, pose: np.ndarray) -> tuple[float, ...]:
    """Box of a cube's eight corners through the pinhole formula, as fractions of the picture."""
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, pose[3:])
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * CUBE_HALF_M
    seen = (pose[:3] + corners @ rotation.reshape(3, 3).T - data.cam_xpos[camera]) @ data.cam_xmat[
        camera].reshape(3, 3)
    focal = 0.5 / np.tan(np.radians(model.cam_fovy[camera]) / 2)
    u, v = 0.5 + focal * seen[:, 0] / -seen[:, 2] * 9 / 16, 0.5 - focal * seen[:, 1] / -seen[:, 2]
    return tuple(float(np.clip(edge, 0.0, 1.0)) for edge in (u.min(), v.min(), u.max(), v.max()))


def test_boxes_are_what_geometry_says(world: World, trace: EpisodeTrace, drawn: list[DrawnFrame]) -> None:
    """No box is larger than the projected cube, and where nothing hides a cube it is as large."""
    model, overlaps = world.scene.model, {slot: [] for slot in CAMERA_SLOTS}
    # The painter has moved the model's cameras as the plan's seed says.
    data = mujoco.MjData(model)
    pixel = np.array([1 / 320, 1 / 180])
    for frame, picture in zip(trace.frames[::5], drawn, strict=True):
        data.qpos[:] = frame.qpos
        mujoco.mj_kinematics(model, data)
        mujoco.mj_camlight(model, data)
        for thing in picture.facts.objects:
            if thing.colour:
                start = world.scene.cube_qpos[thing.colour]
                whole = np.array(project_cube(
                    model, data, model.camera(thing.camera).id, frame.qpos[start:start + 7]))
                box = np.array(thing.box)
                assert (box[:2] >= whole[:2] - pixel).all() and (box[2:] <= whole[2:] + pixel).all(), thing
                overlaps[thing.camera].append(np.prod(box[2:] - box[:2]) / np.prod(whole[2:] - whole[:2]))
    for slot, shares in overlaps.items():
        assert len(shares) >= 20 and np.median(shares) > 0.85, slot


def test_the_story_of_a_task(drawn: list[DrawnFrame]) -> None:
    facts = [frame.facts for frame in drawn]
    held = [bool(f.held) for f in facts]
    assert not held[0] and not held[-1] and any(held) and all(f.held in ('', f.target) for f in facts)
    assert [f.task_state for f in facts] == sorted((f.task_state for f in facts), reverse=True)
    assert facts[0].task_state == 'in_progress' and facts[-1].task_state == 'done'
    assert facts[0].progress < 0.1 and facts[-1].progress == 1.0
    for frame in facts:
        if frame.held and frame.doing == 'carry':
            assert frame.statements[f'held_{frame.target}'] and frame.statements[f'lifted_{frame.target}']
    assert facts[-1].statements[f'on_circle_{facts[-1].target}'] and facts[-1].statements['done']
    assert not any(f.unsupported or f.jumped or f.vanished for f in facts)


def test_facts_survive_their_json(drawn: list[DrawnFrame]) -> None:
    for frame in drawn[::4]:
        assert FrameFacts.from_json(frame.facts.to_json()) == frame.facts


@pytest.mark.parametrize('text', ['', '{', '[]', '{"objects": []}', 'null'])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(DatasetError, match='facts: not what this version writes'):
        FrameFacts.from_json(text)


@pytest.mark.parametrize(('change', 'message'), [
    ({'doing': 'dance'}, "doing 'dance' arrived, one of approach"),
    ({'task_state': 'unknown'}, "task_state 'unknown' arrived, one of in_progress, done, failed"),
    ({'progress': 1.5}, 'progress 1.5'), ({'pictures': {'wrist': 'pretty'}}, "picture 'pretty' arrived")])
def test_facts_are_checked(drawn: list[DrawnFrame], change: dict, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        replace(drawn[0].facts, **change)


def test_the_reasoner_reads_the_report_without_a_problem(drawn: list[DrawnFrame]) -> None:
    sizes = {slot: frame.shape[:2] for slot, frame in drawn[0].pictures.items()}
    for end in range(1, len(drawn), 3):
        clip = [frame.facts for frame in drawn[max(0, end - 4):end]]
        answer = read_scene(report_json(clip, CAMERA_SLOTS), sizes)
        assert answer.parsed, answer.problems
        assert answer.task_state is TaskState[clip[-1].task_state.upper()]
        assert answer.plausibility is Plausibility.POSSIBLE and answer.hazards == ()
        for read, thing in zip(answer.objects, clip[-1].objects, strict=True):
            assert (read.label, read.camera) == (thing.label, thing.camera)
            np.testing.assert_allclose(read.box_normalized, thing.box, atol=6e-4)
            height, width = sizes[thing.camera]
            np.testing.assert_allclose(read.box_px, thing.box_px(width, height), atol=6e-4 * width)


def test_a_clip_s_things_are_those_of_its_last_pictures_camera_by_camera(drawn: list[DrawnFrame]) -> None:
    shown = ReasonerSettings(
        OptimiserSettings(steps=1, batch=1, learning_rate=1e-3), cameras=('wrist', 'exterior_2'))
    clip = [frame.facts for frame in (drawn[0], drawn[-1])]
    report, _, things = (json.loads(text) for text in describe_clip(clip, shown))
    assert list(things) == ['wrist', 'exterior_2'] and report['objects'] == things['wrist']
    for slot, listed in things.items():
        assert [(t['label'], tuple(t['bbox_2d'])) for t in listed] == [
            (t.label, t.box_1000) for t in clip[-1].seen(slot)]
        assert [tuple(t['bbox_2d']) for t in listed] != [t.box_1000 for t in clip[0].seen(slot)]
    assert things['wrist'] != things['exterior_2']


def test_the_report_has_the_prompts_keys_in_its_order(drawn: list[DrawnFrame]) -> None:
    keys = list(report_document([drawn[0].facts], CAMERA_SLOTS))
    assert set(keys) == SCENE_KEYS
    text = PromptBook.load().prompts['scene_report'].text
    assert [text.index(f'"{key}"') for key in keys] == sorted(text.index(f'"{key}"') for key in keys)
    assert 'camera' not in json.dumps(report_document([drawn[0].facts], ['wrist'])['objects'])
    with pytest.raises(DatasetError, match='0 frames of 3 cameras arrived'):
        report_document([], CAMERA_SLOTS)


def test_statements_are_about_the_second_before(drawn: list[DrawnFrame]) -> None:
    for end in range(1, len(drawn) + 1):
        clip = [frame.facts for frame in drawn[max(0, end - 15):end]]
        assert state_truths(clip) == clip[-1].statements
        assert len({s.key for s in list_statements(clip)}) == len(list_statements(clip))
    with pytest.raises(DatasetError, match='a clip of 0 frames'):
        list_statements([])


def test_left_is_the_opposite_of_right(drawn: list[DrawnFrame]) -> None:
    pairs = 0
    for frame in drawn:
        for key, value in frame.facts.statements.items():
            kind, _, rest = key.partition('_')
            if kind in ('nearer', 'left') and rest.count('_') >= 1:
                *camera, first, second = rest.split('_')
                assert frame.facts.statements['_'.join([kind, *camera, second, first])] is not value
                pairs += 1
    assert pairs > 100


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), end=st.integers(1, 20), each=st.integers(1, 3))
def test_questions_of_every_dimension_are_drawn(
        drawn: list[DrawnFrame], seed: int, end: int, each: int) -> None:
    clip = [frame.facts for frame in drawn[:min(end, len(drawn))]]
    questions = draw_questions(clip, np.random.default_rng(seed), each)
    assert questions == draw_questions(clip, np.random.default_rng(seed), each)
    assert Counter(q.dimension for q in questions) == dict.fromkeys(Dimension, each)
    assert len({q.key for q in questions}) == len(questions)
    assert {q.key: q.answer for q in questions}.items() <= state_truths(clip).items()


def test_yes_and_no_are_equally_likely(drawn: list[DrawnFrame]) -> None:
    rng, clip = np.random.default_rng(0), [drawn[5].facts]
    for dimension in (Dimension.SEMANTIC_ALIGNMENT, Dimension.GEOMETRIC_REASONING):
        yes = sum(q.answer for _ in range(400) for q in draw_questions(clip, rng) if q.dimension is dimension)
        assert abs(yes - 200) < 5 * 10


@pytest.mark.parametrize('kind', CUBE_ANOMALIES)
def test_what_cannot_be_is_said_and_shown(kind: str, trace: EpisodeTrace, painter: EpisodePainter) -> None:
    other = next(colour for colour in CUBES if colour != trace.goal.colour)
    honest = [frame.facts for frame in painter.draw(plan(), replace(trace, frames=trace.frames[:24:2]))]
    shown = facts_with(trace, painter, kind, other)
    facts = [frame.facts for frame in shown]
    key = {'floats': 'floating', 'jumps': 'jumping', 'vanishes': 'permanent'}[kind]
    truth = [f.statements[key] for f in facts]
    # The event is remembered for the second that a statement is about.
    assert truth[:4] == [kind == 'vanishes'] * 4 and truth[4:] == [kind != 'vanishes'] * 8
    assert [f.statements['possible'] for f in facts] == [True] * 4 + [False] * 8
    assert [f.statements['supported'] for f in facts] == [True] * 4 + [kind != 'floats'] * 8
    document = report_document(facts[:5], CAMERA_SLOTS)
    assert document['plausibility'] == 'impossible' and other in document['hazards'][0]
    before, after = ({t.camera: t.box for t in f[5].objects if t.colour == other} for f in (honest, facts))
    assert before != after and (kind != 'vanishes' or not after)
    # Nothing else changes, and it all ends.
    assert honest[2].objects == facts[2].objects and honest[-1].objects == facts[-1].objects


@pytest.mark.parametrize('kind', CAMERA_ANOMALIES)
def test_a_broken_camera_is_said_and_shown(kind: str, trace: EpisodeTrace, painter: EpisodePainter) -> None:
    shown = facts_with(trace, painter, kind, 'exterior_1')
    facts = [frame.facts for frame in shown]
    assert [f.pictures['exterior_1'] for f in facts] == ['clean'] * 4 + [kind] * 4 + ['clean'] * 4
    assert all(f.pictures['wrist'] == 'clean' for f in facts)
    broken = [f.statements.get('broken') for f in facts]
    assert broken[:4] == [False] * 4 and broken[7:] == [True] * 5
    pictures = [frame.pictures['exterior_1'].astype(int) for frame in shown]
    if kind == 'frozen':
        assert all((picture == pictures[4]).all() for picture in pictures[4:8])
        assert facts[6].seen('exterior_1') == facts[4].seen('exterior_1')
    elif kind == 'black':
        assert not any(picture.any() for picture in pictures[4:8]) and not facts[5].seen('exterior_1')
    else:
        assert np.abs(pictures[5] - pictures[3]).mean() > 10 and facts[5].seen('exterior_1')
    assert list_hazards(facts[:6]) and not list_hazards(facts[:4])


def test_an_anomaly_leaves_the_tasks_own_cube_alone(trace: EpisodeTrace, painter: EpisodePainter) -> None:
    facts = [frame.facts for frame in facts_with(trace, painter, 'vanishes', trace.goal.colour)]
    gone = {colour for frame in facts for colour in frame.vanished}
    assert len(gone) == 1 and trace.goal.colour not in gone


def test_stored_pictures_compose_to_what_the_policy_sees(world: World, trace: EpisodeTrace) -> None:
    config = world.config
    renderer = Renderer(world.scene, config.image_width, config.image_height,
                        sizes={slot: config.picture_size(slot) for slot in CAMERA_SLOTS})
    try:
        full = renderer.render(trace.frames[20].qpos, trace.zone_xy)
        again, labels = renderer.render_labelled(trace.frames[20].qpos, trace.zone_xy)
    finally:
        renderer.close()
    for slot in CAMERA_SLOTS:
        np.testing.assert_array_equal(full[slot], again[slot])
        assert labels[slot].shape == (180, 320)
    view = View.of(144, 160)
    stored = {slot: scale_down(picture, 160) for slot, picture in full.items()}
    assert {picture.shape for picture in stored.values()} == {(90, 160, 3)}
    np.testing.assert_array_equal(compose_view(stored, view), compose_view(full, view))


def test_cameras_move_with_the_seed_and_come_back(world: World) -> None:
    plain = World(SETTINGS.simulation(CUBES))
    original = plain.scene.model.cam_pos.copy()
    randomizer = Randomizer(plain.scene, plain.config)
    randomizer.apply(3)
    moved = plain.scene.model.cam_pos.copy()
    randomizer.apply(4)
    assert (moved != plain.scene.model.cam_pos).any()
    randomizer.apply(3)
    np.testing.assert_array_equal(moved, plain.scene.model.cam_pos)
    assert 0.0 < np.abs(moved - original).max() <= 0.02
    still = replace(plain.config, camera_variation=0.0)
    fixed = World(still)
    Randomizer(fixed.scene, still).apply(3)
    np.testing.assert_allclose(fixed.scene.model.cam_quat, world.scene.model.cam_quat, atol=0.06)
    np.testing.assert_array_equal(fixed.scene.model.cam_pos, original)
