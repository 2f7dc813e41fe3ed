"""Asking the vision tower where things are: targets against boxes, the loss against doing it by hand."""

from dataclasses import replace
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
from synthetic_clips import SETTINGS, make_clips
import torch

from cosmos3_ros.evaluation.reasoner_metrics import intersection_over_union
from cosmos3_ros.reasoner.model_loading import load_model
from cosmos3_ros.reasoner.questions import PromptBook
from cosmos3_ros.reasoner.video_prompt import VideoSettings
from cosmos3_ros.training.clip_lessons import Lesson
from cosmos3_ros.training.clip_samples import Examiner
from cosmos3_ros.training.grounding import GroundingHead, Targets, overlaps
from cosmos3_ros.training.objective import Batch
from cosmos3_ros.training.reasoner_objective import ReasonerObjective
from cosmos3_ros.training.scene_facts import OBJECT_LABELS

ROWS, COLUMNS, WIDTH = 3, 5, 16


def shown(*things):
    return [{'label': label, 'bbox_2d': list(box)} for label, box in things]


def test_a_thing_is_where_its_middle_is_and_what_is_not_shown_is_nowhere():
    told = shown(
        ('red cube', (0, 0, 100, 200)), ('gripper', (900, 800, 1000, 1000)), ('teapot', (0, 0, 9, 9)))
    targets = Targets.of([told], ROWS, COLUMNS)
    red, gripper = OBJECT_LABELS.index('red cube'), OBJECT_LABELS.index('gripper')
    wanted = torch.full((len(OBJECT_LABELS),), ROWS * COLUMNS)
    wanted[red], wanted[gripper] = 0, ROWS * COLUMNS - 1
    assert torch.equal(targets.cells[0], wanted)
    torch.testing.assert_close(targets.boxes[0, gripper], torch.tensor([0.9, 0.8, 1.0, 1.0]))
    assert float(targets.boxes[0].sum()) == pytest.approx(0.3 + 3.7)


def test_of_two_things_of_one_label_the_first_counts():
    told = shown(('red cube', (0, 0, 100, 100)), ('red cube', (900, 900, 1000, 1000)))
    assert int(Targets.of([told], ROWS, COLUMNS).cells[0, OBJECT_LABELS.index('red cube')]) == 0


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_every_middle_lies_in_a_cell(x, y):
    told = shown(('blue cube', (x, y, x, y)))
    cell = int(Targets.of([told], ROWS, COLUMNS).cells[0, OBJECT_LABELS.index('blue cube')])
    row, column = divmod(cell, COLUMNS)
    assert 0 <= row < ROWS and row / ROWS <= y / 1000 <= (row + 1) / ROWS
    assert column / COLUMNS <= x / 1000 <= (column + 1) / COLUMNS


def one_thing(head, cell, box):
    """Features whose answers are known: all zero but one."""
    targets = Targets.of([shown(('red cube', [1000 * edge for edge in box]))], ROWS, COLUMNS)
    with torch.no_grad():
        head.answer.weight.zero_()
        head.answer.bias.zero_()
        head.answer.weight.view(len(OBJECT_LABELS), 5, WIDTH)[0, :, 0] = torch.tensor([10.0, *box])
    features = torch.zeros((1, ROWS * COLUMNS, WIDTH))
    features[0, cell, 0] = 1.0
    head.norm = torch.nn.Identity()
    return features, targets


def test_what_is_seen_where_it_is_costs_nothing_and_overlaps_wholly():
    head, box = GroundingHead(WIDTH), (0.4, 0.4, 0.5, 0.6)
    features, targets = one_thing(head, 7, box)
    with torch.no_grad():
        head.absent[1:] = 20.0  # the others are known to be away
        found = head(features, targets)
    # 15 other answers of score 0 beside the 10 of the right one, one label of six.
    place = math.log1p(ROWS * COLUMNS * math.exp(-10.0)) / len(OBJECT_LABELS)
    assert float(found['grounding_loss']) == pytest.approx(place, abs=1e-5)
    assert float(found['grounding_found']) == 1.0
    assert float(found['grounding_iou']) == pytest.approx(1.0, abs=1e-5)


def test_a_wrong_place_or_box_costs_and_a_thing_called_absent_has_no_overlap():
    box = (0.4, 0.4, 0.5, 0.6)
    head = GroundingHead(WIDTH)
    features, targets = one_thing(head, 7, box)
    with torch.no_grad():
        right = float(head(features, targets)['grounding_loss'])
        wrong = head(features.roll(1, dims=1), targets)
        assert float(wrong['grounding_loss']) > right + 1.0 and float(wrong['grounding_found']) == 0.0
        head.answer.weight.view(len(OBJECT_LABELS), 5, WIDTH)[0, 1, 0] = 0.2
        assert float(head(features, targets)['grounding_loss']) == pytest.approx(right + 10.0 * 0.2 / 4)
        head.absent[0] = 30.0
        assert float(head(features, targets)['grounding_iou']) == 0.0


def test_a_batch_that_shows_nothing_has_a_loss_and_gradients():
    head = GroundingHead(WIDTH)
    found = head(torch.randn(2, ROWS * COLUMNS, WIDTH), Targets.of([shown()] * 2, ROWS, COLUMNS))
    found['grounding_loss'].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    assert float(found['grounding_iou']) == float(found['grounding_found']) == 0.0


_edges = st.floats(0.0, 1.0, width=32)


@settings(max_examples=200)
@given(st.tuples(_edges, _edges, _edges, _edges), st.tuples(_edges, _edges, _edges, _edges))
def test_overlaps_are_those_of_the_evaluation(one, other):
    def box(a, b, c, d):
        return min(a, c), min(b, d), max(a, c) + 0.01, max(b, d) + 0.01
    one, other = box(*one), box(*other)
    got = float(overlaps(torch.tensor(one), torch.tensor(other)))
    assert got == pytest.approx(intersection_over_union(one, other), abs=1e-4)


@pytest.fixture
def grounded(micro_directory):
    torch.set_num_threads(1)
    model, tokenizer = load_model(micro_directory, torch.float32, 'cpu')
    chosen, clips = replace(SETTINGS, frames=4, grounding_weight=0.5, smallest_crop=0.5), make_clips()
    return ReasonerObjective(
        model, tokenizer, [clips], [clips.anchors(0.3, held_out=False)],
        Examiner(PromptBook.load(), chosen), VideoSettings.load(micro_directory, 4 * 4096), chosen, 1)


def test_it_is_asked_of_each_cameras_last_pictures(grounded, monkeypatch):
    """Features that name sample, camera, time and place show which of them are asked."""
    seen = []

    def remember(_, features, targets):
        seen.append((features[..., 0].tolist(), targets.cells.tolist()))
        return {'grounding_loss': torch.tensor(float(len(seen)))}
    monkeypatch.setattr(GroundingHead, 'forward', remember)
    # exterior_1 is 32 x 64: two features side by side, twice in time; wrist 64 x 32: one above the other.
    features = torch.arange(2 * 8).view(2, 8, 1).float()
    things = {'exterior_1': shown(('red cube', (900, 0, 1000, 100))),
              'wrist': shown(('gripper', (0, 900, 9, 1000)))}
    nothing = {'exterior_1': (), 'wrist': ()}
    targets = grounded._maker.pack([Lesson(0, 0, {}, each, ()) for each in (things, nothing)]).targets
    found = grounded._ground(features, targets)
    assert [asked for asked, _ in seen] == [[[2.0, 3.0], [10.0, 11.0]], [[6.0, 7.0], [14.0, 15.0]]]
    red, gripper = OBJECT_LABELS.index('red cube'), OBJECT_LABELS.index('gripper')
    for (_, cells), label in zip(seen, (red, gripper), strict=True):
        assert cells[0][label] == 1 and sum(cell != 2 for cell in cells[0]) == 1 and set(cells[1]) == {2}
    assert float(found['grounding_loss']) == 1.5


def test_the_loss_is_the_sum_and_the_head_is_drawn_from_the_seed(grounded):
    batch = Batch(0, 0, tuple((0, i) for i in range(4)))
    with torch.no_grad():
        found = grounded(batch)
        head, grounded._grounding = grounded._grounding, None
        alone = grounded(batch)
    both = float(alone['loss'] + 0.5 * found['grounding_loss'])
    assert float(found['loss']) == pytest.approx(both, abs=1e-5)
    assert 'grounding_loss' not in alone
    with torch.random.fork_rng():
        torch.manual_seed(1)
        again = GroundingHead(head.norm.normalized_shape[0])
    assert torch.equal(again.answer.weight, head.answer.weight)


def test_the_vision_tower_learns_from_it_and_not_the_language_model(grounded):
    made = grounded._maker.make(Batch(0, 0, ((0, 0), (0, 1))), grounded._anchors, 1.0)
    features, _ = grounded._encode(made.lessons)
    grounded._ground(features, made.targets)['grounding_loss'].backward()
    model = grounded.model.model
    assert float(model.visual.blocks[0].attn.qkv.weight.grad.abs().max()) > 0.0
    assert all(p.grad is None for p in model.language_model.parameters())


def test_bfloat16_around_it_does_not_round_its_boxes():
    torch.manual_seed(0)
    head, features = GroundingHead(WIDTH), torch.randn(2, ROWS * COLUMNS, WIDTH)
    targets = Targets.of([shown(('red cube', (400, 400, 600, 600)))] * 2, ROWS, COLUMNS)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        inside = head(features, targets)['grounding_loss']
    assert torch.equal(inside, head(features, targets)['grounding_loss'].detach())
