"""The reasoner's objective is transformers' own loss; a small run learns its answers and writes them back."""

from dataclasses import replace
import shutil

import numpy as np
import pytest
from synthetic_clips import SETTINGS, make_clips, report
import torch

from cosmos3_ros.evaluation.reasoner_metrics import (
    FactAnswer,
    fact_metrics,
    intersection_over_union,
    read_yes_no,
    scene_metrics,
)
from cosmos3_ros.model.checkpoint import Checkpoint
from cosmos3_ros.model.tower_hash import understanding_hash
from cosmos3_ros.reasoner.model_loading import load_model
from cosmos3_ros.reasoner.questions import PromptBook
from cosmos3_ros.reasoner.video_prompt import VideoSettings, build_prompt, patch_clip
from cosmos3_ros.training import reasoner_objective
from cosmos3_ros.training.clip_lessons import Lesson
from cosmos3_ros.training.clip_samples import Examiner, as_clip, scale_like_perception
from cosmos3_ros.training.kept_contexts import KeptContexts, policy_texts
from cosmos3_ros.training.objective import Batch
from cosmos3_ros.training.output_checkpoint import OutputCheckpoint
from cosmos3_ros.training.picture_crops import Crop, crop_frames
from cosmos3_ros.training.reasoner_objective import ReasonerObjective, batch_patches, checkpoint_name
from cosmos3_ros.training.settings import OptimiserSettings, ReasonerSettings, TrainingError, TrainingSettings
from cosmos3_ros.training.settings_file import read_section
from cosmos3_ros.training.stages import run_reasoner
from cosmos3_ros.training.tower_stage import policy_tokenizer
from cosmos3_ros.training.training_run import make_accelerator
from cosmos3_ros.training.weight_files import weight_files
from cosmos3_ros.training.workplace import Workplace


@pytest.fixture
def objective(micro_directory):
    torch.set_num_threads(1)
    model, tokenizer = load_model(micro_directory, torch.float32, 'cpu')
    clips = make_clips()
    return ReasonerObjective(
        model, tokenizer, [clips], [clips.anchors(0.3, held_out=False)],
        Examiner(PromptBook.load(), SETTINGS), VideoSettings.load(micro_directory, 2 * 4096), SETTINGS, 1)


WHOLE = {slot: Crop() for slot in SETTINGS.cameras}


def lesson(objective, anchor, *asked, crops=None):
    return Lesson(0, anchor, crops or WHOLE, {}, asked)


@pytest.mark.parametrize('fact_weight', [1.0, 20.0])
def test_loss_is_that_of_transformers(objective, monkeypatch, fact_weight):
    """Questions of different lengths about three clips, against the model's own forward, one by one."""
    clips, model, examiner = objective._recordings[0], objective.model, objective._maker.plan._examiner
    monkeypatch.setattr(objective, '_settings', replace(SETTINGS, fact_weight=fact_weight))
    first, second = examiner.facts(clips, 6)
    lessons = [
        lesson(objective, 1, examiner.scene(clips, 1), first, second), lesson(objective, 6, second),
        lesson(objective, 2, second, first)]
    with torch.no_grad():
        got = objective.losses(objective._maker.pack(lessons))
        total, count, right = 0.0, 0.0, {True: [], False: []}
        for anchor, a in [(each.anchor, a) for each in lessons for a in each.asked]:
            weight = fact_weight if a.dimension else 1.0
            answer = torch.from_numpy(objective._maker.tokens.answers([a])[0])
            shown = [as_clip(clips, anchor, slot, SETTINGS) for slot in SETTINGS.cameras]
            prompt = build_prompt(objective._maker.tokens._tokenizer, shown, a.question, objective._video)
            ids = torch.cat([prompt.input_ids, answer[None]], dim=1)
            text = torch.zeros(1, len(answer), dtype=torch.int64)
            types = torch.cat([prompt.mm_token_type_ids, text], dim=1)
            logits = model(
                input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types,
                pixel_values_videos=prompt.pixel_values_videos, video_grid_thw=prompt.video_grid_thw).logits
            losses = torch.nn.functional.cross_entropy(
                logits[0, -len(answer) - 1:-1], answer, reduction='sum')
            total, count = total + weight * float(losses), count + weight * len(answer)
            is_right = (logits[0, -len(answer) - 1:-1].argmax(dim=-1) == answer).tolist()
            right[bool(a.dimension)] += is_right[:1] if a.dimension else is_right
    packed = objective._maker.pack(lessons).questions
    for kind, is_fact in (('report', False), ('fact', True)):
        asked = [a for each in lessons for a in each.asked if bool(a.dimension) == is_fact]
        answers = objective._maker.tokens.answers(asked)
        assert packed[kind].wanted[packed[kind].firsts].tolist() == [int(answer[0]) for answer in answers]
        assert len(set(packed[kind].firsts.tolist())) == len(asked)
    assert float(got['fact_accuracy']) == pytest.approx(np.mean(right[True]))
    assert float(got['report_token_accuracy']) == pytest.approx(np.mean(right[False]))
    assert float(got['loss']) == pytest.approx(total / count, abs=2e-5)
    assert set(got) == {'loss', 'report_token_accuracy', 'fact_accuracy'}


def test_questions_about_one_clip_share_its_pictures_and_do_not_see_each_other(objective):
    tokens, examiner = objective._maker.tokens, objective._maker.plan._examiner
    clips = objective._recordings[0]
    first, second = examiner.facts(clips, 6)
    alone = [tokens.pack([[a]], [0]) for a in (first, second)]
    assert all(s.branches is None and s.mask() is None and s.shared == 0 for s in alone)
    both = tokens.pack([[first, second], [second]], [0, 1])
    branches, ids, shared = both.branches[0], both.ids[0], tokens.prompt(first.question).shared
    visual = tokens._video_token
    assert int((ids == visual).sum()) == int((alone[0].ids == visual).sum()) > 0
    assert not (ids[shared:] == visual).any()
    mask = both.mask()
    assert both.shared == shared and bool((branches[:shared] == 0).all())
    assert mask.shape == (2, 1, len(ids), len(ids))
    for number, single in enumerate(alone, start=1):
        mine = ((branches == 0) | (branches == number)).nonzero()[:, 0]
        mine = mine[mine <= branches.nonzero().max()]  # without padding
        asked = (first, second)[number - 1]
        count = len(tokens.prompt(asked.question)) + len(tokens.answers([asked])[0])
        assert len(mine) == count and torch.equal(ids[mine], single.ids[0, :count])
        assert torch.equal(both.positions[:, 0, mine], single.positions[:, 0, :count])
        # Each of its tokens sees those before it in its own prompt, and no other.
        own = mine[shared:]
        seen = torch.zeros(len(own), len(ids), dtype=torch.bool)
        seen[:, mine] = torch.ones(count, count, dtype=torch.bool).tril()[shared:]
        assert torch.equal(mask[0, 0, own], seen)
    # The second sequence has one question. Nothing before padding sees it, and every row sees something.
    assert torch.equal(mask[1, 0], torch.ones(len(ids), len(ids), dtype=torch.bool).tril())
    assert bool(mask[:, 0, :, 0].all()) and len(ids) % 128 == 0


def test_layers_are_told_what_is_shared(objective, monkeypatch):
    """Reports, which share nothing, are not: what takes two values would be compiled for any."""
    told, layer = [], objective.model.model.language_model.layers[0]
    usual = layer.forward

    def remember(*args, **options):
        told.append(options.get('shared'))
        return usual(*args, **options)
    monkeypatch.setattr(layer, 'forward', remember)
    clips, examiner = objective._recordings[0], objective._maker.plan._examiner
    facts = examiner.facts(clips, 6)
    with torch.no_grad():
        objective.losses(objective._maker.pack([lesson(objective, 6, examiner.scene(clips, 6), *facts)]))
    assert told == [None, objective._maker.tokens.prompt(facts[0].question).shared]


def test_questions_with_different_beginnings_are_refused_in_one_sequence(objective):
    examiner, clips = objective._maker.plan._examiner, objective._recordings[0]
    fact, scene = examiner.facts(clips, 6)[0], examiner.scene(clips, 6)
    other = replace(fact, question=replace(fact.question, text='Why?', system='You are someone else.'))
    with pytest.raises(TrainingError, match='different beginnings'):
        objective._maker.tokens.pack([[fact, other]], [0])
    assert scene.question.system == fact.question.system  # so the report could share the pictures, too


def test_training_crops_and_measuring_does_not(objective, monkeypatch):
    asked = []
    monkeypatch.setattr(objective, '_settings', replace(SETTINGS, smallest_crop=0.5))
    held_out = objective._recordings[0].anchors(0.3, held_out=True)
    monkeypatch.setattr(objective, '_held_out', (held_out,))
    monkeypatch.setattr(objective, 'losses', asked.append)
    batch = Batch(0, 0, tuple((0, i % len(held_out)) for i in range(16)))
    objective(batch)
    objective.measure(batch)
    trained, unseen = (made.lessons for made in asked)
    assert not all(each.is_whole for each in trained) and all(each.is_whole for each in unseen)
    assert {each.anchor for each in trained} <= set(objective._anchors[0].tolist())
    assert {each.anchor for each in unseen} == set(held_out.tolist())


def test_what_is_cropped_is_what_the_model_is_shown(objective):
    asked = objective._maker.plan._examiner.scene(objective._recordings[0], 1)

    def loss(**crops):
        with torch.no_grad():
            shown = lesson(objective, 1, asked, crops={**WHOLE, **crops})
            return float(objective.losses(objective._maker.pack([shown]))['loss'])
    # A window that is the whole picture goes the way of windows, too.
    nearly = Crop(0.0, 0.0, 1.0 - 1e-9)
    assert loss(wrist=nearly) == pytest.approx(loss(), abs=1e-5)
    for slot in SETTINGS.cameras:
        assert abs(loss(**{slot: Crop(0.2, 0.3, 0.5)}) - loss()) > 1e-5


def test_each_clip_of_a_batch_is_shown_through_its_own_windows(objective, monkeypatch):
    """Three clips, one of them whole, against pictures that were cropped beforehand, one by one."""
    clips = objective._recordings[0]
    lessons = [
        lesson(objective, 1, crops={'exterior_1': Crop(0.1, 0.2, 0.6), 'wrist': Crop(0.3, 0.0, 0.7)}),
        lesson(objective, 5), lesson(objective, 6, crops={**WHOLE, 'wrist': Crop(0.0, 0.4, 0.5)})]
    seen = []
    patches = reasoner_objective.batch_patches
    monkeypatch.setattr(
        reasoner_objective, 'batch_patches', lambda *given: seen.append(given[0].float()) or patches(*given))
    with torch.no_grad():
        features, levels = objective._encode(lessons)
    assert len(features) == 3 and all(len(level) == 3 for level in levels)
    for slot, shown in zip(SETTINGS.cameras, seen, strict=True):
        for each, got in zip(lessons, shown, strict=True):
            frames = torch.from_numpy(clips.pictures[slot][clips.clip_rows(each.anchor, SETTINGS.frames)])
            alone = crop_frames(frames[None], [each.crops[slot]])[0]
            torch.testing.assert_close(got, alone, atol=1e-3, rtol=0.0)


def test_tokens_of_several_answers_are_those_of_each(objective):
    examiner, clips = objective._maker.plan._examiner, objective._recordings[0]
    asked = [examiner.scene(clips, anchor) for anchor in (1, 2, 1)] + examiner.facts(clips, 1)
    asked += examiner.facts(clips, 2)
    tokens = objective._maker.tokens
    for a, ids in zip(asked, tokens.answers(asked), strict=True):
        alone = tokens._tokenizer(a.answer, add_special_tokens=False)['input_ids']
        assert ids.tolist() == [*alone, tokens._tokenizer.eos_token_id]
    assert set(tokens._answers) == {'Yes', 'No'}


def test_patches_are_those_of_the_prompt(objective):
    clips = make_clips()
    frames = torch.from_numpy(clips.pictures['wrist'][:4].reshape(2, 2, 64, 32, 3))
    patches, grid = batch_patches(frames, objective._video)
    for i in range(2):
        clip = as_clip(clips, 2 * i + 1, 'wrist', SETTINGS)
        alone, alone_grid = patch_clip(clip, objective._video)
        assert grid == alone_grid
        assert torch.equal(patches[i * len(alone):(i + 1) * len(alone)], alone)


def test_names_are_the_checkpoints(objective, micro_directory):
    stored = {name for folder in ('transformer', 'vision_encoder')
              for names in weight_files(micro_directory / folder).values() for name in names}
    assert {checkpoint_name(name) for name, _ in objective.model.named_parameters()} <= stored


@pytest.fixture
def clips_of_noise(monkeypatch):
    monkeypatch.setattr('cosmos3_ros.training.stages.prepare_clips', lambda *_: make_clips())


def test_a_tower_that_stays_is_read_as_before_and_by_pieces_too(tmp_path, micro_directory, clips_of_noise):
    """Ten steps in two pieces, held to what was there before the first one, and not held."""
    errors = {}
    for weight in (0.0, 100.0):
        settings = read_section(TrainingSettings, {
            'name': 'test', 'start': {'checkpoint': str(micro_directory)},
            'data': {'datasets': [{'path': 'x'}], 'held_out': 0.3},
            'run': {'autocast': 'none', 'log_every': 1, 'store': 'float32'},
            'reasoner': {'optimiser': {'steps': 10, 'batch': 2, 'learning_rate': 1e-3, 'ema_decay': 0.5},
                         'cameras': ['exterior_1', 'wrist'], 'frames': 2, 'max_frame_pixels': 4096,
                         'context_weight': weight}}, '')
        output = OutputCheckpoint(tmp_path / f'out{weight:g}', settings)
        for left in (iter([60.0] * 5), iter([60.0] * 10)):
            output.begin(resume=output.directory.exists())
            result = run_reasoner(Workplace(
                settings, output, make_accelerator(settings, 'cpu'), lambda _: None, lambda _: None,
                lambda left=left: next(left, -1.0)))
        assert result.done and len(result.log) == 10
        tokens = [policy_tokenizer(Workplace(
            settings, output, make_accelerator(settings, 'cpu'), lambda _: None, lambda _: None,
            lambda: 0.0))(text) for text in policy_texts()[:20]]
        kept = KeptContexts(
            load_model(micro_directory, torch.float32, 'cpu')[0].model.language_model, tokens, 0)
        kept._model = load_model(output.directory, torch.float32, 'cpu')[0].model.language_model
        with torch.no_grad():
            errors[weight] = float(kept.compare(torch.arange(20)).sqrt())
        if weight:
            # The last step's error is of what it was before the first piece, too.
            assert result.log[-1]['context_error'] == pytest.approx(errors[weight], rel=0.5)
    assert 0.0 < errors[100.0] < 0.5 * errors[0.0]


def test_a_run_learns_and_both_towers_stay_one(tmp_path, micro_directory, monkeypatch, clips_of_noise):
    monkeypatch.setattr(
        'cosmos3_ros.training.output_checkpoint.init_checkpoint',
        lambda directory, *_: shutil.copytree(micro_directory, directory, dirs_exist_ok=True))
    settings = read_section(TrainingSettings, {
        'name': 'test', 'start': {'preset': 'micro'},
        'data': {'datasets': [{'path': 'x'}], 'held_out': 0.3},
        'run': {'autocast': 'none', 'log_every': 1, 'store': 'float32', 'measure_every': 5},
        'reasoner': {'optimiser': {'steps': 10, 'batch': 4, 'learning_rate': 5e-3, 'ema_decay': 0.5},
                     'cameras': ['exterior_1', 'wrist'], 'frames': 2, 'max_frame_pixels': 4096,
                     'grounding_weight': 0.1}}, '')
    output = OutputCheckpoint(tmp_path / 'out', settings)
    output.begin(resume=False)
    before = understanding_hash(output.directory)
    place = Workplace(settings, output, make_accelerator(settings, 'cpu'), lambda _: None, lambda _: None,
                      lambda: float('inf'))
    result = run_reasoner(place)
    losses = [entry['loss'] for entry in result.log]
    assert result.done and np.mean(losses[-2:]) < 0.8 * losses[0]
    assert result.log[-1]['grounding_loss'] < result.log[0]['grounding_loss']
    assert ['held_out_loss' in entry for entry in result.log] == ([False] * 4 + [True]) * 2
    assert understanding_hash(output.directory) != before
    model, _ = load_model(output.directory, torch.float32, 'cpu')
    snapshot = torch.load(output.run_directory / 'reasoner.snapshot.pt', weights_only=True)
    assert 'grounding.answer.weight' in snapshot['average']['values']
    for folder in ('transformer', 'vision_encoder'):
        assert not any('grounding' in name for names in weight_files(output.directory / folder).values()
                       for name in names)
    started = dict(load_model(micro_directory, torch.float32, 'cpu')[0].named_parameters())
    for name, parameter in model.named_parameters():
        # Two layers read two of three mergers; the third is left as it was.
        unread = checkpoint_name(name).startswith('deepstack_merger_list.2.')
        assert unread == (checkpoint_name(name) not in snapshot['average']['values']), name
        kept = started[name] if unread else snapshot['average']['values'][checkpoint_name(name)]
        assert torch.equal(parameter, kept), name
    from cosmos3_ros.model.loading import load_transformer

    transformer = load_transformer(Checkpoint.open(output.directory), 'cpu', 'float32')
    shared = 'layers.1.self_attn.to_k.weight'
    assert torch.equal(
        transformer.state_dict()[shared], model.model.language_model.layers[1].self_attn.k_proj.weight)


@pytest.mark.parametrize(
    ('name', 'value'),
    [('fact_weight', 0.0), ('smallest_crop', 0.1), ('smallest_crop', 1.2), ('facts_per_clip', -1)])
def test_weights_and_crops_outside_their_ranges_are_refused(name, value):
    with pytest.raises(TrainingError, match=rf'{name}: {value} arrived'):
        replace(SETTINGS, **{name: value})


@pytest.mark.parametrize(
    ('changed', 'text'), [
        ({'fact_shares': (1.0, 1.0)}, 'four numbers'), ({'fact_shares': (0.0,) * 4}, 'not all 0'),
        ({'fact_shares': (1.0, -1.0, 1.0, 1.0)}, '-1.0.* arrived'), ({'facts_per_clip': 0}, 'asked nothing')])
def test_clips_that_would_be_asked_nothing_are_refused(changed, text):
    with pytest.raises(TrainingError, match=text):
        replace(SETTINGS, **changed)


def test_pictures_are_scaled_as_perception_scales_them():
    frames = np.zeros((2, 360, 640, 3), np.uint8)
    settings = ReasonerSettings(OptimiserSettings(steps=1, batch=1, learning_rate=1e-3))
    assert scale_like_perception(frames, settings).shape == (2, 160, 320, 3)
    assert scale_like_perception(frames[:, :180, :320], settings).shape == (2, 192, 320, 3)


def test_clips_at_the_start_repeat_the_first_frame():
    clips = make_clips()
    np.testing.assert_array_equal(clips.clip_rows(5, 4), [4, 4, 4, 5])
    np.testing.assert_array_equal(clips.clip_rows(7, 2), [6, 7])
    assert set(clips.episode[clips.anchors(0.3, held_out=True)]) == {2}


def test_metrics_of_true_and_wrong_reports():
    truths = [report([0, 0, 500, 500], 'done'), report([0, 0, 500, 500], 'in_progress')]
    assert scene_metrics(truths, truths)['box_iou'] == pytest.approx(1.0)
    wrong = scene_metrics([report([250, 0, 750, 500], 'done'), 'nonsense'], truths)
    upside_down = scene_metrics([report([0, 500, 500, 0], 'done')] * 2, truths)
    assert (upside_down['json'], upside_down['parsed'], wrong['json']) == (1.0, 0.0, 0.5)
    assert wrong['parsed'] == 0.5 and wrong['box_iou'] == pytest.approx((1 / 3 + 0) / 2, abs=1e-3)
    assert wrong['task_state_accuracy'] == 0.5 and wrong['task_state_majority'] == 0.5
    assert wrong['label_accuracy'] == 0.5
    assert intersection_over_union((0, 0, 1, 1), (2, 2, 3, 3)) == 0.0


def test_fact_metrics_know_the_majority():
    facts = [FactAnswer('Physical Laws', 'a', True, True), FactAnswer('Physical Laws', 'a', False, None)]
    found = fact_metrics(facts, [FactAnswer('', 'a', True, None)] * 2)['Physical Laws']
    assert found == {'questions': 2, 'accuracy': 0.5, 'majority': 0.5, 'yes_share': 0.5}
    assert read_yes_no('Yes.') is True and read_yes_no('no') is False and read_yes_no('perhaps') is None


def test_questions_are_drawn_evenly(objective):
    clips, rng = make_clips(), np.random.default_rng(0)
    drawn = [objective._maker.plan._examiner.draw_fact(clips, 1, rng) for _ in range(200)]
    assert 60 < sum(a.dimension == 'Physical Laws' for a in drawn) < 140
    asked = objective(Batch(0, 0, ((0, 1), (0, 2))))
    assert torch.isfinite(asked['loss']) and 0.0 <= float(asked['report_token_accuracy']) <= 1.0
