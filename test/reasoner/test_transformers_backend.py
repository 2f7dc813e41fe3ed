import json
import shutil

import numpy as np
import pytest
from reasoner_fakes import make_clip

from cosmos3_ros.contracts import Clip
from cosmos3_ros.reasoner import BackendError, ClipBuffer, PromptBook, Reasoner, create_backend

torch = pytest.importorskip('torch', reason='the extra model is not installed')

CLIP = make_clip('wrist', 4, 64, 96)


def ask(name='caption', tokens=12, **words):
    return PromptBook.load().ask(
        name, tokens, instruction='lift', object='x', question='Is it?', cameras='wrist', **words
    )


def test_it_says_what_it_is(backend):
    name, _, digest = backend.identity.checkpoint.partition('@')
    assert name == 'cosmos3-micro' and len(digest) == 8
    assert backend.identity.engine == 'transformers/float32/cpu' and backend.identity.trained is False


def test_the_same_question_gives_the_same_text_in_this_process_and_after_reloading(backend, micro_checkpoint):
    first = backend.answer([CLIP], ask())
    other = backend.answer([make_clip('wrist', 4, 64, 96, seed=9)], ask())
    assert backend.answer([CLIP], ask()).text == first.text
    again = create_backend('transformers', checkpoint=micro_checkpoint)
    again.warm_up()
    assert again.answer([CLIP], ask()).text == first.text
    assert other.text != first.text, 'the picture must reach the language model'


@torch.inference_mode()
def test_tokens_are_the_argmax_of_the_whole_sequence_each_time(backend):
    """No cache, no generate(): the obvious way, one full forward per token."""
    from cosmos3_ros.reasoner.video_prompt import build_prompt

    question = ask(tokens=6)
    prompt = build_prompt(backend._tokenizer, [CLIP], question, backend._settings)
    ids, types = prompt.input_ids, prompt.mm_token_type_ids
    for _ in range(6):
        logits = backend._model(
            input_ids=ids,
            mm_token_type_ids=types,
            pixel_values_videos=prompt.pixel_values_videos,
            video_grid_thw=prompt.video_grid_thw,
            attention_mask=torch.ones_like(ids),
        ).logits
        ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        types = torch.cat([types, torch.zeros_like(types[:, :1])], dim=1)
    new = ids[0, prompt.input_ids.shape[1] :]
    answer = backend.answer([CLIP], question)
    assert answer.text == backend._tokenizer.decode(new, skip_special_tokens=True)
    assert answer.prompt_tokens == prompt.input_ids.shape[1] and answer.generated_tokens == 6
    assert answer.finish == 'length'
    assert 0 <= answer.prepare_s <= answer.first_token_s <= answer.total_s


class Dictate:
    """Makes the model write given tokens."""

    def __init__(self, ids, prompt):
        self.ids, self.prompt = ids, prompt

    def __call__(self, input_ids, scores):
        forced = torch.full_like(scores, -1e9)
        forced[:, self.ids[input_ids.shape[1] - self.prompt]] = 0
        return forced


def dictate(backend, monkeypatch, text):
    generate = backend._model.generate
    ids = [*backend._tokenizer(text)['input_ids'], backend._tokenizer.eos_token_id]

    def dictated(**inputs):
        return generate(logits_processor=[Dictate(ids, inputs['input_ids'].shape[1])], **inputs)

    monkeypatch.setattr(backend._model, 'generate', dictated)


REPORT = json.dumps(
    {
        'caption': 'a } in [text',
        'objects': [{'label': 'cup', 'bbox_2d': [0, 0, 500, 1000]}],
        'next_action': 'lift',
        'task_state': 'done',
        'hazards': [],
        'plausibility': 'possible',
    }
)


@pytest.mark.parametrize(
    'kind, before, value, after, finish',
    [
        ('scene_report', '', REPORT, '\nAnd so on and on', 'json'),
        ('scene_report', '```json\n', REPORT, '\n```', 'json'),
        ('scene_report', 'See {this} [1]: ', REPORT, ' more', 'json'),
        ('scene_report', '', REPORT, '', 'json'),
        ('scene_report', 'I see nothing', '', '', 'stop'),
        ('grounding', '', '[{"bbox_2d": [0, 0, 1, 1], "label": "cup"}]', ' and', 'json'),
        ('caption', '', REPORT, ' The end', 'stop'),
    ],
)
def test_generation_ends_where_the_answer_is_complete(
    backend, monkeypatch, kind, before, value, after, finish
):
    dictate(backend, monkeypatch, before + value + after)
    answer = backend.answer([CLIP], ask(kind, 1500))
    assert answer.finish == finish
    assert answer.text.startswith(before + value)
    if finish == 'json':
        # A token may hold the closing bracket and a little more.
        assert len(answer.text) <= len(before + value) + 2


def test_a_dictated_report_comes_out_in_pixels_of_the_camera(backend, monkeypatch):
    dictate(backend, monkeypatch, REPORT)
    buffer = ClipBuffer(('wrist',), max_frame_pixels=96 * 64)
    for i in range(8):
        buffer.add('wrist', i * 250_000_000, np.full((360, 640, 3), 30 * i, np.uint8))
    clips = buffer.take(4.0, 4, 7 * 250_000_000)
    report = Reasoner(backend, scene_max_new_tokens=1500).report(
        clips, 'x', image_sizes=buffer.source_sizes()
    )
    assert report.parsed, report.reason
    assert report.objects[0].box_px == (0.0, 0.0, 320.0, 360.0) and report.caption == 'a } in [text'


def test_an_untrained_model_yields_an_honest_report(backend):
    report = Reasoner(backend, scene_max_new_tokens=16).report(
        [CLIP, make_clip('exterior_1', 2)], 'lift the cube'
    )
    assert not report.parsed and report.reason and report.raw_text and not report.identity.trained
    assert report.latency_s > 0 and report.cameras == ('wrist', 'exterior_1')


def test_pruning_by_parameter(micro_checkpoint, backend):
    pruned = create_backend('transformers', checkpoint=micro_checkpoint, video_pruning_rate=0.5)
    clip = make_clip('wrist', 8, 96, 96)
    full, half = backend.answer([clip], ask()), pruned.answer([clip], ask())
    assert full.prompt_tokens - half.prompt_tokens == 4 * 9 // 2
    assert pruned.answer([clip], ask()).text == half.text
    assert pruned.identity.engine.endswith('/evs0.5')


@pytest.mark.parametrize('name', ['grounding_2d.png', 'robot_153.jpg', 'robotics_next_action.mp4'])
def test_real_images_go_through_the_whole_path(backend, real_data, name):
    cv2 = pytest.importorskip('cv2', reason='the extra record is not installed')
    capture = cv2.VideoCapture(str(real_data / name))
    frames = []
    while len(frames) < 60:
        there, frame = capture.read()
        if not there:
            break
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    assert frames, f'{name} cannot be decoded'
    if len(frames) == 1:
        frames *= 8
    buffer = ClipBuffer(('exterior_1',), max_frame_pixels=320 * 192, max_clip_pixels=4 * 320 * 192)
    for i, frame in enumerate(frames):
        buffer.add('exterior_1', i * 10**8, frame)
    clips = buffer.take(4.0, 4, (len(frames) - 1) * 10**8)
    assert isinstance(clips, tuple), clips
    report = Reasoner(backend, scene_max_new_tokens=8).report(
        clips, 'tidy up', image_sizes=buffer.source_sizes()
    )
    assert (
        report.clip_frames >= 2
        and report.raw_text
        and buffer.source_sizes()['exterior_1'] == frames[0].shape[:2]
    )


@pytest.mark.parametrize(
    'options, text',
    [
        ({'device': 'tpu'}, 'device'),
        ({'device': 'cuda:77'}, 'device'),
        ({'dtype': 'int8'}, "'bfloat16'"),
        ({'threads': 0}, 'threads'),
        ({'checkpoint': '/nowhere'}, 'checkpoint'),
        ({'max_clip_pixels': 5}, 'max_clip'),
    ],
)
def test_wrong_options_are_refused(micro_checkpoint, options, text):
    with pytest.raises(BackendError, match=text):
        create_backend('transformers', **{'checkpoint': micro_checkpoint, **options})


def test_an_incomplete_or_foreign_checkpoint_is_refused(micro_checkpoint, tmp_path):
    copy = tmp_path / 'copy'
    shutil.copytree(micro_checkpoint, copy)
    (copy / 'tokenizer.json').unlink()
    with pytest.raises(BackendError, match=r'tokenizer\.json'):
        create_backend('transformers', checkpoint=copy)
    shutil.copy(micro_checkpoint / 'tokenizer.json', copy)
    config = json.loads((copy / 'config.json').read_text())
    (copy / 'config.json').write_text(json.dumps({**config, 'model_type': 'qwen3_vl'}))
    with pytest.raises(BackendError, match='cosmos3_omni'):
        create_backend('transformers', checkpoint=copy)


def test_a_closed_backend_says_so(micro_checkpoint):
    made = create_backend('transformers', checkpoint=micro_checkpoint)
    made.close()
    made.close()
    with pytest.raises(BackendError, match='closed'):
        made.answer([CLIP], ask())


def test_no_clips_are_refused(backend):
    with pytest.raises(BackendError, match='at least one'):
        backend.answer([], ask())


def test_a_single_frame_works(backend):
    single = Clip('wrist', np.zeros((1, 32, 32, 3), np.uint8), np.array([5]))
    assert backend.answer([single], ask(tokens=2)).generated_tokens == 2
