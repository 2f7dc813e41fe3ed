"""What the tower reads of a reasoner that is trained further is held to what it was."""

from dataclasses import replace

import pytest
from synthetic_clips import SETTINGS, make_clips
import torch

from cosmos3_ros.model.batched_step import BatchedStep
from cosmos3_ros.model.checkpoint import Checkpoint
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
from cosmos3_ros.training.settings import TrainingError

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
    """Of texts of different lengths; keys are turned by their place there, so only their norms compare."""
    read = BatchedStep(load_transformer(Checkpoint.open(micro_directory), 'cpu', 'float32')).contexts(TEXTS)
    kept = KeptContexts(language_model, TEXTS, 0)
    for layer, (key, value) in enumerate(zip(read.keys, read.values, strict=True)):
        for i, ids in enumerate(TEXTS):
            mine, theirs = (states[i, :len(ids)] for states in (kept._wanted[2 * layer + 1], value))
            torch.testing.assert_close(mine, theirs.flatten(-2), atol=1e-5, rtol=0.0)
            turned = key[i, :len(ids)]
            unturned = kept._wanted[2 * layer][i, :len(ids)].unflatten(-1, turned.shape[-2:])
            torch.testing.assert_close(unturned.norm(dim=-1), turned.norm(dim=-1), atol=1e-5, rtol=0.0)


def test_nothing_has_changed_at_first_and_the_change_is_a_share(language_model):
    kept = KeptContexts(language_model, TEXTS, 0)
    with torch.no_grad():
        assert float(kept.measure(0, 0)) == pytest.approx(0.0, abs=1e-10)
        # Of the last layer's values everything: one of all layers' keys and values.
        language_model.layers[-1].self_attn.v_proj.weight.zero_()
        assert float(kept.measure(0, 0)) == pytest.approx(1.0 / (2 * len(language_model.layers)), rel=1e-4)


def test_padding_counts_nothing(language_model):
    """Two texts of one length, with and without a third that makes them be padded."""
    measured = []
    for texts in (TEXTS[1:2] * 2, [*TEXTS[1:2] * 2, TEXTS[0]]):
        kept = KeptContexts(language_model, texts, 0)
        start = language_model.layers[0].mlp.down_proj.weight.detach().clone()
        shift(language_model.layers[0].mlp.down_proj.weight, 0.05)
        kept._ids, kept._shown = kept._ids[:2], kept._shown[:2]
        kept._scales = [float(w[:2][kept._shown].square().mean()) for w in kept._wanted]
        kept._wanted = [w[:2] for w in kept._wanted]
        with torch.no_grad():
            measured.append(float(kept.measure(0, 0)))
            language_model.layers[0].mlp.down_proj.weight.copy_(start)
    assert measured[0] > 1e-6 and measured[1] == pytest.approx(measured[0], rel=1e-3)


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
    assert found[0] == found[1] and len(set(found)) == 3


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


def test_a_weight_outside_its_range_is_refused():
    with pytest.raises(TrainingError, match=r'context_weight: -1.0 arrived'):
        replace(SETTINGS, context_weight=-1.0)
