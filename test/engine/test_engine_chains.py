"""Chains of segments answer and act as the reference backends do."""

import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from micro_engine import SHAPES
import numpy as np
import pytest
import torch
from transformers import Cosmos3OmniForConditionalGeneration

from cosmos3_ros.engine.dimensions import Shapes
from cosmos3_ros.engine.drift import box_overlap, compare_moment, token_agreement
from cosmos3_ros.engine.errors import EngineError
from cosmos3_ros.engine.precision import find_precision
from cosmos3_ros.engine.prompt_positions import prompt_positions
from cosmos3_ros.engine.quantization import quantised_names
from cosmos3_ros.engine.towers import TorchTowers

DATA = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'droid_lerobot_example'
GRID = torch.tensor([[2, 4, 6]])
VIDEO = 6  # tokens of one temporal patch of 4 x 6 patches


@pytest.fixture(scope='module')
def reasoner(checkpoint):
    return Cosmos3OmniForConditionalGeneration.from_pretrained(
        checkpoint.directory, dtype=torch.float32).eval()


@pytest.fixture(scope='module')
def towers(checkpoint):
    return TorchTowers(checkpoint.directory, SHAPES)


def video_prompt(reasoner, seed):
    """Text, two temporal patches between timestamps, text."""
    stream = torch.Generator().manual_seed(seed)
    text = torch.randint(5, 300, (12,), generator=stream)
    video = torch.full((VIDEO,), reasoner.config.video_token_id)
    ids = torch.cat((text[:3], video, text[3:5], video, text[5:]))
    patches = torch.rand(2 * 24, 1536, generator=stream) * 2 - 1
    return ids, ids == reasoner.config.video_token_id, patches


@pytest.mark.parametrize('seed', range(4))
def test_a_video_is_answered_with_transformers_tokens(towers, reasoner, seed):
    ids, visual, patches = video_prompt(reasoner, seed)
    with torch.inference_mode():
        expected = reasoner.generate(
            input_ids=ids[None], attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            mm_token_type_ids=2 * visual.long()[None], pixel_values_videos=patches, video_grid_thw=GRID,
            max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)[0, len(ids):].tolist()
    assert towers.answer(ids, visual, patches, GRID, 12, ()) == expected


def test_positions_are_transformers_positions(reasoner):
    ids, visual, _ = video_prompt(reasoner, 0)
    expected, delta = reasoner.model.get_rope_index(ids[None], 2 * visual.long()[None], video_grid_thw=GRID)
    positions, slots, following = prompt_positions(visual, GRID)
    assert torch.equal(positions, expected[:, 0].float())
    assert following == len(ids) + int(delta)
    assert slots[visual].tolist() == list(range(2 * VIDEO)) and (slots[~visual] == -1).all()


def test_positions_refuse_grids_that_do_not_fit(reasoner):
    _, visual, _ = video_prompt(reasoner, 0)
    with pytest.raises(EngineError, match='12 vision tokens stand in it, the grids announce 18'):
        prompt_positions(visual, torch.tensor([[3, 4, 6]]))
    with pytest.raises(EngineError, match='fewer than 1 x 12'):
        prompt_positions(visual, torch.tensor([[1, 2, 24]]))


def test_what_does_not_fit_the_plans_is_refused(towers):
    with pytest.raises(EngineError, match='49 tokens arrived, 2 to 48 are allowed'):
        towers.language.greedy(range(49), 1)
    with pytest.raises(EngineError, match='cache: it holds 64 tokens and is full'):
        towers.language.greedy(range(40), 40)
    keys, values = towers.language.context(range(5))
    with pytest.raises(EngineError, match='--latent-grid'):
        towers.generation.branch(keys, values, (5, 4, 4))
    long = [part.repeat(1, 1, 60, 1) for part in (keys, values)]
    with pytest.raises(EngineError, match='300 tokens arrived, up to 256'):
        towers.generation.branch(*long, (9, 3, 4))


def test_fp8_towers_still_answer(checkpoint, reasoner):
    towers = TorchTowers(checkpoint.directory, SHAPES)
    amax = {}
    ids, visual, patches = video_prompt(reasoner, 1)
    with towers.calibrating(amax):
        before = towers.answer(ids, visual, patches, GRID, 4, ())
    assert len(amax['language']) == 14
    generation = dict.fromkeys(quantised_names(towers._modules['generation']), 4.0)
    towers.convert(find_precision('fp8'), {**amax, 'generation': generation})
    assert len(towers.answer(ids, visual, patches, GRID, 4, ())) == len(before)


@given(st.lists(st.integers(0, 5), max_size=8), st.lists(st.integers(0, 5), max_size=8))
@settings(deadline=None)
def test_token_agreement_is_a_share(a, b):
    assert 0.0 <= token_agreement(a, b) <= 1.0
    assert token_agreement(a, b) == token_agreement(b, a)
    assert token_agreement(a, a) == 1.0


box = st.tuples(st.floats(0, 10), st.floats(0, 10), st.floats(11, 20), st.floats(11, 20))


@given(st.lists(box, max_size=4), st.lists(box, max_size=4))
@settings(deadline=None)
def test_box_overlap_is_symmetric_and_one_for_equal_boxes(a, b):
    both = box_overlap(a, b)
    assert (both is None) == (not a and not b)
    if both is not None:
        assert 0.0 <= both <= 1.0 and both == pytest.approx(box_overlap(b, a))
    if a:
        assert box_overlap(a, a) == pytest.approx(1.0)


def test_differences_of_a_moment():
    rows = np.zeros((4, 3)), np.zeros((4, 3))
    rows[1][2, 1] = -0.2
    rows[1][1:, 2] = 1.0
    found = compare_moment(1.0, ([1, 2], [1, 3]), ((), ()), rows, [(np.ones(3), -np.ones(3))])
    assert found.token_agreement == 0.5 and found.box_iou is None and found.gripper_flips == 3
    assert found.joint_max_rad == (0.0, 0.2)
    assert found.joint_rms_rad == pytest.approx((0.0, 0.1))
    assert found.velocity_cosine == pytest.approx((-1.0,))


def test_drift_between_precisions_on_real_frames(tmp_path, checkpoint):
    if not DATA.is_dir():
        pytest.skip('the real DROID episode is not beside this checkout')
    from cosmos3_ros.cli.engine_drift import compare_on_data
    from cosmos3_ros.model.checkpoint import Checkpoint
    opened = Checkpoint.open(checkpoint.directory)
    same = compare_on_data('fp32', 'fp32', opened, DATA, 1)
    assert same.summary()['token_agreement_min'] == 1.0 and same.summary()['joint_max_rad'] == 0.0
    report = compare_on_data('fp32', 'fp8', opened, DATA, 1)
    assert 0.9 < report.summary()['velocity_cosine_min'] < 1.0
    assert report.summary()['joint_max_rad'] > 0.0
    assert any('random' in note for note in report.notes)
    assert any('wrist' in note for note in report.notes)
    report.write(tmp_path)
    page, content = (tmp_path / 'drift.html').read_text(), json.loads((tmp_path / 'drift.json').read_text())
    assert 'fp8 against fp32' in page and page.count('<tr>') >= 2 + len(report.summary())
    moment, = content['moments']
    assert len(moment['joint_max_rad']) == len(moment['joint_rms_rad']) == 7
    assert len(moment['velocity_cosine']) == 4 and 0.0 <= moment['token_agreement'] <= 1.0
    assert all(f'{value:.6f}' in page for value in moment['velocity_cosine'])
    assert content['summary'] == report.summary()


def test_shapes_of_nano_are_the_default():
    assert Shapes().generated_tokens == 3093 and Shapes().vision_tokens == 880
