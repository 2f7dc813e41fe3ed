"""Stages on small synthetic data: the loss falls, resumed is uninterrupted, weights reload as written."""

from collections import Counter
from dataclasses import replace
import math
import shutil

from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
import numpy as np
import pytest
from synthetic_recordings import make_recording
import torch

from cosmos3_ros.generator.composed_view import View
from cosmos3_ros.model.checkpoint import Checkpoint
from cosmos3_ros.model.loading import load_transformer, load_vae
from cosmos3_ros.training.dataset_alternatives import Alternatives
from cosmos3_ros.training.draws import AlternatingDraws, WeightedDraws
from cosmos3_ros.training.generator_objective import GENERATION, GeneratorObjective, understanding_name
from cosmos3_ros.training.model_card import write_card
from cosmos3_ros.training.objective import Batch
from cosmos3_ros.training.output_checkpoint import OutputCheckpoint
from cosmos3_ros.training.settings import TrainingError, TrainingSettings
from cosmos3_ros.training.settings_file import read_section
from cosmos3_ros.training.stages import run_vae
from cosmos3_ros.training.tower_stage import encode_recordings, make_generator_objective, run_tower
from cosmos3_ros.training.training_run import make_accelerator
from cosmos3_ros.training.workplace import Workplace

FOREVER = float('inf')


@pytest.fixture(autouse=True)
def written_once(monkeypatch, micro_directory):
    """Making a tokenizer takes seconds: all runs start from a copy."""
    monkeypatch.setattr(
        'cosmos3_ros.training.output_checkpoint.init_checkpoint',
        lambda directory, *_: shutil.copytree(micro_directory, directory, dirs_exist_ok=True))


def make_settings(stage='generator', steps=6, batch=4, **more):
    optimiser = {'steps': steps, 'batch': batch, 'learning_rate': 1e-3, 'ema_decay': 0.9}
    return read_section(TrainingSettings, {
        'name': 'test', 'seed': 5, 'start': {'preset': 'micro'},
        'data': {'datasets': [{'path': 'synthetic', 'window_stride': 7}], 'held_out': 0.25},
        'run': {'autocast': 'none', 'log_every': 1, 'store': 'float32'},
        stage: {'optimiser': optimiser, **more}}, '')


class Clock:
    """Lets a loop take so many steps."""

    def __init__(self, steps):
        self.left = steps

    def __call__(self):
        self.left -= 1
        return FOREVER if self.left >= 0 else -1.0


def make_place(directory, settings, remaining=lambda: FOREVER, recordings=None):
    torch.set_num_threads(1)
    output = OutputCheckpoint(directory / 'out', settings)
    output.begin(resume=output.directory.exists())
    place = Workplace(
        settings, output, make_accelerator(settings, 'cpu'), lambda _: None, lambda _: None, remaining)
    place.__dict__['recordings'] = recordings or [make_recording(episodes=4, frames=15)]
    return place


def make_glances(episodes=4, frames=6, seed=9):
    """Return a recording in which nothing is demonstrated, but two things are asked for in each frame."""
    count = episodes * frames
    action = np.random.default_rng(seed).normal(size=(2 * count, 32, 8)).astype(np.float32)
    recording = make_recording(episodes=episodes, frames=frames, seed=seed)
    return replace(recording, demonstration=np.zeros(count, bool), alternatives=Alternatives(
        start=np.repeat(np.arange(count), 2), action=action, text_index=np.arange(2 * count) % 2,
        texts=('wait', 'go up')))


def make_mixed_place(directory, settings, recordings=None, **more):
    """Return a workplace of episodes and glances, weighed one to three."""
    entries = tuple(
        replace(settings.data.datasets[0], path=path, weight=weight)
        for path, weight in (('episodes', 1.0), ('glances', 3.0)))
    settings = replace(settings, data=replace(settings.data, datasets=entries))
    return make_place(directory, settings, recordings=recordings or [
        make_recording(episodes=4, frames=15), make_glances()], **more)


def tensors(directory, folder='transformer'):
    checkpoint = Checkpoint.open(directory)
    load = load_transformer if folder == 'transformer' else load_vae
    return load(checkpoint, 'cpu', 'float32').state_dict()


def test_generator_loss_falls_and_weights_reload(tmp_path):
    settings = make_settings(steps=20)
    place = make_place(tmp_path, settings)
    before = tensors(place.output.directory)
    result = run_tower(place)
    assert result.done and result.steps == 20
    losses = [entry['loss'] for entry in result.log]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    after = tensors(place.output.directory)
    snapshot = torch.load(place.output.run_directory / 'generator.snapshot.pt', weights_only=True)
    average = snapshot['average']['values']
    for name, value in after.items():
        if name in average:
            assert torch.equal(value, average[name]), name
        else:  # the understanding tower is as it was, bit for bit
            assert torch.equal(value, before[name]), name
    assert not torch.equal(after['proj_out.weight'], before['proj_out.weight'])
    assert 'layers.0.self_attn.to_q.weight' not in average


def test_resumed_is_uninterrupted(tmp_path):
    settings = make_settings()
    whole = run_tower(make_place(tmp_path / 'whole', settings))
    first = run_tower(make_place(tmp_path / 'pieces', settings, Clock(2)))
    assert not first.done and first.steps == 2
    second = run_tower(make_place(tmp_path / 'pieces', settings, Clock(3)))
    assert not second.done and second.steps == 5
    last = run_tower(make_place(tmp_path / 'pieces', settings))
    assert last.done and last.log == whole.log
    one, other = (tensors(tmp_path / name / 'out') for name in ('whole', 'pieces'))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_actions_come_first_and_the_generator_goes_on_from_them(tmp_path):
    """Without the future's video the head of the video is not touched; then all of the tower learns."""
    settings = make_settings(stage='actions', steps=12, window_stride=2, picture_jitter=0.1)
    settings = replace(settings, generator=make_settings(steps=4).generator)
    assert settings.stages == ('actions', 'generator')
    place = make_place(tmp_path, settings)
    windows = encode_recordings(place, stage='actions')
    assert windows[0].latents.shape[2] == 1 and len(windows[0]) > 2 * len(encode_recordings(place)[0])
    before = tensors(place.output.directory)
    result = run_tower(place, 'actions')
    losses = [entry['action_loss'] for entry in result.log]
    assert result.done and np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    assert all(entry['video_loss'] == 0.0 for entry in result.log)
    learned = tensors(place.output.directory)
    changed = {name for name in before if not torch.equal(before[name], learned[name])}
    assert 'layers.0.self_attn.add_q_proj.weight' in changed
    assert not any(name.startswith('proj_out.') or '.to_q.' in name for name in changed)
    objective = make_generator_objective(place, encode_recordings(place))
    started = dict(objective.transformer.named_parameters())
    assert all(torch.equal(started[name].detach(), learned[name]) for name in changed)
    assert run_tower(place).log[-1]['video_loss'] > 0.0
    assert not torch.equal(tensors(place.output.directory)['proj_out.weight'], before['proj_out.weight'])


def test_a_run_from_a_checkpoint_keeps_what_is_known_of_stages_that_it_does_not_train(tmp_path):
    settings = make_settings(steps=4)
    place = make_place(tmp_path / 'first', settings)
    for stage in ('vae', 'generator'):
        place.output.finish_stage(stage, {
            'steps': len(stage), 'seconds': 1.0, 'step_s': 0.5, 'device': 'cpu', 'last': {},
            'settings': {'optimiser': {'batch': 2}}})
    vae = place.output.stages()['vae']
    start = replace(settings.start, preset=None, checkpoint=str(place.output.directory))
    output = OutputCheckpoint(tmp_path / 'second', replace(settings, start=start))
    output.begin(resume=False)
    # Apart from the run's own: what this one does not train, a later file may.
    assert output.stages() == {} and not output.metadata()['trained']
    assert output.metadata()['base_stages'] == {'vae': vae}
    card = write_card(output, settings, '').read_text()
    assert '| vae, before this run | 3 | 2 | 1 | 0.5 | cpu |' in card and '| generator' not in card
    third = OutputCheckpoint(tmp_path / 'third', replace(
        settings, start=replace(start, checkpoint=str(output.directory))))
    third.begin(resume=False)
    assert third.metadata()['base_stages'] == {'vae': vae}


def test_a_trained_tower_is_measured_as_it_is(tmp_path):
    """What a start changes is for starts only."""
    place = make_place(tmp_path, make_settings(pass_noise=True, copy_understanding=True))
    windows = encode_recordings(place)
    stored = tensors(place.output.directory)
    kept = make_generator_objective(place, windows, trained=True).transformer.state_dict()
    assert all(torch.equal(kept[name], stored[name]) for name in stored)
    begun = make_generator_objective(place, windows).transformer.state_dict()
    assert not all(torch.equal(begun[name], stored[name]) for name in stored)


def test_windows_are_encoded_once_per_vae(tmp_path, monkeypatch):
    """A later piece reads them back, bit for bit; another VAE's are not taken."""
    place = make_place(tmp_path, make_settings())
    first = encode_recordings(place)
    again = encode_recordings(make_place(tmp_path, make_settings()))
    assert all(
        torch.equal(getattr(one, name), getattr(two, name))
        for one, two in zip(first, again, strict=True) for name in ('latents', 'rows', 'past'))
    assert [w.texts for w in first] == [w.texts for w in again]
    assert all(np.array_equal(a.text_index, b.text_index) for a, b in zip(first, again, strict=True))

    def refuse(*arguments):
        raise AssertionError('encoded again')

    monkeypatch.setattr('cosmos3_ros.training.tower_stage.load_vae', refuse)
    encode_recordings(place)
    config = place.output.directory / 'vae' / 'config.json'
    config.write_text(config.read_text() + ' ')
    with pytest.raises(AssertionError, match='encoded again'):
        encode_recordings(place)


def test_a_resumed_run_refuses_other_settings(tmp_path):
    run_tower(make_place(tmp_path, make_settings(), Clock(2)))
    with pytest.raises(TrainingError, match='other settings'):
        run_tower(make_place(tmp_path, make_settings(steps=7)))


def test_micro_batches_add_up_to_the_batch(tmp_path):
    """Noise belongs to a part, so the parts' own losses are compared with the step's."""
    settings = make_settings(steps=1)
    object.__setattr__(settings.generator.optimiser, 'micro_batch', 2)
    place = make_place(tmp_path, settings)
    windows = encode_recordings(place)
    objective = make_generator_objective(place, windows)
    draw = place.draws([len(w) for w in windows], 4, 3)
    alone = [
        objective(Batch(0, part, draw(0)[2 * part:2 * part + 2]))['loss'].item() for part in range(2)]
    loop = place.loop('generator', objective, draw)
    result = loop.run(place.remaining_s)
    assert result.log[0]['loss'] == pytest.approx(np.mean(alone), rel=1e-5)


@pytest.mark.parametrize('snapshot_every_s', [0.0, 60.0])
def test_what_is_no_number_ends_a_run_before_anything_of_it_is_kept(tmp_path, snapshot_every_s):
    """From the fourth step on a gradient is none, which the loss says a step later, if at all."""
    settings = make_settings(steps=8)
    object.__setattr__(settings.run, 'snapshot_every_s', snapshot_every_s)
    object.__setattr__(settings.run, 'log_every', 50)
    place = make_place(tmp_path, settings)
    windows = encode_recordings(place)
    objective = make_generator_objective(place, windows)
    loop = place.loop('generator', objective, place.draws([len(w) for w in windows], 4, 3))
    weight = next(iter(objective.trained().values()))
    weight.register_hook(lambda gradient: gradient * math.nan if loop.step >= 3 else gradient)
    with pytest.raises(TrainingError, match=r'(loss|gradient_norm) is nan by step .*learning_rate'):
        loop.run(place.remaining_s)
    assert loop.snapshot_path.exists() == (snapshot_every_s == 0.0)
    if loop.snapshot_path.exists():
        kept = torch.load(loop.snapshot_path, weights_only=True)
        assert kept['step'] == 3 and all(w.isfinite().all() for w in kept['weights'].values())


def test_vae_loss_falls_and_latents_are_standardised(tmp_path):
    settings = make_settings('vae', steps=10, batch=2, frames=5, statistics_clips=6)
    place = make_place(tmp_path, settings)
    result = run_vae(place)
    losses = [entry['loss'] for entry in result.log]
    assert result.done and np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])
    vae = load_vae(Checkpoint.open(place.output.directory), 'cpu', 'float32')
    assert any(m != 0.0 for m in vae.config.latents_mean) and all(s > 0 for s in vae.config.latents_std)
    from cosmos3_ros.training.latent_windows import ClipEncoder

    view = View.of(*place.checkpoint.view)
    pictures = np.ascontiguousarray(make_recording().pictures[:60].reshape(12, 5, 54, 64, 3))
    latents = ClipEncoder(vae, view, 'cpu').encode(torch.from_numpy(pictures))
    assert latents.shape[1:] == (48, 2, view.latent_height, view.latent_width)
    assert abs(float(latents.mean())) < 0.3 and 0.5 < float(latents.std()) < 1.5


def test_latents_are_what_the_policy_encodes(tmp_path):
    """Training and the policy see the same first frame."""
    from cosmos3_ros.generator.composed_view import place_on_canvas
    from cosmos3_ros.model.observation_encoder import ObservationEncoder
    from cosmos3_ros.training.latent_windows import ClipEncoder

    place = make_place(tmp_path, make_settings())
    recording, view = make_recording(), place.view
    vae = load_vae(place.checkpoint, 'cpu', 'float32')
    clips = torch.from_numpy(np.ascontiguousarray(recording.pictures[:9]))[None]
    ours = ClipEncoder(vae, view, 'cpu').encode(clips)[:, :, :1]
    theirs = ObservationEncoder(vae, 'cpu').encode(
        place_on_canvas(recording.pictures[0], view), view.latent_height, view.latent_width)
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-5)


def test_held_out_episodes_are_never_drawn():
    recording = make_recording(episodes=8)
    trained, held = recording.starts(0.25, 2), recording.starts(0.25, 2, held_out=True)
    assert set(recording.episode[trained]) == {0, 1, 2, 3, 4, 5} and set(recording.episode[held]) == {6, 7}


def test_rows_repeat_the_last_command_past_the_end():
    recording = make_recording(frames=40)
    rows, past = recording.action_rows(np.array([0, 30]))
    assert rows.shape == (2, 33, 8) and not past[0].any() and past[1, 11:].all() and not past[1, :11].any()
    np.testing.assert_array_equal(rows[:, 0], recording.state[[0, 30]])
    np.testing.assert_array_equal(rows[0, 1:], recording.action[:32])
    assert (rows[1, 11:] == recording.action[39]).all()


def test_draws_follow_weights_and_show_each_sample_once():
    draws = WeightedDraws([10, 1000], [1.0, 3.0], 16, seed=3)
    taken = [draws(step) for step in range(10)]
    assert all(sum(k == 0 for k, _ in step) == 4 for step in taken)
    first = [i for step in taken[:2] for k, i in step if k == 0] + [
        i for k, i in taken[2] if k == 0]
    assert len(set(first)) >= 8  # 10 samples, shown before any comes again
    assert WeightedDraws([10, 1000], [1.0, 3.0], 16, seed=3)(7) == taken[7]
    assert WeightedDraws([10, 1000], [1.0, 3.0], 16, seed=4)(7) != taken[7]


def test_held_out_losses_stand_in_the_log_and_change_nothing(tmp_path):
    measured, plain = tmp_path / 'a', tmp_path / 'b'
    results = []
    for directory, every in ((measured, 3), (plain, 0)):
        settings = make_settings(steps=6)
        settings = replace(settings, run=replace(settings.run, measure_every=every))
        results.append(run_tower(make_place(directory, settings)))
    with_it = [entry['step'] for entry in results[0].log if 'held_out_action_loss' in entry]
    assert with_it == [3.0, 6.0]
    assert all(entry['held_out_joint_loss'] > 0.0 for entry in results[0].log if entry['step'] == 3.0)
    assert [e['loss'] for e in results[0].log] == [e['loss'] for e in results[1].log]


def test_a_tower_may_start_from_the_other(tmp_path):
    place = make_place(tmp_path, make_settings(copy_understanding=True))
    objective = make_generator_objective(place, encode_recordings(place))
    held = dict(objective.transformer.named_parameters())
    pairs = [(name, understanding_name(name)) for name in held if GENERATION.search(name)]
    assert len(pairs) > 10
    for name, source in pairs:
        assert name != source and torch.equal(held[name].float(), held[source].float()), name


def test_a_rows_noise_reaches_the_output_untrained(tmp_path):
    """With ``pass_noise`` the first answer to pure noise is that noise; otherwise it has nothing of it."""
    found = []
    for number, passed in enumerate((False, True)):
        place = make_place(tmp_path / str(number), make_settings(pass_noise=passed))
        windows = encode_recordings(place)
        objective = make_generator_objective(place, windows)
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn((2, 33, 64), generator=generator)
        rows[..., 8:] = 0.0
        with torch.no_grad():
            texts = objective.contexts(objective.places_of(windows[0], [0, 1]))
            _, answer = objective.step.velocity(
                texts, windows[0].latents[:2].float(), rows, torch.full((2,), 990.0), torch.full((2,), 8))
        pairs = torch.stack([rows[:, 1:, :8].flatten(), answer[:, 1:, :8].flatten()])
        found.append(float(torch.corrcoef(pairs)[0, 1]))
    assert abs(found[0]) < 0.3 and found[1] > 0.85


def fit_with_clock(directory, monkeypatch, clock_s, limit_s, steps=5000, pieces=FOREVER):
    """Run the tower's stage by a clock that is a function of the step."""
    monkeypatch.setattr('cosmos3_ros.training.training_loop.FIT_FROM', 2)
    monkeypatch.setattr('cosmos3_ros.training.training_loop.FIT_EVERY', 2)
    place = make_place(directory, make_settings(steps=steps), Clock(pieces))
    loop_of, now = place.loop, [0.0]

    def loop(*arguments):
        made = loop_of(*arguments)

        def read():
            now[0] = clock_s(made.step)
            return now[0]
        made._clock_s = read
        return made
    place.loop = loop
    place.fit_s = lambda: limit_s - now[0]
    return run_tower(place)


def test_as_many_steps_as_fit_and_the_learning_rate_falls_accordingly(tmp_path, monkeypatch):
    """What was found is kept by the snapshot: a later piece ends where the first would have."""
    first = fit_with_clock(tmp_path / 'a', monkeypatch, float, 11.5, pieces=6)
    assert first.steps == 6 and not first.done
    rest = run_tower(make_place(tmp_path / 'a', make_settings(steps=5000)))
    assert rest.done and rest.steps == 11
    rates = [entry['learning_rate'] for entry in rest.log]
    assert rates[0] == pytest.approx(1e-3) and rates[-1] < 1e-4
    # Slower or faster from step 6 on, and never more than the file says.
    slower = fit_with_clock(tmp_path / 'b', monkeypatch, lambda n: max(n, 2.0 * n - 6.0), 20.5)
    assert slower.steps == 13
    faster = fit_with_clock(tmp_path / 'c', monkeypatch, lambda n: min(2.0 * n, n + 6.0), 20.5)
    assert faster.steps == 14
    assert fit_with_clock(tmp_path / 'd', monkeypatch, float, 1e6, steps=9).steps == 9


def test_nothing_is_learnt_of_what_nobody_demonstrated():
    """Where the arm is led astray the demonstration is cut: neither its standstill nor its video counts."""
    whole = make_recording(episodes=2, frames=60)
    ends = whole.ends.copy()
    ends[:20] = 20  # frames 20.. of the first episode are no demonstration
    shown = np.ones(120, bool)
    shown[20:25] = False
    cut = replace(whole, ends=ends, demonstration=shown)
    starts = np.array([10, 40, 70])
    unknown = cut.unknown(starts, 33, -1)
    assert not unknown[0, :11].any() and unknown[0, 11:].all()
    assert not unknown[1:].any()  # an episode's own end is a demonstration of standing still
    assert cut.action_rows(starts)[1][1, 21:].all()
    assert not whole.unknown(starts, 33, -1).any()


def test_unknown_rows_and_pictures_have_no_weight(tmp_path, monkeypatch):
    from cosmos3_ros.training import generator_objective

    place = make_place(tmp_path, make_settings(padding_weight=0.5))
    recording = place.recordings[0]
    ends = recording.ends.copy()
    ends[:6] = 6
    place.__dict__['recordings'] = [replace(recording, ends=ends)]
    windows = encode_recordings(place)
    objective = make_generator_objective(place, windows)
    weighed = []

    def keep(vision, action, noisy, weights, settings, seen):
        weighed.append((weights, seen))
        return flow_losses(vision, action, noisy, weights, settings, seen)
    flow_losses = generator_objective.flow_losses
    monkeypatch.setattr(generator_objective, 'flow_losses', keep)
    objective(Batch(0, 0, ((0, 0), (0, 2))))
    (weights, seen), = weighed
    assert weights[0].tolist() == [1.0] * 6 + [0.0] * 26  # led astray from frame 6 on
    assert seen[0].tolist() == [1.0] + [0.0] * 7
    assert weights[1].tolist() == [1.0] + [0.5] * 31 and seen[1].all()  # the episode's last frame


def test_a_stage_refuses_what_is_not_trained_yet(tmp_path):
    from cosmos3_ros.training.training_run import run_training

    settings = make_settings()
    settings = replace(settings, vae=make_settings('vae', steps=1, batch=1, statistics_clips=2).vae)
    with pytest.raises(TrainingError, match=r'generator: it reads what vae trains, .*\(done: nothing\)'):
        run_training(settings, tmp_path / 'out', stage='generator')
    with pytest.raises(TrainingError, match='vae'):
        run_training(settings, tmp_path / 'other', stage='generator', prepare_only=True)


def test_small_coloured_things_weigh_more():
    from cosmos3_ros.training.vae_objective import pixel_weights

    canvas = torch.full((2, 3, 1, 60, 60), 0.3)
    canvas[:, :, :, 20:23, 40:43] = torch.tensor([0.9, -0.8, -0.8]).view(3, 1, 1, 1)
    canvas[:, :, :, 40:50, 10:20] = -1.0  # dark, but as grey as the rest
    weights = pixel_weights(canvas, 60.0)
    assert weights.shape == (2, 1, 1, 60, 60)
    assert float(weights.mean()) == pytest.approx(1.0, rel=1e-5)
    cube, dark, plain = weights[0, 0, 0, 21, 41], weights[0, 0, 0, 45, 15], weights[0, 0, 0, 5, 5]
    assert cube > 20.0 * plain and dark == pytest.approx(plain.item(), rel=1e-3)
    assert torch.equal(pixel_weights(canvas, 0.0), torch.ones_like(weights))


# Glances


@given(share=st.floats(0.0, 1.0), step=st.integers(0, 3000), offset=st.integers(0, 3))
@examples(max_examples=40, deadline=None)
def test_some_steps_are_drawn_from_elsewhere_as_many_as_asked_for(share, step, offset):
    taken = {'usual': [], 'others': []}

    def noted(name, draws):
        def draw(number):
            taken[name].append(number)
            return draws(number)
        return draw
    usual, others = WeightedDraws([10, 30], [1.0, 3.0], 8, 1), WeightedDraws([7, 50], [2.0, 1.0], 8, 2)
    draws = AlternatingDraws(noted('usual', usual), noted('others', others), share, offset)
    first, last = max(0, step - 20), step + 20
    found = [draws(n) for n in range(first, last)]
    # Each kind's own steps follow each other, from 0 on, and none is left out.
    for numbers in taken.values():
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
    assert abs(len(taken['others']) - share * (last - first)) <= 1.0 + 1e-6
    for before, after in ((taken['others'], share), (taken['usual'], 1.0 - share)):
        assert not before or abs(before[0] - after * first) <= 1.0 + 1e-6
    # A step is of one kind, and a function of its number.
    expected = {'usual': iter(taken['usual']), 'others': iter(taken['others'])}
    for number, draw in enumerate(found, start=first):
        assert len(draw) == 8
        if math.floor((number + 1) * share + 1e-9) == math.floor(number * share + 1e-9):
            assert draw == usual(next(expected['usual']))
        else:
            assert draw == tuple((k + offset, i) for k, i in others(next(expected['others'])))
    again = AlternatingDraws(usual, others, share, offset)
    assert again(step) == found[step - first]


@pytest.mark.parametrize(('share', 'pattern'), [
    (0.5, 'uouououo'), (0.25, 'uuuouuuo'), (0.75, 'uooouooo'), (0.0, 'uuuuuuuu'), (1.0, 'oooooooo')])
def test_steps_of_a_kind_are_spread_evenly(share, pattern):
    draws = AlternatingDraws(WeightedDraws([9], [1.0], 4, 0), WeightedDraws([9], [1.0], 4, 1), share, 1)
    assert ''.join('uo'[draws(step)[0][0]] for step in range(8)) == pattern
    assert sum(draws(step)[0][0] for step in range(2000)) == 2000 * share


def test_glances_are_known_by_what_is_in_them():
    glances = make_glances()
    assert glances.is_glances and not make_recording().is_glances
    assert not replace(glances, demonstration=np.ones(24, bool)).is_glances
    assert not replace(glances, alternatives=None).is_glances  # a recording of failures alone
    with pytest.raises(TrainingError, match='no window among 4 episodes'):
        glances.starts(0.25)


def test_only_actions_read_glances(tmp_path):
    place = make_mixed_place(tmp_path, make_settings())
    for stage in ('vae', 'generator', 'actions'):
        pairs = place.recordings_of(stage)
        assert [entry.path for _, entry in pairs] == ['episodes', 'glances'][:1 + (stage == 'actions')]
        assert all(recording.is_glances == (entry.path == 'glances') for recording, entry in pairs)


def with_actions(settings, **more):
    """Return the settings of a generator that sees the observation alone in every second step."""
    return replace(settings, actions=make_settings(stage='actions', steps=4, **more).actions,
                   generator=replace(settings.generator, observation_share=0.5))


def test_windows_of_glances_have_their_chunks_and_no_future(tmp_path):
    place = make_mixed_place(tmp_path, with_actions(make_settings()))
    episodes, glances = encode_recordings(place, stage='actions')
    assert len(encode_recordings(place)) == 1
    assert glances.latents.shape[2] == 1 and len(episodes) > 0
    recording = place.recordings[1]
    chosen = recording.chosen_alternatives(0.25)
    assert len(glances) == len(chosen) == 36  # two of each frame of three episodes
    others = recording.alternatives
    assert np.array_equal(glances.rows[:, 1:].numpy(), others.action[chosen])
    assert np.array_equal(glances.rows[:, 0].numpy(), recording.state[others.start[chosen]])
    asked = [others.texts[i] for i in others.text_index[chosen]]
    assert [glances.texts[i] for i in glances.text_index] == asked
    assert not glances.past.any() and not glances.unknown.any() and not glances.unseen.any()


def test_the_generator_sees_glances_in_steps_of_their_own(tmp_path, monkeypatch):
    batches = []
    forward = GeneratorObjective.forward

    def noted(objective, batch):
        batches.append(batch)
        return forward(objective, batch)
    monkeypatch.setattr(GeneratorObjective, 'forward', noted)
    place = make_mixed_place(tmp_path, with_actions(make_settings(steps=12)))
    sizes = [len(w) for w in encode_recordings(place, stage='actions')]
    before = tensors(place.output.directory)
    result = run_tower(place)
    assert result.done and result.steps == len(result.log) == len(batches) == 12
    seen = Counter()
    for batch, entry in zip(batches, result.log, strict=True):
        datasets = {dataset for dataset, _ in batch.draws}
        alone = batch.step % 2 == 1
        # The generator's windows come first, then those of the actions, episodes before glances.
        assert datasets <= ({1, 2} if alone else {0})
        assert (entry['video_loss'] == 0.0) == alone and entry['action_loss'] > 0.0
        seen.update(dataset for dataset, _ in batch.draws)
        assert all(sample < sizes[dataset - 1] for dataset, sample in batch.draws if dataset)
    assert seen == {0: 24, 1: 6, 2: 18}  # weights one to three
    after = tensors(place.output.directory)
    assert not torch.equal(before['proj_out.weight'], after['proj_out.weight'])


def test_actions_learn_from_glances_alone(tmp_path):
    settings = make_settings(stage='actions', steps=3)
    result = run_tower(make_place(tmp_path, settings, recordings=[make_glances()]), 'actions')
    assert result.done and all(entry['action_loss'] > 0.0 == entry['video_loss'] for entry in result.log)


def test_a_share_of_observations_needs_the_stage_actions(tmp_path):
    settings = make_settings()
    settings = replace(settings, generator=replace(settings.generator, observation_share=0.5))
    with pytest.raises(TrainingError, match='no section actions'):
        run_tower(make_mixed_place(tmp_path, settings))
    with pytest.raises(TrainingError, match=r'observation_share.*1\.0 arrived'):
        make_settings(observation_share=1.0)


@pytest.mark.parametrize(('stage', 'run'), [
    ('vae', run_vae), ('generator', run_tower)])
def test_stages_that_show_the_future_refuse_glances_alone(tmp_path, stage, run):
    more = {'frames': 5, 'statistics_clips': 6} if stage == 'vae' else {}
    place = make_place(tmp_path, make_settings(stage, **more), recordings=[make_glances()])
    with pytest.raises(TrainingError, match=f'{stage} needs one of episodes, glances arrived'):
        run(place)


@pytest.mark.parametrize('jitter', [0.15, 0.0])
def test_held_out_glances_are_others_than_those_trained_on(tmp_path, jitter):
    place = make_mixed_place(tmp_path, with_actions(make_settings(), picture_jitter=jitter))
    trained = encode_recordings(place, stage='actions')[1]
    held = encode_recordings(place, stage='actions', held_out=True)[1]
    others = place.recordings[1].alternatives
    for windows, chosen in ((trained, slice(0, 36)), (held, slice(36, 48))):
        assert len(windows) == len(others.start[chosen])
        assert np.array_equal(windows.rows[:, 1:].numpy(), others.action[chosen])
