"""A training file is refused with the key that is wrong; the shipped ones are read."""

from itertools import pairwise
from pathlib import Path

import pytest

from cosmos3_ros.cli.main import main
from cosmos3_ros.model.sampling import Sampling
from cosmos3_ros.resources import shared_file
from cosmos3_ros.training.output_checkpoint import OutputCheckpoint
from cosmos3_ros.training.settings import OptimiserSettings, TrainingError
from cosmos3_ros.training.settings_file import load_settings, settings_digest, with_datasets

GOOD = """
name: test
start: {preset: micro}
data: {datasets: [{path: somewhere}]}
generator: {optimiser: {steps: 4, batch: 2, learning_rate: 1e-3}}
"""


def load(tmp_path, text):
    file = tmp_path / 'run.yaml'
    file.write_text(text, encoding='utf-8')
    return load_settings(file)


@pytest.mark.parametrize('name', ['tiny.yaml', 'tiny_cpu.yaml', 'nano_lora.yaml'])
def test_shipped_files_are_read(name):
    settings = load_settings(shared_file('config', 'training', name))
    assert settings.generator is not None and settings.stages[-1] == 'generator'


def test_good_file(tmp_path):
    settings = load(tmp_path, GOOD)
    assert settings.stages == ('generator',) and settings.generator.optimiser.learning_rate == 1e-3
    assert settings.generator.shift == 5.0 and settings.generator.action_weight == 10.0


@pytest.mark.parametrize(('old', 'new', 'words'), [
    ('name: test', 'name: test\nnames: x', ('names', 'generator')),
    ('steps: 4', 'step: 4', ('generator.optimiser', 'step', 'batch')),
    ('steps: 4, ', '', ('generator.optimiser.steps', 'missing')),
    ('steps: 4', 'steps: many', ('generator.optimiser.steps', 'many', 'int')),
    ('steps: 4', 'steps: 0', ('steps', '0', '1 to')),
    ('steps: 4', 'steps: true', ('steps', 'True', 'int')),
    ('batch: 2', 'batch: 3, micro_batch: 2', ('micro_batch', 'divisor')),
    ('1e-3', 'fast', ('learning_rate', 'fast')),
    ('1e-3', '.nan', ('learning_rate', 'nan')),
    ('preset: micro', 'preset: huge', ('preset', 'huge', 'tiny')),
    ('preset: micro', 'preset: micro, checkpoint: x', ('start', 'exactly one')),
    ('[{path: somewhere}]', '[]', ('data.datasets', 'none')),
    ('path: somewhere', 'path: somewhere, weight: -1', ('weight', '-1')),
    ('generator: {', 'generator: {trainable: everything, ', ('trainable', 'everything', 'generation_lora')),
    ('generator: {', 'generator: {text_dropout: 2, ', ('text_dropout', '2')),
    ('name: test', 'name: test\nrun: {store: int8}', ('store', 'int8', 'float16')),
    ('name: test', 'name: test\nrun: {autocast: none, frozen_bfloat16: true}',
     ('frozen_bfloat16', 'autocast')),
    ('name: test', 'name: test\nvae: {frames: 6, optimiser: {steps: 1, batch: 1, learning_rate: 1e-3}}',
     ('frames', '6', 'multiple of 4')),
    ('name: test', 'name: test\nvae: 5', ('vae', 'int', 'mapping')),
    ('name: test', 'name: test\nsampling: {guidance: 30}', ('sampling', 'guidance 30', '0 to 20')),
    ('name: test', 'name: test\nsampling: {guidance_interval: [9]}', ('guidance_interval', 'ascending')),
    ('name: test', 'name: test\nsampling: {scale: 1}', ('sampling', 'scale', 'guidance_interval')),
    ('name: test', 'name: [', ('YAML',)),
])
def test_bad_files_are_refused(tmp_path, old, new, words):
    with pytest.raises(TrainingError) as caught:
        load(tmp_path, GOOD.replace(old, new, 1))
    assert all(word in str(caught.value) for word in words), caught.value
    assert 'run.yaml' in str(caught.value)


def test_a_file_without_stages_is_refused(tmp_path):
    with pytest.raises(TrainingError, match='no stage'):
        load(tmp_path, GOOD[:GOOD.index('generator')])


def test_sampling_is_written_into_the_checkpoint_and_changes_no_snapshot(tmp_path):
    plain = load(tmp_path, GOOD)
    settings = load(tmp_path, GOOD + 'sampling: {steps: 4, guidance: 1, guidance_interval: [960, 1001]}\n')
    assert settings_digest(settings, 'generator') == settings_digest(plain, 'generator')
    opened = OutputCheckpoint(tmp_path / 'out', settings).begin(resume=False)
    assert opened.sampling == Sampling(4, 1.0, (960.0, 1001.0))
    # A run that was begun without the section gets it with its next stage.
    output = OutputCheckpoint(tmp_path / 'other', plain)
    assert output.begin(resume=False).sampling == Sampling()
    resumed = OutputCheckpoint(tmp_path / 'other', settings)
    resumed.finish_stage('generator', {})
    assert resumed.begin(resume=True).sampling.guidance == 1.0


def test_missing_file():
    with pytest.raises(TrainingError, match='cannot be read'):
        load_settings(Path('nowhere.yaml'))


def test_the_number_of_processes_decides_nothing(tmp_path):
    """So a run may go on with others."""
    text = GOOD + 'reasoner: {lesson_workers: 2, optimiser: {steps: 1, batch: 1, learning_rate: 1e-3}}\n'
    one, other = (load(tmp_path, text.replace('lesson_workers: 2', f'lesson_workers: {n}')) for n in (0, 5))
    assert one.reasoner.lesson_workers == 0 and other.reasoner.lesson_workers == 5
    assert settings_digest(one, 'reasoner') == settings_digest(other, 'reasoner')


SHIPPED = sorted(shared_file('config', 'training').glob('*.yaml'))


@pytest.mark.parametrize('path', SHIPPED, ids=lambda path: path.name)
@pytest.mark.parametrize('processes', [1, 2, 3, 4, 8])
def test_every_process_has_a_forward_in_every_step(path, processes):
    """Those that wait for its gradients would wait for ever."""
    settings = load_settings(path)
    for stage in settings.stages:
        optimiser = getattr(settings, stage).optimiser
        if optimiser.batch < processes:
            with pytest.raises(TrainingError, match=f'batch: {optimiser.batch} arrived, .* {processes} proc'):
                optimiser.forward_size(processes)
            continue
        size = optimiser.forward_size(processes)
        parts = -(-optimiser.batch // size)
        assert parts >= processes and size <= (optimiser.micro_batch or optimiser.batch)


def test_digest_is_of_what_decides_the_result(tmp_path):
    settings = load(tmp_path, GOOD)
    assert settings_digest(settings, 'generator') == settings_digest(
        load(tmp_path, GOOD + '\nrun: {log_every: 7}'), 'generator')
    assert settings_digest(settings, 'generator') != settings_digest(
        with_datasets(settings, ['elsewhere']), 'generator')


def test_learning_rate_rises_and_falls():
    settings = OptimiserSettings(steps=100, batch=1, learning_rate=1.0, warmup_steps=10, final_fraction=0.1)
    rates = [settings.learning_rate_at(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.1) and all(a >= b for a, b in pairwise(rates[10:]))


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    file = tmp_path / 'run.yaml'
    file.write_text(GOOD, encoding='utf-8')
    assert main(['train', str(file), '--stage', 'vae', '--out', str(tmp_path / 'out')]) == 1
    assert '--stage' in capsys.readouterr().err
    assert main(['train', str(file), '--out', str(tmp_path / 'out'), '--resume']) == 1
    assert '--resume' in capsys.readouterr().err
    assert main(['train', str(file), '--out', str(tmp_path / 'out'), '--device', 'cuda:77']) == 1
    assert 'cuda:77' in capsys.readouterr().err


TWO = """
name: test
start: {preset: micro}
data: {datasets: [{path: one, weight: 3, reasoner: false}, {path: other, policy: false}]}
reasoner: {optimiser: {steps: 4, batch: 2, learning_rate: 1e-3}}
generator: {optimiser: {steps: 4, batch: 2, learning_rate: 1e-3}}
"""


def test_datasets_have_their_uses(tmp_path):
    data = load(tmp_path, TWO).data
    assert [e.path for e in data.policy_datasets] == ['one']
    assert [e.path for e in data.reasoner_datasets] == ['other']


@pytest.mark.parametrize(('old', 'new', 'words'), [
    ('policy: false', 'reasoner: false', ('reasoner', 'reasoner: true')),
    (', reasoner: false', ', policy: false', ('generator', 'policy: true')),
    ('policy: false', 'policy: no way', ('data.datasets[1].policy', 'no way', 'bool')),
])
def test_a_stage_without_a_dataset_is_refused(tmp_path, old, new, words):
    with pytest.raises(TrainingError) as refusal:
        load(tmp_path, TWO.replace(old, new))
    assert all(word in str(refusal.value) for word in words)


def test_as_many_paths_as_datasets_take_their_places(tmp_path):
    settings = load(tmp_path, TWO)
    data = with_datasets(settings, ['a', 'b']).data
    assert [(e.path, e.weight, e.policy, e.reasoner) for e in data.datasets] == [
        ('a', 3.0, True, False), ('b', 1.0, False, True)]
    only = with_datasets(settings, ['c']).data.datasets
    assert [(e.path, e.weight, e.policy, e.reasoner) for e in only] == [('c', 1.0, True, True)]
