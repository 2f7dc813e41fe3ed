"""The weights in the package: complete, small, themselves, and led by what they see and are asked for.

Among the tests of training because those render (see the Makefile).
"""

import numpy as np
import pytest

pytest.importorskip('mujoco', reason="the extra 'sim' is not installed")

from cosmos3_ros.contracts import Observation
from cosmos3_ros.generator.policy import create_policy
from cosmos3_ros.model.checkpoint import Checkpoint
from cosmos3_ros.model.tower_hash import understanding_hash
from cosmos3_ros.sim.configuration import ARM_JOINTS, CAMERA_SLOTS, SimulationConfig
from cosmos3_ros.sim.renderer import Renderer
from cosmos3_ros.sim.tasks import Goal
from cosmos3_ros.sim.world import World

NAME = 'cosmos3-tiny'
LARGEST_BYTES = 25_000_000
SCENES = range(20_000, 20_006)


def test_the_checkpoint_is_whole_small_and_what_its_description_says() -> None:
    checkpoint = Checkpoint.open(NAME)
    assert checkpoint.directory.name == NAME and checkpoint.trained
    files = [path for path in checkpoint.directory.rglob('*') if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LARGEST_BYTES
    card = (checkpoint.directory / 'README.md').read_text()
    assert understanding_hash(checkpoint.directory) in card


def test_its_chunks_lead_to_the_cube_that_is_asked_for_and_are_the_same_twice() -> None:
    config = SimulationConfig()
    world = World(config)
    renderer = Renderer(
        world.scene, config.image_width, config.image_height, CAMERA_SLOTS,
        sizes={slot: config.picture_size(slot) for slot in CAMERA_SLOTS}, shadows=config.shadows)
    policy = create_policy('cosmos3', checkpoint=NAME, joint_names=ARM_JOINTS, device='cpu')
    distances = {True: [], False: []}
    for seed in SCENES:
        world.reset('reach', seed)
        start, state = world.snapshot(), world.state()
        observation = Observation(
            0, renderer.render(start.qpos, start.zone_xy), ARM_JOINTS, state.position, state.gripper, 0)
        for asked in ('red', 'blue'):
            chunk = policy.generate(observation, Goal('reach', asked).instruction, seed=seed)
            again = policy.generate(observation, Goal('reach', asked).instruction, seed=seed)
            assert np.array_equal(chunk.positions, again.positions)
            assert np.isfinite(chunk.positions).all()
            world.restore(start)
            last = state.position
            for row in chunk.positions:
                world.track(last, row, 0.0, chunk.step_ns)
                last = row
            for colour in ('red', 'blue'):
                away = np.linalg.norm(world.tcp[:2] - world.cube_pose(colour)[:2])
                distances[colour == asked].append(float(away))
    renderer.close()
    assert np.mean(distances[True]) < 0.7 * np.mean(distances[False]), distances
