import os
import subprocess
import sys

import numpy as np
import pytest

from cosmos3_ros.sim.configuration import CAMERA_SLOTS, SimulationConfig, SimulationError
from cosmos3_ros.sim.randomization import Randomizer
from cosmos3_ros.sim.renderer import Renderer
from cosmos3_ros.sim.scene import CUBE_RGBA
from cosmos3_ros.sim.world import World

CONFIG = SimulationConfig(light_variation=1.0, colour_variation=0.5)


@pytest.fixture(scope='module')
def world():
    return World(CONFIG)


@pytest.fixture(scope='module')
def renderer(world):
    made = Renderer(world.scene, 320, 180)
    yield made
    made.close()
    made.close()


def pictures(world, renderer):
    snapshot = world.snapshot()
    return renderer.render(snapshot.qpos, snapshot.zone_xy)


def share_of(image, rgb):
    """Return the share of pixels whose hue is that of ``rgb``."""
    pixels = image.astype(float) + 1e-6
    wanted = np.array(rgb) / np.linalg.norm(rgb)
    alike = (pixels @ wanted) / np.linalg.norm(pixels, axis=-1)
    return float((alike > 0.985).mean())


def test_pictures_have_their_shape_and_show_something(world, renderer):
    world.reset('reach', 0)
    images = pictures(world, renderer)
    assert tuple(images) == CAMERA_SLOTS
    for image in images.values():
        assert image.shape == (180, 320, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
        assert 20 < image.mean() < 235 and image.std() > 15


def test_the_same_state_gives_the_same_picture(world, renderer):
    world.reset('push', 3)
    first, second = pictures(world, renderer), pictures(world, renderer)
    assert all(np.array_equal(first[c], second[c]) for c in CAMERA_SLOTS)


@pytest.mark.parametrize('colour', CUBE_RGBA)
def test_every_cube_is_seen_from_outside(world, renderer, colour):
    Randomizer(world.scene, SimulationConfig()).apply(0)
    world.reset('reach', 4)
    images = pictures(world, renderer)
    for camera in ('exterior_1', 'exterior_2'):
        assert share_of(images[camera], CUBE_RGBA[colour][:3]) > 3e-4


def test_the_wrist_camera_sees_its_fingers_move(world, renderer):
    world.reset('reach', 0)
    snapshot = world.snapshot()
    closed = snapshot.qpos.copy()
    closed[world.scene.finger_qpos] = 0.0
    difference = np.abs(
        renderer.render(closed, snapshot.zone_xy)['wrist'].astype(int)
        - renderer.render(snapshot.qpos, snapshot.zone_xy)['wrist'])
    changed = np.argwhere(difference.max(axis=-1) > 30)
    assert len(changed) > 500
    # In the lower half, left and right of the middle.
    assert changed[:, 0].mean() > 90 and changed[:, 1].min() < 150 and changed[:, 1].max() > 170


def test_the_zone_is_where_the_state_says(world, renderer):
    snapshot = world.snapshot()
    images = [
        renderer.render(snapshot.qpos, np.array(xy))['exterior_1'] for xy in ((0.45, -0.1), (0.45, 0.1))]
    assert (np.abs(images[0].astype(int) - images[1]).max(axis=-1) > 20).sum() > 200


def test_light_and_colour_follow_the_seed(world, renderer):
    world.reset('reach', 0)
    randomizer = Randomizer(world.scene, CONFIG)
    shown = []
    for seed in (1, 2, 1):
        randomizer.apply(seed)
        shown.append(pictures(world, renderer)['exterior_2'])
    assert np.array_equal(shown[0], shown[2])
    assert np.abs(shown[0].astype(int) - shown[1]).mean() > 2.0
    Randomizer(world.scene, SimulationConfig()).apply(1)


def test_without_variation_nothing_changes():
    world = World(SimulationConfig())
    before = world.scene.model.geom_rgba.copy(), world.scene.model.light_diffuse.copy()
    Randomizer(world.scene, world.config).apply(5)
    assert np.allclose(world.scene.model.geom_rgba, before[0])
    assert np.allclose(world.scene.model.light_diffuse, before[1])


def test_an_unknown_camera_is_named(world):
    with pytest.raises(SimulationError, match="'ceiling'"):
        Renderer(world.scene, 64, 64, ('ceiling',))


BUILD = (
    'from cosmos3_ros.sim.configuration import SimulationConfig\n'
    'from cosmos3_ros.sim.renderer import Renderer, RendererError\n'
    'from cosmos3_ros.sim.scene import build_scene\n'
    'try:\n'
    '    Renderer(build_scene(SimulationConfig()), 64, 64)\n'
    'except RendererError as error:\n'
    '    print(error)\n')


@pytest.mark.parametrize(('changes', 'texts'), [
    ({'MUJOCO_GL': 'glfw'}, ['glfw', 'egl (default) or osmesa']),
    # A vendor list with nothing in it is what a machine without Mesa looks like to libEGL.
    ({'MUJOCO_GL': '', '__EGL_VENDOR_LIBRARY_FILENAMES': '/dev/null'},
     ['libegl1 libgl1-mesa-dri', 'apt-get']),
])
def test_without_opengl_the_packages_are_named(changes, texts):
    done = subprocess.run(
        [sys.executable, '-c', BUILD], env={**os.environ, **changes}, capture_output=True, text=True,
        check=False)
    assert done.returncode == 0, done.stderr
    for text in texts:
        assert text in done.stdout
