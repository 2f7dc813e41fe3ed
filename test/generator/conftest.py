"""A small checkpoint and an observation that fits it."""

import os

import numpy as np
import pytest

os.environ.setdefault('HF_HUB_OFFLINE', '1')

JOINTS = tuple(f'panda_joint{i}' for i in range(1, 8))


@pytest.fixture(scope='session')
def policy_checkpoint(tmp_path_factory):
    pytest.importorskip('torch', reason="the extra 'model' is not installed")
    from cosmos3_ros.model.checkpoint_init import init_checkpoint

    return init_checkpoint(tmp_path_factory.mktemp('policy') / 'micro', 'micro', seed=3).directory


@pytest.fixture
def droid_observation():
    from cosmos3_ros.contracts import Observation

    random = np.random.default_rng(5)
    return Observation(
        stamp_ns=123_000_000_000, skew_ns=0, joint_names=JOINTS, gripper=0.25,
        joint_position=np.array([0.0, -0.5, 0.1, -2.0, 0.2, 1.5, 0.7]),
        images={slot: random.integers(0, 256, size, dtype=np.uint8) for slot, size in (
            ('wrist', (36, 64, 3)), ('exterior_1', (90, 160, 3)), ('exterior_2', (48, 64, 3)))})
