import json

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from cosmos3_ros.contracts import Plausibility, TaskState
from cosmos3_ros.reasoner.json_scan import (
    LONGEST_TEXT,
    NoJsonError,
    first_json,
    split_reasoning,
    without_trailing_commas,
)
from cosmos3_ros.reasoner.scene_answer import MOST_OBJECTS, SCENE_KEYS, read_scene
from cosmos3_ros.reasoner.short_answer import read_short

SIZES = {'wrist': (360, 640), 'exterior_1': (180, 320)}
GOOD = {
    'caption': 'An arm above a red cube.',
    'objects': [{'label': 'red cube', 'bbox_2d': [250, 500, 500, 1000]}],
    'next_action': 'grasp the red cube',
    'task_state': 'in_progress',
    'hazards': ['a hand is near'],
    'plausibility': 'possible',
}


def good(**changes):
    return json.dumps({**GOOD, **changes})


def without(key):
    return json.dumps({name: value for name, value in GOOD.items() if name != key})


DEEP = '[' * 3000 + ']' * 3000

# Shapes that must be read completely. Each is the text of a model's answer.
READ = {
    'bare': good(),
    'indented': json.dumps(GOOD, indent=2),
    'fenced json': f'```json\n{good()}\n```',
    'fenced plain': f'```\n{good()}\n```',
    'fence never closed': f'```json\n{good()}',
    'prose before': f'Sure! Here is the report:\n{good()}',
    'prose after': f'{good()}\nLet me know if you need more.',
    'two reports, first counts': good() + good(caption='another'),
    'reasoning before': f'<think>The arm {{moves}} [1, 2].</think>\n{good()}',
    'reasoning with a draft inside': f'<think>{good(caption="draft")}</think>{good()}',
    'reasoning opened by the template': f'It holds the cube.</think>\n{good()}',
    'braces in prose before': f'The set {{a, b}} and [see below]: {good()}',
    'a list before': f'[1] {good()}',
    'another object before': f'{{"thought": 1}} {good()}',
    'trailing commas': good().replace('"possible"}', '"possible",}').replace('1000]', '1000,]'),
    'comma and brace inside a string': good(caption='a, } and ,] "quoted" \\ text'),
    'trailing comma beside such a string': good(caption='a, }')[:-1] + ',}',
    'unknown extra key': good(confidence=0.9),
    'unicode': good(caption='Ein Würfel 立方体 🤖'),
    'escaped unicode': good(caption='\u00e9').replace('é', '\\u00e9'),
    'state with spaces and capitals': good(task_state='In Progress'),
    'plausibility as letter': good(plausibility='A'),
    'plausibility as option': good(plausibility='(A)'),
    'box as floats': good(objects=[{'label': 'red cube', 'bbox_2d': [250.0, 500.0, 5e2, 1000.0]}]),
    'carriage returns': json.dumps(GOOD, indent=2).replace('\n', '\r\n'),
    'byte order mark': '\ufeff' + good(),
}

# Shapes that must be reported, with a word that the reason must hold.
REPORTED = {
    'empty': ('', 'empty'),
    'only blanks': (' \n\t ', 'empty'),
    'prose only': ('I see a red cube on a table.', 'neither'),
    'refusal': ("I'm sorry, I can't help with that.", 'neither'),
    'cut off in a string': (good()[:40], 'not finished'),
    'cut off after the objects': (good()[: good().index('"next_action"')], 'not finished'),
    'cut off by one brace': (good()[:-1], 'not finished'),
    'cut off in a fence': ('```json\n' + good()[:90] + '\n```', 'not finished'),
    'reasoning never ends': (f'<think>I think that {good()}', 'max_new_tokens'),
    'reasoning only': ('<think>hm</think>', 'empty'),
    'single quotes': (str(GOOD), 'no complete JSON'),
    'keys unquoted': ('{caption: "x", objects: []}', 'no complete JSON'),
    'python literals': (good().replace('"possible"', 'None'), 'no complete JSON'),
    'NaN in a box': (good().replace('250', 'NaN'), 'NaN'),
    'Infinity in a box': (good().replace('250', 'Infinity'), 'Infinity'),
    'comment inside': ('{"caption": "x", // a note\n "objects": []}', 'no complete JSON'),
    'a list of reports': (f'[{good()}]', 'list'),
    'a bare string': (json.dumps('report'), 'neither'),
    'a number': ('42', 'neither'),
    'null': ('null', 'neither'),
    'unrelated object': ('{"answer": "yes"}', "'answer'"),
    'boxes only': ('[{"bbox_2d": [1, 2, 3, 4], "label": "cube"}]', 'list'),
    'nested too deeply': (DEEP, ''),
    'objects nested too deeply': (good(objects=[]).replace('[]', DEEP, 1), ''),
    'caption missing': (without('caption'), 'caption: missing'),
    'objects missing': (without('objects'), 'objects: missing'),
    'hazards missing': (without('hazards'), 'hazards: missing'),
    'caption null': (good(caption=None), 'caption: None'),
    'caption a list': (good(caption=['x']), 'a string is allowed'),
    'objects an object': (good(objects={'label': 'x'}), 'objects: '),
    'objects a string': (good(objects='cube'), 'a list is allowed'),
    'an object without label': (good(objects=[{'bbox_2d': [1, 2, 3, 4]}]), 'objects[0]: label'),
    'an object without box': (good(objects=[{'label': 'x'}]), 'objects[0]: bbox_2d'),
    'an object that is text': (good(objects=['cube']), 'objects[0]'),
    'a box of three': (good(objects=[{'label': 'x', 'bbox_2d': [1, 2, 3]}]), '4 numbers'),
    'a box of text': (good(objects=[{'label': 'x', 'bbox_2d': ['1', '2', '3', '4']}]), '4 numbers'),
    'a box of truths': (good(objects=[{'label': 'x', 'bbox_2d': [True, True, True, True]}]), '4 numbers'),
    'a box in pixels': (good(objects=[{'label': 'x', 'bbox_2d': [100, 200, 1800, 1000]}]), '0 to 1000'),
    'a negative box': (good(objects=[{'label': 'x', 'bbox_2d': [-200, 0, 10, 10]}]), '0 to 1000'),
    'a box inside out': (good(objects=[{'label': 'x', 'bbox_2d': [500, 0, 100, 10]}]), 'x1 <= x2'),
    'an infinite box': (
        good(objects=[{'label': 'x', 'bbox_2d': [0, 0, 1, 2]}]).replace('2]', '1e999]'),
        '1000',
    ),
    'a box of a number with 400 digits': (good().replace('250', '9' * 400), '1000'),
    'a box of a number with 5000 digits': (good().replace('250', '9' * 5000), ''),
    'an unknown camera': (good(objects=[{'label': 'x', 'bbox_2d': [1, 2, 3, 4], 'camera': 'nose'}]), 'nose'),
    'a camera that is a list': (
        good(objects=[{'label': 'x', 'bbox_2d': [1, 2, 3, 4], 'camera': []}]),
        'camera',
    ),
    'unknown state': (good(task_state='almost'), 'in_progress'),
    'state a number': (good(task_state=1), 'task_state: 1'),
    'plausibility a truth': (good(plausibility=True), 'plausibility: True'),
    'a hazard that is no text': (good(hazards=[{'x': 1}]), 'hazards[0]'),
    'hazards a string': (good(hazards='none'), 'hazards'),
    'far too many objects': (
        good(objects=[{'label': 'x', 'bbox_2d': [1, 2, 3, 4]}] * 1000),
        f'the first {MOST_OBJECTS}',
    ),
    'one token for ever': ('the the ' * 40000, 'neither'),
    'one bracket for ever': ('{' * 50000, 'not finished'),
    'opening brackets and colons': ('{:[' * 20000, ''),
    'lone surrogate': (
        good(caption='x').replace('"x"', '"\\ud800"').replace('"possible"', '3'),
        'plausibility',
    ),
    'template placeholder copied': (
        good(task_state='unknown|in_progress|done|failed'),
        'unknown|in_progress',
    ),
}


@pytest.mark.parametrize('name', READ)
def test_good_shapes_are_read_completely(name):
    answer = read_scene(READ[name], SIZES)
    assert answer.parsed and answer.problems == ()
    assert answer.task_state is TaskState.IN_PROGRESS and answer.plausibility is Plausibility.POSSIBLE
    assert answer.next_action == 'grasp the red cube' and answer.hazards == ('a hand is near',)
    assert answer.caption and answer.caption not in ('draft', 'another')
    (found,) = answer.objects
    assert found.label == 'red cube' and found.camera == 'wrist'
    assert found.box_normalized == (0.25, 0.5, 0.5, 1.0)
    assert found.box_px == (160.0, 180.0, 320.0, 360.0)


@pytest.mark.parametrize('name', REPORTED)
def test_other_shapes_are_reported_with_a_reason(name):
    text, word = REPORTED[name]
    answer = read_scene(text, SIZES)
    assert not answer.parsed
    reason = '; '.join(answer.problems)
    assert word in reason and reason
    reason.encode('utf-8')
    assert max(map(len, answer.problems)) <= 320


def test_there_are_enough_shapes():
    assert len(READ) + len(REPORTED) >= 40 and len(REPORTED) >= 40


def test_what_fits_is_kept_beside_what_does_not():
    answer = read_scene(good(task_state=7, objects=[{'label': 'x'}, *GOOD['objects']]), SIZES)
    assert not answer.parsed and answer.task_state is TaskState.UNKNOWN
    assert answer.caption == GOOD['caption'] and [found.label for found in answer.objects] == ['red cube']


def test_boxes_are_in_the_pixels_of_their_own_camera():
    answer = read_scene(
        good(objects=[{'label': 'x', 'bbox_2d': [500, 500, 1000, 1000], 'camera': 'exterior_1'}]), SIZES
    )
    assert answer.objects[0].box_px == (160.0, 90.0, 320.0, 180.0)


def test_rounding_beyond_the_border_is_clipped():
    answer = read_scene(good(objects=[{'label': 'x', 'bbox_2d': [-3, 0, 1004, 1000]}]), SIZES)
    assert answer.parsed and answer.objects[0].box_normalized == (0.0, 0.0, 1.0, 1.0)


def test_text_is_bounded_and_can_be_put_into_a_message():
    answer = read_scene(good(caption='x' * 60000, hazards=['\x00\ud800'], task_state='done'), SIZES)
    assert len(answer.caption) <= 2000
    answer.hazards[0].encode('utf-8')
    assert '\x00' not in answer.hazards[0]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.sampled_from([*SCENE_KEYS, 'label', 'bbox_2d', 'camera', 'x']), inner, max_size=6
        )
    ),
    max_leaves=20,
)
KINDS = ('boxes', 'points', 'plausibility', 'yes_no', 'steps', 'text')


def check_every_reader(text):
    scene = read_scene(text, SIZES)
    for box in scene.objects:
        assert 0 <= box.box_normalized[0] <= box.box_normalized[2] <= 1
    for line in (*scene.problems, *scene.hazards, scene.caption, scene.next_action):
        line.encode('utf-8')
    for kind in KINDS:
        reading = read_short(kind, text, SIZES)
        for line in reading.problems:
            line.encode('utf-8')
    return scene


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300) | st.text(alphabet='{}[]",:\\ \nabn01.-<think/>', max_size=300))
def test_arbitrary_text_never_raises(text):
    check_every_reader(text)


@settings(max_examples=300, deadline=None)
@given(JSON_VALUES)
def test_arbitrary_json_never_raises(value):
    check_every_reader(json.dumps(value))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(good())), st.integers(0, len(good())), st.text(max_size=4))
def test_a_damaged_report_is_read_or_reported(start, end, patch):
    text = good()
    answer = check_every_reader(text[: min(start, end)] + patch + text[max(start, end) :])
    assert answer.parsed == (not answer.problems)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(good()) - 1))
def test_a_report_cut_anywhere_is_never_taken_for_a_whole_one(end):
    answer = read_scene(good()[:end], SIZES)
    assert not answer.parsed and answer.objects == () and answer.caption == ''


@settings(max_examples=200, deadline=None)
@given(
    JSON_VALUES.filter(lambda value: isinstance(value, dict | list)), st.sampled_from(['', 'x ', '```json\n'])
)
def test_first_json_returns_what_was_written(value, before):
    text = json.dumps(value)
    if 'NaN' in text or 'Infinity' in text:
        return
    assert first_json(f'{before}{text} after', type(value)) == value


@settings(max_examples=200, deadline=None)
@given(JSON_VALUES)
def test_removing_trailing_commas_leaves_valid_json_alone(value):
    text = json.dumps(value)
    assert without_trailing_commas(text) == text


def test_a_runaway_answer_is_read_to_a_bound():
    with pytest.raises(NoJsonError):
        first_json(' ' * LONGEST_TEXT + good(), dict)


@pytest.mark.parametrize(
    'text, reasoning, answer, finished',
    [
        ('yes', '', 'yes', True),
        ('<think>a</think> b', 'a', 'b', True),
        ('a</think>b', 'a', 'b', True),
        ('<think>a', 'a', '', False),
        ('<think>a</think>b</think>c', 'a</think>b', 'c', True),
    ],
)
def test_reasoning_is_taken_off(text, reasoning, answer, finished):
    split = split_reasoning(text)
    assert (split.reasoning, split.answer, split.finished) == (reasoning, answer, finished)


@pytest.mark.parametrize(
    'kind, text, value',
    [
        ('plausibility', 'A', Plausibility.POSSIBLE),
        ('plausibility', '(B)', Plausibility.IMPOSSIBLE),
        ('plausibility', 'B.', Plausibility.IMPOSSIBLE),
        ('plausibility', '(A) Possible', Plausibility.POSSIBLE),
        ('plausibility', 'This is impossible.', Plausibility.IMPOSSIBLE),
        ('plausibility', '<think>maybe B</think>A', Plausibility.POSSIBLE),
        ('yes_no', 'Yes.', True),
        ('yes_no', 'no', False),
        ('yes_no', '**True**', True),
        ('steps', '1. reach\n2) grasp\n- lift\n\nStep 4: place', ('reach', 'grasp', 'lift', 'place')),
        ('text', ' hello ', 'hello'),
    ],
)
def test_short_answers(kind, text, value):
    reading = read_short(kind, text, SIZES)
    assert reading.value == value and not reading.problems


@pytest.mark.parametrize(
    'kind, text',
    [
        ('plausibility', '(A) Possible (B) Impossible'),
        ('plausibility', 'All is well'),
        ('plausibility', ''),
        ('yes_no', 'nothing moves'),
        ('yes_no', 'perhaps'),
        ('steps', ''),
        ('text', ''),
        ('boxes', 'none'),
        ('boxes', '{"label": "x"}'),
        ('boxes', '[{"bbox_2d": [1, 2, 3], "label": "x"}]'),
        ('points', '[{"point_2d": [1]}]'),
        ('points', '[[1, 2]]'),
        *((kind, '<think>hm') for kind in KINDS),
    ],
)
def test_short_answers_that_cannot_be_read_are_reported(kind, text):
    assert read_short(kind, text, SIZES).problems


def test_boxes_and_points():
    boxes = read_short('boxes', '```json\n[{"bbox_2d": [0, 0, 500, 500], "label": "cup"}]\n```', SIZES)
    assert boxes.value[0].box_px == (0.0, 0.0, 320.0, 180.0) and not boxes.problems
    single = read_short('boxes', '{"bbox_2d": [0, 0, 500, 500], "label": "cup"}', SIZES)
    assert single.value == boxes.value
    points = read_short('points', '[{"point_2d": [500, 500], "label": "gripper trajectory"}]', SIZES)
    assert points.value[0].point_px == (320.0, 180.0) and points.value[0].point_normalized == (0.5, 0.5)
