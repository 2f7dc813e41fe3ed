"""The closed loop without ROS: the oracle succeeds in it, a policy that stays where it is does not."""

import numpy as np
import pytest

pytest.importorskip('mujoco', reason="the extra 'sim' is not installed")

from cosmos3_ros.contracts import ActionChunk, ModelIdentity
from cosmos3_ros.evaluation.closed_loop import ClosedLoop, LoopSettings, summarise
from cosmos3_ros.generator.oracle import OraclePolicy

SEED = 10_000


class Stay:
    """Chunks that hold the observed position."""

    def __init__(self):
        self.asked = []

    def generate(self, observation, instruction, *, seed):
        self.asked.append((observation, instruction))
        return ActionChunk(
            stamp_ns=observation.stamp_ns, step_ns=round(1e9 / 15), joint_names=observation.joint_names,
            positions=np.tile(observation.joint_position, (32, 1)), gripper=np.zeros(32),
            contract='droid_joint', instruction=instruction, seed=seed, steps=1, guidance=1.0, policy='stay',
            identity=ModelIdentity('stay', 'none', True), trace_id='stay', latency_s=0.0)


class SeeingOracle:
    """The oracle with its eyes on the loop's world."""

    def __init__(self):
        self._oracle = OraclePolicy()
        self.loop = None

    def generate(self, observation, instruction, *, seed):
        self._oracle.update_state(self.loop._world.snapshot())
        return self._oracle.generate(observation, instruction, seed=seed)


def test_the_oracle_reaches():
    policy = SeeingOracle()
    loop = policy.loop = ClosedLoop(policy)
    episode = loop.run('reach', SEED)
    loop.close()
    assert episode.success and episode.refusals == 0 and episode.nearest_m < 0.02
    assert summarise([episode])['success'] == {'reach': '1/1'}


def test_staying_is_no_success_and_the_policy_sees_and_hears():
    policy = Stay()
    loop = ClosedLoop(policy, LoopSettings(limit_s=1.0, light_variation=0.5))
    episode = loop.run('push', SEED, colour='yellow')
    loop.close()
    assert not episode.success and episode.chunks >= 2 and episode.seconds >= 1.0
    observation, instruction = policy.asked[0]
    assert instruction == episode.asked == 'push the yellow cube onto the white circle'
    assert {slot: image.shape for slot, image in observation.images.items()} == {
        'wrist': (360, 640, 3), 'exterior_1': (180, 320, 3), 'exterior_2': (180, 320, 3)}
    assert all(image.std() > 5.0 for image in observation.images.values())
