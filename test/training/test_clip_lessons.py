"""What a clip is shown as and asked: one set of pictures, cropped with everything that is said about them."""

from collections import Counter
from dataclasses import replace
import json

import numpy as np
import pytest
from synthetic_clips import SETTINGS, make_clips

from cosmos3_ros.reasoner.questions import PromptBook
from cosmos3_ros.training.clip_lessons import Lesson, LessonPlan, is_decided
from cosmos3_ros.training.clip_samples import Examiner
from cosmos3_ros.training.objective import Batch
from cosmos3_ros.training.picture_crops import Crop, crop_objects, crop_report
from cosmos3_ros.training.scene_facts_questions import question_kind

COUNT = 64


def draw(smallest_crop=1.0, *, clips=None, step=0, part=0, seed=1, count=COUNT, **changed):
    clips, settings = clips or make_clips(), replace(SETTINGS, **changed)
    plan = LessonPlan([clips], Examiner(PromptBook.load(), settings), settings, seed)
    batch = Batch(step, part, tuple((0, i % len(clips)) for i in range(count)))
    return clips, plan.draw(batch, [np.arange(len(clips))], smallest_crop)


@pytest.mark.parametrize('share', [0.0, 0.25, 0.5, 1.0])
def test_as_many_reports_in_every_step_and_facts_of_every_clip(share):
    for step in range(3):
        _, lessons = draw(scene_share=share, facts_per_clip=2, step=step)
        kinds = [[bool(asked.dimension) for asked in lesson.asked] for lesson in lessons]
        assert sum(kind.count(False) for kind in kinds) == share * COUNT
        assert all(kind[-2:] == [True, True] and len(kind) <= 3 for kind in kinds)


@pytest.mark.parametrize('size', [1, 3])
def test_small_forwards_have_their_share_of_reports_in_the_long_run(size):
    reports = sum(not asked.dimension for step in range(300) for lesson in draw(
        scene_share=0.4, step=step, count=size)[1] for asked in lesson.asked)
    assert reports / (300 * size) == pytest.approx(0.4, abs=0.08)


def test_no_fact_is_asked_twice_of_a_clip():
    _, lessons = draw(facts_per_clip=20)
    for lesson in lessons:
        keys = [asked.key for asked in lesson.asked if asked.dimension]
        assert sorted(keys) == ['open', 'supported']


def test_reports_and_things_are_those_of_what_is_shown():
    clips, lessons = draw(0.5)
    assert not all(lesson.is_whole for lesson in lessons)
    for lesson in lessons:
        truth = json.loads(clips.things[lesson.anchor])
        assert set(lesson.crops) == set(lesson.things) == set(SETTINGS.cameras)
        for slot, crop in lesson.crops.items():
            assert lesson.things[slot] == crop_objects(truth[slot], crop)
        for asked in lesson.asked:
            if not asked.dimension:
                assert json.loads(asked.answer) == json.loads(
                    crop_report(clips.reports[lesson.anchor], lesson.crops['exterior_1']))


def test_other_cameras_than_the_first_are_cropped_a_quarter():
    _, lessons = draw(0.5)
    assert min(lesson.crops['exterior_1'].size for lesson in lessons) < 0.7
    assert 0.875 <= min(lesson.crops['wrist'].size for lesson in lessons) < 0.95


def test_whole_pictures_have_the_recording_s_own_report():
    clips, lessons = draw(scene_share=1.0)
    for lesson in lessons:
        assert lesson.is_whole and lesson.asked[0].answer == clips.reports[lesson.anchor]


def test_lessons_depend_on_seed_step_and_part_alone():
    def said(lessons):
        return [(lesson.anchor, lesson.crops, [a.answer for a in lesson.asked]) for lesson in lessons]
    assert said(draw(0.5)[1]) == said(draw(0.5)[1])
    assert said(draw(0.5)[1]) != said(draw(0.5, step=1)[1])
    assert said(draw(0.5)[1]) != said(draw(0.5, part=1)[1])
    assert said(draw(0.5)[1]) != said(draw(0.5, seed=2)[1])


def test_yes_and_no_are_balanced_within_a_kind():
    """One question of a kind is true and one is not; of another kind all five are false."""
    listed = json.dumps([
        ['nearer_red_blue', 'Geometric Reasoning', 'Is red nearer than blue?', True],
        ['nearer_blue_red', 'Geometric Reasoning', 'Is blue nearer than red?', False],
        *([f'lifted_{colour}', 'Geometric Reasoning', f'Is {colour} lifted?', False]
          for colour in ('red', 'green', 'blue', 'yellow'))])
    clips = make_clips()
    clips = replace(clips, statements=(listed,) * len(clips))
    found = Counter(
        lesson.asked[0].key for step in range(16)
        for lesson in draw(clips=clips, scene_share=0.0, step=step)[1])
    drawn = sum(found.values())
    for key in ('nearer_red_blue', 'nearer_blue_red'):
        assert found[key] / drawn == pytest.approx(0.25, abs=0.05)
    assert sum(found[f'lifted_{c}'] for c in ('red', 'green')) / drawn == pytest.approx(0.25, abs=0.05)


def test_a_kind_is_a_question_without_its_cubes():
    kinds = {'left_exterior_1_red_blue': 'left_exterior_1', 'on_circle_green': 'on_circle', 'clean': 'clean'}
    assert {key: question_kind(key) for key in kinds} == kinds


def test_facts_are_drawn_by_their_shares():
    drawn = [draw(fact_shares=(0.0, 3.0, 1.0, 5.0), scene_share=0.0, step=step)[1] for step in range(8)]
    found = Counter(lesson.asked[0].dimension for lessons in drawn for lesson in lessons)
    # The clips decide nothing about geometry.
    assert set(found) == {'Semantic Alignment', 'Physical Laws'}
    assert found['Semantic Alignment'] / sum(found.values()) == pytest.approx(0.75, abs=0.06)


def test_a_clip_that_decides_no_fact_is_asked_for_its_report_as_it_is_shown():
    clips = make_clips()
    clips = replace(clips, statements=('[]',) * len(clips))
    _, lessons = draw(0.5, clips=clips, scene_share=0.0)
    for lesson in lessons:
        asked, = lesson.asked
        assert not asked.dimension and json.loads(asked.answer) == json.loads(
            crop_report(clips.reports[lesson.anchor], lesson.crops['exterior_1']))


def cube(colour, left, right):
    return {'label': f'{colour} cube', 'bbox_2d': [left, 0, right, 100]}


@pytest.mark.parametrize(('key', 'answer', 'decided'), [
    ('left_wrist_red_blue', True, True), ('left_wrist_blue_red', False, True),
    ('left_wrist_red_blue', False, False),  # a crop has moved the middle of what it cut to the other side
    ('left_wrist_red_near', True, False), ('left_wrist_red_green', True, False),
    ('left_exterior_1_green_red', True, True), ('left_exterior_1_red_blue', True, False),
    ('held_green', True, True), ('nearer_red_green', True, True)])
def test_only_what_is_left_of_the_pictures_decides(key, answer, decided):
    things = {'wrist': [cube('red', 0, 100), cube('blue', 300, 400), cube('near', 10, 150)],
              'exterior_1': [cube('green', 0, 100), cube('red', 800, 900)]}
    assert is_decided(key, answer, things) is decided


def test_cut_off_cubes_are_not_compared():
    clips = make_clips()
    far = {'exterior_1': [{'label': 'red cube', 'bbox_2d': [0, 0, 100, 100]},
                          {'label': 'blue cube', 'bbox_2d': [900, 900, 1000, 1000]}], 'wrist': []}
    question = ['left_exterior_1_red_blue', 'Geometric Reasoning', 'Is red left of blue?', True]
    count = len(clips)
    clips = replace(clips, things=(json.dumps(far),) * count, statements=(json.dumps([question]),) * count)
    _, lessons = draw(0.5, clips=clips, scene_share=0.0)
    asked = [(len(lesson.things['exterior_1']) == 2, bool(lesson.asked[0].dimension)) for lesson in lessons]
    assert set(asked) == {(True, True), (False, False)}


def test_one_window_that_is_not_all_is_enough_not_to_be_whole():
    crops = {'exterior_1': Crop(), 'wrist': Crop()}
    assert Lesson(0, 0, crops, {}, ()).is_whole
    assert not Lesson(0, 0, {**crops, 'wrist': Crop(size=0.9)}, {}, ()).is_whole
