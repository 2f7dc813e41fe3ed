import json

import numpy as np
import pytest
from reasoner_fakes import ScriptedBackend, make_clip

from cosmos3_ros.contracts import ContractError, Plausibility, TaskState
from cosmos3_ros.reasoner import BackendError, PromptBook, PromptError, Reasoner, create_backend
from cosmos3_ros.reasoner.annotation import annotate

REPORT = json.dumps(
    {
        'caption': 'A cube.',
        'objects': [
            {'label': 'cube', 'bbox_2d': [0, 0, 500, 500]},
            {'label': 'zone', 'bbox_2d': [500, 500, 1000, 1000], 'camera': 'exterior_1'},
        ],
        'next_action': 'lift it',
        'task_state': 'done',
        'hazards': [],
        'plausibility': 'possible',
    }
)


def make(*texts, **options):
    backend = ScriptedBackend(*texts, **{k: options.pop(k) for k in ('finish',) if k in options})
    seconds = iter(np.arange(0, 1000, 0.25))
    return Reasoner(backend, clock_s=lambda: next(seconds), **options), backend


def test_a_report_carries_everything_about_its_clips():
    reasoner, backend = make(REPORT)
    clips = [make_clip('wrist', 4, start_ns=10**9), make_clip('exterior_1', 6, start_ns=10**9)]
    report = reasoner.report(clips, 'lift the cube', image_sizes={'wrist': (480, 640)})
    assert report.parsed and report.reason == '' and report.raw_text == REPORT
    assert report.stamp_ns == 10**9 + 1_250_000_000 and report.clip_start_ns == 10**9
    assert report.clip_frames == 6 and report.cameras == ('wrist', 'exterior_1')
    assert report.task_state is TaskState.DONE and report.plausibility is Plausibility.POSSIBLE
    assert report.objects[0].box_px == (0.0, 0.0, 320.0, 240.0), (
        'pixels of the camera, not of the scaled clip'
    )
    assert report.objects[1].box_px == (48.0, 32.0, 96.0, 64.0), 'without a known size: pixels of the clip'
    assert report.latency_s == 0.25 and not report.identity.trained
    cameras, question = backend.asked[-1]
    assert cameras == ('wrist', 'exterior_1')
    assert 'Cameras: wrist, exterior_1. Task: lift the cube' in question.text


def test_a_malformed_answer_is_a_report_with_the_text_and_a_reason():
    reasoner, _ = make('I think it is a cube')
    report = reasoner.report([make_clip()], 'x')
    assert not report.parsed and report.raw_text == 'I think it is a cube'
    assert 'no complete JSON' in report.reason and report.objects == ()


def test_an_answer_cut_off_says_which_parameter_to_raise():
    reasoner, _ = make(REPORT[:30], finish='length')
    assert 'max_new_tokens' in reasoner.report([make_clip()], 'x').reason


def test_raw_text_can_be_put_into_a_message():
    reasoner, _ = make('\ud800\x00' * 40000)
    report = reasoner.report([make_clip()], 'x')
    report.raw_text.encode('utf-8')
    assert '\x00' not in report.raw_text and len(report.raw_text) <= 16384


def test_token_budget_reaches_the_backend():
    reasoner, backend = make(REPORT, scene_max_new_tokens=77)
    reasoner.report([make_clip()], '')
    assert backend.asked[-1][1].max_new_tokens == 77


def test_free_questions():
    reasoner, backend = make('<think>hm</think> It is red.')
    assert reasoner.ask([make_clip()], 'What colour?', think=True) == 'It is red.'
    assert backend.asked[-1][1].text.startswith('What colour?')
    assert 'max_new_tokens' in make('<think>hm')[0].ask([make_clip()], 'What colour?')


def test_every_prompt_can_be_asked_by_name():
    reasoner, _ = make('B')
    reading, answer = reasoner.read('plausibility', [make_clip()])
    assert reading.value is Plausibility.IMPOSSIBLE and answer.text == 'B'
    scene, _ = make(REPORT)[0].read(
        'scene_report', [make_clip('wrist'), make_clip('exterior_1')], instruction='x'
    )
    assert scene.value.caption == 'A cube.' and not scene.problems
    with pytest.raises(PromptError, match='scene_report'):
        reasoner.read('none', [make_clip()])
    with pytest.raises(PromptError, match='object'):
        reasoner.read('grounding', [make_clip()])


def test_wrong_clips_are_refused():
    reasoner, _ = make(REPORT)
    with pytest.raises(ContractError, match='at least one'):
        reasoner.report([], 'x')
    with pytest.raises(ContractError, match='one clip per camera'):
        reasoner.report([make_clip('a'), make_clip('a')], 'x')


def test_a_prompt_that_yields_no_report_is_refused_at_once():
    with pytest.raises(ContractError, match='answer: scene'):
        Reasoner(ScriptedBackend(''), scene_prompt='caption')
    with pytest.raises(PromptError, match='scene_report'):
        Reasoner(ScriptedBackend(''), scene_prompt='scene')
    with pytest.raises(PromptError):
        Reasoner(ScriptedBackend(''), PromptBook.from_document({'prompts': {'a': {'text': 'x'}}}))


def test_backends_are_found_by_name():
    with pytest.raises(BackendError, match=r"one of \['transformers'"):
        create_backend('tranformers')
    with pytest.raises(BackendError, match="'device'"):
        create_backend('transformers', checkpont='x')


@pytest.mark.parametrize('size', [(48, 64), (180, 320), (720, 1280)])
def test_annotation_draws_only_what_belongs_to_the_camera(size):
    report = make(REPORT)[0].report([make_clip('wrist'), make_clip('exterior_1')], 'x')
    image = np.full((*size, 3), 128, np.uint8)
    original = image.copy()
    wrist, exterior = annotate(image, 'wrist', report), annotate(image, 'exterior_1', report)
    assert np.array_equal(image, original) and wrist.shape == image.shape and wrist.dtype == np.uint8
    assert not np.array_equal(wrist, exterior)
    # The box of the cube ends in the middle of the image; the zone's begins there.
    row = size[0] // 4
    assert (wrist[row, round(0.5 * (size[1] - 1))] != 128).any()
    assert (exterior[row, :] == 128).all() or size[0] < 100


def test_annotation_survives_any_text():
    texts = json.dumps({**json.loads(REPORT), 'next_action': 'ü 立方体 🤖' * 300, 'hazards': ['x'] * 30})
    report = make(texts)[0].report([make_clip('wrist'), make_clip('exterior_1')], 'x')
    assert annotate(np.zeros((90, 160, 3), np.uint8), 'wrist', report).any()
    assert annotate(np.zeros((1, 1, 3), np.uint8), 'wrist', make('no')[0].report([make_clip()], '')).shape
    with pytest.raises(ContractError):
        annotate(np.zeros((90, 160), np.uint8), 'wrist', report)
