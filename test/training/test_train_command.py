"""``cosmos3 train`` from a dataset on disk to a checkpoint that the policy and diffusers load."""

import json
import os
import shutil
import subprocess
import sys

from dataset_maker import write_dataset
import numpy as np
import pytest
import torch
import yaml

from cosmos3_ros.cli.main import main
from cosmos3_ros.model.checkpoint import Checkpoint
from cosmos3_ros.model.loading import load_transformer

OPTIMISER = {'steps': 2, 'batch': 2, 'learning_rate': 1e-3, 'ema_decay': 0.0}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp('dataset') / 'episodes')


@pytest.fixture(scope='module')
def base(tmp_path_factory, micro_directory):
    """A directory that stands for a published checkpoint."""
    target = tmp_path_factory.mktemp('base') / 'published'
    shutil.copytree(micro_directory, target)
    return target


def write_config(directory, base, **sections):
    file = directory / 'run.yaml'
    file.write_text(yaml.safe_dump({
        'name': 'test', 'start': {'checkpoint': str(base)},
        'data': {'datasets': [{'path': 'nowhere', 'window_stride': 4}], 'held_out': 0.3},
        'run': {'autocast': 'none', 'log_every': 1}, **sections}), encoding='utf-8')
    return file


def run(capsys, *arguments):
    status = main(['train', *(str(a) for a in arguments), '--json'])
    return status, json.loads(capsys.readouterr().out)


def test_a_run_ends_in_a_checkpoint_that_is_read(tmp_path, capsys, dataset, base):
    file = write_config(
        tmp_path, base, vae={'optimiser': OPTIMISER, 'statistics_clips': 4},
        generator={'optimiser': OPTIMISER})
    before = {path.name: path.read_bytes() for path in base.rglob('*.safetensors')}
    out = tmp_path / 'trained'
    status, result = run(capsys, file, '--data', dataset, '--out', out)
    assert status == 0 and result['finished'] and set(result['stages']) == {'vae', 'generator'}
    # The base was linked, not copied: it must be untouched.
    assert {path.name: path.read_bytes() for path in base.rglob('*.safetensors')} == before
    opened = Checkpoint.open(out)
    assert opened.trained and opened.name == 'test' and opened.contract == 'droid_joint'
    card = (out / 'README.md').read_text(encoding='utf-8')
    assert 'episodes' in card and 'Trained: yes' in card and '| generator | 2 | 2 |' in card
    assert (out / 'losses.png').stat().st_size > 1000
    assert len((tmp_path / 'trained.run' / 'generator.log.jsonl').read_text().splitlines()) == 2
    answer_with(out)


def answer_with(checkpoint):
    """Ask the policy ``cosmos3``, as the generator node does."""
    from cosmos3_ros.contracts import Observation
    from cosmos3_ros.generator.policy import create_policy

    joints = tuple(f'panda_joint{i}' for i in range(1, 8))
    policy = create_policy('cosmos3', checkpoint=str(checkpoint), joint_names=joints, torch_threads=1)
    picture = np.full((36, 64, 3), 90, np.uint8)
    chunk = policy.generate(Observation(
        stamp_ns=0, skew_ns=0, joint_names=joints, gripper=0.0, joint_position=np.zeros(7),
        images=dict.fromkeys(('wrist', 'exterior_1', 'exterior_2'), picture)), 'go', seed=0)
    assert chunk.positions.shape == (32, 7) and policy.identity.trained
    policy.close()


def test_adapters_are_merged_into_the_matrices(tmp_path, capsys, dataset, base):
    pytest.importorskip('peft', reason="the extra 'training' is not installed")
    file = write_config(tmp_path, base, generator={
        'optimiser': OPTIMISER, 'trainable': 'generation_lora', 'lora': {'rank': 2, 'alpha': 64.0}})
    out = tmp_path / 'adapted'
    status, result = run(capsys, file, '--data', dataset, '--out', out)
    assert status == 0 and result['finished']
    old, new = (
        load_transformer(Checkpoint.open(d, contract='droid_joint'), 'cpu', 'float32').state_dict()
        for d in (base, out))
    assert set(old) == set(new)
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert {'layers.0.self_attn.add_q_proj.weight', 'layers.1.mlp_moe_gen.down_proj.weight',
            'action_proj_out.fc.weight'} <= changed
    assert not any('.to_q.' in name or '.mlp.' in name or 'embed_tokens' in name for name in changed)
    difference = new['layers.0.self_attn.add_q_proj.weight'] - old['layers.0.self_attn.add_q_proj.weight']
    values = torch.linalg.svdvals(difference)
    # Rank 2, but for the storage's rounding to bfloat16.
    assert float(values[2]) < 0.2 * float(values[0])


def test_a_dry_run_needs_no_data(tmp_path, capsys, base):
    file = write_config(tmp_path, base, generator={'optimiser': OPTIMISER})
    status, result = run(capsys, file, '--dry-run')
    assert status == 0 and result['step_s'] > 0.0
    assert 0 < result['trained_parameters'] < result['parameters']
    assert result['optimiser_bytes'] == 16 * result['trained_parameters']


def test_what_is_there_is_not_overwritten(tmp_path, capsys, dataset, base):
    file = write_config(tmp_path, base, generator={'optimiser': OPTIMISER})
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'precious').write_text('x')
    status, result = run(capsys, file, '--data', dataset, '--out', out)
    assert status == 1 and '--out' in result['error'] and (out / 'precious').read_text() == 'x'


def test_a_reasoner_needs_facts(tmp_path, capsys, dataset, base):
    file = write_config(tmp_path, base, reasoner={'optimiser': OPTIMISER})
    status, result = run(capsys, file, '--data', dataset, '--out', tmp_path / 'out')
    assert status == 1 and 'facts' in result['error'] and 'sim record' in result['error']


def test_a_missing_dataset_is_named(tmp_path, capsys, base):
    file = write_config(tmp_path, base, generator={'optimiser': OPTIMISER})
    status, result = run(capsys, file, '--out', tmp_path / 'out')
    assert status == 1 and 'nowhere' in result['error']


def test_two_processes_train_what_one_does(tmp_path, capsys, dataset, base):
    """One process with parts of the same size sees the same noise and samples as two with torchrun."""
    optimiser = {**OPTIMISER, 'steps': 4, 'batch': 4, 'micro_batch': 2}
    file = write_config(tmp_path, base, generator={'optimiser': optimiser})
    alone, together = tmp_path / 'alone', tmp_path / 'together'
    assert run(capsys, file, '--data', dataset, '--out', alone)[0] == 0
    # The second piece of a run: with two processes only one may write the start.
    assert run(capsys, file, '--data', dataset, '--out', together, '--prepare')[0] == 0
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    found = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2',
         '-m', 'cosmos3_ros.cli.main', 'train', str(file), '--data', str(dataset), '--out', str(together),
         '--resume', '--max-minutes', '9', '--threads', '1', '--json'],
        env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-3000:]
    log = (tmp_path / 'together.run' / 'generator.log.jsonl').read_text().splitlines()
    assert [json.loads(line)['step'] for line in log] == [1.0, 2.0, 3.0, 4.0]
    one, other = (load_transformer(Checkpoint.open(out), 'cpu', 'float32').state_dict()
                  for out in (alone, together))
    start = load_transformer(Checkpoint.open(base, contract='droid_joint'), 'cpu', 'float32').state_dict()
    moved = max(float((one[name] - start[name]).abs().max()) for name in one)
    apart = max(float((one[name] - other[name]).abs().max()) for name in one)
    assert moved > 1e-3 and apart < 0.02 * moved
