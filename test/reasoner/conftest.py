import os
from pathlib import Path

import pytest


@pytest.fixture(scope='session')
def micro_checkpoint(tmp_path_factory):
    """Return a complete random checkpoint, as small as the classes allow."""
    pytest.importorskip('transformers', reason='the extra model is not installed')
    pytest.importorskip('diffusers', reason='the extra model is not installed')
    from cosmos3_ros.model.checkpoint_init import init_checkpoint

    return init_checkpoint(tmp_path_factory.mktemp('reasoner') / 'micro', preset='micro', seed=3).directory


@pytest.fixture(scope='session')
def backend(micro_checkpoint):
    from cosmos3_ros.reasoner import create_backend

    made = create_backend('transformers', checkpoint=micro_checkpoint)
    yield made
    made.close()


@pytest.fixture(scope='session')
def real_data():
    """Return the folder of real images, if this machine has it."""
    given = os.environ.get('COSMOS3_ROS_TEST_DATA')
    folder = Path(given) if given else Path(__file__).resolve().parents[3] / 'shared' / 'data'
    if not (folder / 'reasoner').is_dir():
        pytest.skip('no real images here: set COSMOS3_ROS_TEST_DATA to a folder that holds reasoner/')
    return folder / 'reasoner'
