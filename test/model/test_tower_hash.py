"""The hash is of the understanding tower, all of it and nothing else."""

import shutil

import pytest
import torch

from cosmos3_ros.model.checkpoint import CheckpointError
from cosmos3_ros.model.tower_hash import understanding_hash

WEIGHTS = 'transformer/diffusion_pytorch_model.safetensors'


def rewrite(source, target, change=lambda name, tensor: tensor, shards=1):
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(source, target)
    tensors = {name: change(name, t.clone()) for name, t in load_file(copy / WEIGHTS).items()}
    (copy / WEIGHTS).unlink()
    names = sorted(tensors)
    for i in range(shards):
        save_file({n: tensors[n] for n in names[i::shards]}, copy / f'transformer/part-{i}.safetensors')
    return copy


def test_sharding_does_not_matter(micro_directory, tmp_path):
    assert understanding_hash(rewrite(micro_directory, tmp_path / 'a', shards=3)) == understanding_hash(
        micro_directory)


@pytest.mark.parametrize('name, matters', [
    ('embed_tokens.weight', True), ('lm_head.weight', True), ('norm.weight', True),
    ('layers.1.self_attn.to_q.weight', True), ('layers.0.mlp.down_proj.weight', True),
    ('layers.0.self_attn.norm_k.weight', True), ('layers.1.self_attn.add_q_proj.weight', False),
    ('layers.0.mlp_moe_gen.down_proj.weight', False), ('norm_moe_gen.weight', False),
    ('proj_in.weight', False), ('time_embedder.linear_1.weight', False),
    ('action_proj_out.fc.weight', False), ('action_modality_embed', False),
    ('layers.0.self_attn.norm_added_k.weight', False),
])
def test_one_bit_matters_in_the_tower_only(micro_directory, tmp_path, name, matters):
    def flip(key, tensor):
        if key == name:
            tensor.view(torch.int16).view(-1)[0] ^= 1
        return tensor

    changed = understanding_hash(rewrite(micro_directory, tmp_path / 'a', flip))
    assert (changed != understanding_hash(micro_directory)) == matters


def test_what_is_not_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match='holds no weights'):
        understanding_hash(tmp_path)
    (tmp_path / 'transformer').mkdir()
    for content in (b'', b'\xff' * 40, (4).to_bytes(8, 'little') + b'[1]\n'):
        (tmp_path / WEIGHTS).write_bytes(content)
        with pytest.raises(CheckpointError, match='is not safetensors'):
            understanding_hash(tmp_path)
