"""What the tower reads of a reasoner that is trained further is held to what it was."""

from dataclasses import replace
from pathlib import Path
import sys

import pytest
from synthetic_clips import SETTINGS, make_clips
import torch
import yaml

from cosmos3_ros.model.batched_step import BatchedStep
from cosmos3_ros.model.checkpoint import Checkpoint
from cosmos3_ros.model.layer_math import rotate
from cosmos3_ros.model.loading import load_transformer
from cosmos3_ros.reasoner.model_loading import load_model
from cosmos3_ros.reasoner.questions import PromptBook
from cosmos3_ros.reasoner.video_prompt import VideoSettings
from cosmos3_ros.sim.configuration import CUBE_COLOURS
from cosmos3_ros.sim.tasks import TASKS, parse_instruction
from cosmos3_ros.training.clip_samples import Examiner
from cosmos3_ros.training.kept_contexts import KeptContexts, policy_texts
from cosmos3_ros.training.objective import Batch
from cosmos3_ros.training.reasoner_objective import ReasonerObjective, checkpoint_name
from cosmos3_ros.training.settings import TrainingError, TrainingSettings
from cosmos3_ros.training.settings_file import read_section

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / 'benchmarks'))

import go_on  # noqa: E402

TEXTS = [[5, 9, 17, 3, 8, 40, 2], [5, 9, 21], [60, 61, 62, 63, 64]]


@pytest.fixture
def model(micro_directory):
    torch.set_num_threads(1)
    return load_model(micro_directory, torch.float32, 'cpu')[0].requires_grad_(True)


@pytest.fixture
def language_model(model):
    return model.model.language_model


def shift(parameter, amount):
    with torch.no_grad():
        parameter.add_(amount * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))


def test_states_are_what_the_tower_reads(micro_directory, language_model):
    """Of texts of different lengths; keys there are turned by their places."""
    step = BatchedStep(load_transformer(Checkpoint.open(micro_directory), 'cpu', 'float32'))
    read, kept = step.contexts(TEXTS), KeptContexts(language_model, TEXTS, 0)
    (cos, sin), = step._tables.values()
    for layer, (key, value) in enumerate(zip(read.keys, read.values, strict=True)):
        mine = [kept._targets[2 * layer + i].unflatten(-1, key.shape[-2:]) for i in (0, 1)]
        for theirs, found in ((key, rotate(mine[0], cos, sin)), (value, mine[1])):
            for i, ids in enumerate(TEXTS):
                torch.testing.assert_close(found[i, :len(ids)], theirs[i, :len(ids)], atol=1e-5, rtol=0.0)


def test_under_autocast_it_is_measured_exactly(language_model):
    kept = KeptContexts(language_model, TEXTS, 0)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        assert float(kept.measure(0, 0)) < 1e-10


def test_nothing_has_changed_at_first_and_the_change_is_a_share(language_model):
    kept = KeptContexts(language_model, TEXTS, 0)
    with torch.no_grad():
        assert float(kept.measure(0, 0)) == pytest.approx(0.0, abs=1e-10)
        # Of the last layer's values everything: one of all layers' keys and values.
        language_model.layers[-1].self_attn.v_proj.weight.zero_()
        assert float(kept.measure(0, 0)) == pytest.approx(1.0 / (2 * len(language_model.layers)), rel=1e-4)


def test_padding_counts_nothing(language_model):
    """A text alone, and padded to a longer one's length: squares over their sums of targets."""
    both = [KeptContexts(language_model, texts, 0) for texts in ([TEXTS[1]], [TEXTS[1], TEXTS[0]])]
    shift(language_model.layers[0].mlp.down_proj.weight, 0.05)
    with torch.no_grad():
        alone, padded = (kept._states(kept._ids[:1]) for kept in both)
        for kept in both:
            kept._scales = [1.0] * len(kept._scales)
        measured = [float(kept.compare(torch.tensor([0]))) for kept in both]
    assert padded[0].shape[1] > alone[0].shape[1]
    assert measured[0] > 1e-6 and measured[1] == pytest.approx(measured[0], rel=1e-4)


def test_gradients_hold_what_is_read_and_nothing_else(model):
    kept = KeptContexts(model.model.language_model, TEXTS, 0)
    for parameter in model.parameters():
        shift(parameter, 0.01)
    kept.measure(0, 0).backward()
    held = {checkpoint_name(n) for n, p in model.named_parameters() if p.grad is not None}
    last = len(model.model.language_model.layers) - 1
    assert f'layers.{last}.self_attn.to_v.weight' in held and 'layers.0.mlp.down_proj.weight' in held
    free = {f'layers.{last}.mlp.down_proj.weight', f'layers.{last}.self_attn.to_q.weight', 'lm_head.weight'}
    assert not held & free and not any(name.startswith(('blocks.', 'merger.')) for name in held)


def test_texts_of_a_step_are_a_function_of_seed_and_step(language_model):
    kept = KeptContexts(language_model, [[i, i + 1] for i in range(40)], 3)
    for parameter in language_model.parameters():
        shift(parameter, 0.01)
    with torch.no_grad():
        found = [float(kept.measure(step, part)) for step, part in ((0, 0), (0, 0), (0, 1), (1, 0))]
        kept._seed = 4
        found.append(float(kept.measure(0, 0)))
    assert found[0] == found[1] and len(set(found)) == 4


def test_every_task_and_colour_is_held():
    texts = policy_texts()
    goals = {(goal.task, goal.colour) for goal in map(parse_instruction, texts[1:])}
    assert goals == {(task, colour) for task in TASKS for colour in CUBE_COLOURS}
    assert texts[0] == '' and len(set(texts)) == len(texts)


@pytest.mark.parametrize('weight', [0.0, 100.0])
def test_steps_move_texts_less_where_they_are_held(micro_directory, model, weight):
    tokenizer = load_model(micro_directory, torch.float32, 'cpu')[1]
    settings, clips = replace(SETTINGS, context_weight=weight), make_clips()
    objective = ReasonerObjective(
        model, tokenizer, [clips], [clips.anchors(0.3, held_out=False)],
        Examiner(PromptBook.load(), settings), VideoSettings.load(micro_directory, 2 * 4096), settings, 1,
        texts=TEXTS if weight else ())
    kept = KeptContexts(model.model.language_model, TEXTS, 0)
    optimiser = torch.optim.AdamW(objective.trained().values(), lr=1e-3, weight_decay=0.0)
    for step in range(12):
        found = objective(Batch(step, 0, ((0, 1), (0, 2))))
        optimiser.zero_grad()
        found['loss'].backward()
        optimiser.step()
    with torch.no_grad():
        error = float(kept.measure(0, 0).sqrt())
    assert ('context_error' in found) == bool(weight)
    assert (error < 0.02) == bool(weight), error


def test_a_reasoner_that_goes_on_alone_is_held(tmp_path):
    """By benchmarks/go_on.py, and only where the tower is not trained after it; from random weights never."""
    whole = yaml.safe_load((ROOT / 'config/training/tiny.yaml').read_text(encoding='utf-8'))
    alone, both = (go_on.change(whole, tmp_path, stages) for stages in (('reasoner',), ()))
    assert alone['reasoner']['context_weight'] == go_on.CONTEXT_WEIGHT and 'generator' not in alone
    assert 'context_weight' not in both['reasoner'] and 'generator' in both
    whole['reasoner']['context_weight'] = 7.0
    assert go_on.change(whole, tmp_path, ('reasoner',))['reasoner']['context_weight'] == 7.0
    with pytest.raises(TrainingError, match=r'context_weight: 7 arrived with start\.preset'):
        read_section(TrainingSettings, whole, '')


def test_a_weight_outside_its_range_is_refused():
    with pytest.raises(TrainingError, match=r'context_weight: -1.0 arrived'):
        replace(SETTINGS, context_weight=-1.0)
