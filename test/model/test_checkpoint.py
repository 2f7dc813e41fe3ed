"""Whatever is wrong with a checkpoint is said in one sentence that names the file and the parameter."""

import json
import shutil

import pytest

from cosmos3_ros.model.checkpoint import (
    GENERATOR_FILES,
    REASONER_FILES,
    Checkpoint,
    CheckpointError,
    content_hash,
)
from cosmos3_ros.model.loading import load_tokenizer, load_transformer, load_vae
from cosmos3_ros.model.sampling import Sampling


@pytest.fixture
def copy(micro_directory, tmp_path):
    return shutil.copytree(micro_directory, tmp_path / 'copy')


def edit(directory, **changes):
    path = directory / 'cosmos3_ros.json'
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


@pytest.mark.parametrize('name', [
    *GENERATOR_FILES, *REASONER_FILES, 'transformer/diffusion_pytorch_model.safetensors',
    'vae/diffusion_pytorch_model.safetensors', 'vision_encoder/model.safetensors'])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=f'files are missing: .*{name}'):
        Checkpoint.open(copy)


def test_a_policy_needs_no_reasoner_and_perception_no_generator(copy):
    whole = shutil.copytree(copy, copy.parent / 'whole')
    shutil.rmtree(copy / 'vision_encoder')
    assert Checkpoint.open(copy, parts=('generator',)).contract == 'droid_joint'
    shutil.rmtree(whole / 'vae')
    (whole / 'cosmos3_ros.json').unlink()
    assert Checkpoint.open(whole, parts=('reasoner',)).contract == ''


def test_a_missing_shard_is_named(copy):
    (copy / 'transformer' / 'diffusion_pytorch_model.safetensors.index.json').write_text(
        json.dumps({'weight_map': {'a': 'one.safetensors', 'b': 'two.safetensors'}}))
    with pytest.raises(CheckpointError, match=r'transformer/one.safetensors, transformer/two.safetensors'):
        Checkpoint.open(copy)


@pytest.mark.parametrize('text', ['{', '[]', '{"weight_map": 3}'])
def test_a_broken_index_is_named(copy, text):
    (copy / 'model.safetensors.index.json').write_text(text)
    with pytest.raises(CheckpointError, match=r'model.safetensors.index.json is not an index'):
        Checkpoint.open(copy)


@pytest.mark.parametrize('text, message', [('{', 'is not JSON'), ('[1]', 'holds a list')])
def test_broken_metadata_is_named(copy, text, message):
    (copy / 'cosmos3_ros.json').write_text(text)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(copy)


def test_nothing_there(tmp_path):
    with pytest.raises(CheckpointError, match='is no directory; allowed are a directory, cosmos3-tiny'):
        Checkpoint.open(tmp_path / 'nothing')


def test_a_hub_id_without_a_network(monkeypatch, tmp_path):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
    with pytest.raises(CheckpointError, match='hf download nvidia/Cosmos3-Nano-Policy-DROID'):
        Checkpoint.open('nvidia/Cosmos3-Nano-Policy-DROID')


def test_a_contract_must_be_known_and_agree(copy):
    with pytest.raises(CheckpointError, match='its contract is droid_joint, eef_delta was asked for'):
        Checkpoint.open(copy, contract='eef_delta')
    edit(copy, contract=None)
    with pytest.raises(CheckpointError, match='set the parameter contract to droid_joint or eef_delta'):
        Checkpoint.open(copy)
    assert Checkpoint.open(copy, contract='eef_delta').contract == 'eef_delta'


def test_sampling_is_read(copy):
    assert Checkpoint.open(copy).sampling == Sampling()
    says = {'steps': 4, 'guidance': 1, 'guidance_interval': [960, 1001], 'shift': 5.0}
    edit(copy, sampling=says)
    assert Checkpoint.open(copy).sampling == Sampling(4, 1, (960, 1001), 5.0)
    assert Checkpoint.open(copy).sampling.document() == says
    edit(copy, sampling={'steps': 2, 'guidance_interval': None})
    assert Checkpoint.open(copy).sampling == Sampling(2)


@pytest.mark.parametrize('says, message', [
    (4, 'an object with steps, guidance, guidance_interval, shift'),
    ({'step': 4}, 'step arrived, steps, guidance'),
    ({'steps': 4.0}, 'steps 4.0'), ({'steps': True}, 'steps True'), ({'steps': 51}, 'steps 51'),
    ({'guidance': 'off'}, "guidance 'off'"), ({'guidance': float('nan')}, 'guidance nan'),
    ({'shift': 0}, 'shift 0'), ({'guidance_interval': [5, 5]}, 'two ascending timesteps'),
    ({'guidance_interval': 960}, 'guidance_interval 960'),
])
def test_sampling_that_is_not_allowed(copy, says, message):
    edit(copy, sampling=says)
    with pytest.raises(CheckpointError, match=f'cosmos3_ros.json says sampling: .*{message}'):
        Checkpoint.open(copy)


def test_the_hash_is_of_the_bytes(copy, micro_directory):
    assert content_hash(copy) == content_hash(micro_directory)
    path = copy / 'vae' / 'diffusion_pytorch_model.safetensors'
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert content_hash(copy) != content_hash(micro_directory)
    assert Checkpoint.open(micro_directory).label.endswith(content_hash(micro_directory))


def test_weights_that_do_not_fit_their_config(copy):
    path = copy / 'transformer' / 'config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'hidden_size': 40}))
    with pytest.raises(CheckpointError, match='transformer/ cannot be loaded'):
        load_transformer(Checkpoint.open(copy), 'cpu', 'float32')


def test_damaged_weights(copy):
    path = copy / 'vae' / 'diffusion_pytorch_model.safetensors'
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match='vae/ cannot be loaded'):
        load_vae(Checkpoint.open(copy), 'cpu', 'float32')


def test_a_damaged_tokenizer(copy):
    (copy / 'text_tokenizer' / 'tokenizer.json').write_text('{}')
    with pytest.raises(CheckpointError, match='text_tokenizer cannot be read'):
        load_tokenizer(Checkpoint.open(copy))


@pytest.mark.parametrize('device, dtype, message', [
    ('cpu', 'int8', "dtype: 'int8' arrived, one of float32, bfloat16, float16"),
    ('tpu', 'float32', "device: 'tpu' arrived, one of cpu"),
    ('cuda:99', 'float32', "device: 'cuda:99' arrived"),
])
def test_unknown_device_or_dtype(micro, device, dtype, message):
    with pytest.raises(CheckpointError, match=message):
        load_transformer(micro, device, dtype)
