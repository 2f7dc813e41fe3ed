"""A small checkpoint, written once per run."""

import os

import pytest

pytest.importorskip('torch', reason="the extra 'model' is not installed")
os.environ.setdefault('HF_HUB_OFFLINE', '1')


@pytest.fixture(scope='session')
def micro_directory(tmp_path_factory):
    from cosmos3_ros.model.checkpoint_init import init_checkpoint

    return init_checkpoint(tmp_path_factory.mktemp('checkpoints') / 'micro', 'micro', seed=3).directory
