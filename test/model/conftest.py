"""Small checkpoints, written once per run."""

import os

import pytest

pytest.importorskip('torch', reason="the extra 'model' is not installed")
os.environ.setdefault('HF_HUB_OFFLINE', '1')


@pytest.fixture(scope='session')
def micro_directory(tmp_path_factory):
    from cosmos3_ros.model.checkpoint_init import init_checkpoint

    return init_checkpoint(tmp_path_factory.mktemp('checkpoints') / 'micro', 'micro', seed=3).directory


@pytest.fixture(scope='session')
def micro(micro_directory):
    from cosmos3_ros.model.checkpoint import Checkpoint

    return Checkpoint.open(micro_directory)


@pytest.fixture(scope='session')
def transformer(micro):
    import torch

    from cosmos3_ros.model.loading import load_transformer

    torch.set_num_threads(1)
    return load_transformer(micro, 'cpu', 'float32')


@pytest.fixture(scope='session')
def pipeline(micro_directory):
    import diffusers
    import torch

    return diffusers.Cosmos3OmniPipeline.from_pretrained(micro_directory, dtype=torch.float32)
