"""Seeded changes of light, colour and camera mounting.

A function of the seed alone, so that every process that draws the same episode draws it alike.
"""

from typing import Any

import numpy as np

from .configuration import SimulationConfig
from .mujoco_library import mujoco
from .scene import Scene

# Keeps these draws independent of those of the placement, which use the plain seed.
_STREAM = 0x11C47

# Camera slot to metres and radians per axis at the strongest setting: a tripod put up again by eye, and a
# bracket screwed on again.
_CAMERA_PLAY = {'wrist': (0.004, 0.02), 'exterior_1': (0.04, 0.05), 'exterior_2': (0.04, 0.05)}


class Randomizer:
    """Changes a model's lights, colours and cameras from the values it was built with.

    The strongest setting (1.0) halves or doubles a light, moves a colour channel by 0.25, and moves an
    exterior camera by 0.04 m and 0.05 rad, the wrist camera by 0.004 m and 0.02 rad, per axis.
    """

    def __init__(self, scene: Scene, config: SimulationConfig) -> None:
        self._model: Any = scene.model
        self._light = config.light_variation
        self._colour = config.colour_variation
        self._camera = config.camera_variation
        self._diffuse = scene.model.light_diffuse.copy()
        self._direction = scene.model.light_dir.copy()
        self._ambient = scene.model.vis.headlight.ambient.copy()
        self._rgba = scene.model.geom_rgba.copy()
        self._camera_position = scene.model.cam_pos.copy()
        self._camera_rotation = scene.model.cam_quat.copy()
        self._painted = [
            int(scene.model.geom(name).id)
            for name in ('table', 'floor', *(f'cube_{colour}' for colour in config.cubes))]

    def apply(self, seed: int) -> None:
        """Set lights and colours of the episode with this seed."""
        rng = np.random.default_rng([_STREAM, seed])
        model = self._model
        gain = 2.0 ** (self._light * rng.uniform(-1.0, 1.0, size=(len(self._diffuse), 1)))
        tilt = 0.5 * self._light * rng.uniform(-1.0, 1.0, size=self._direction.shape)
        ambient = 2.0 ** (0.5 * self._light * rng.uniform(-1.0, 1.0))
        shift = 0.25 * self._colour * rng.uniform(-1.0, 1.0, size=(len(self._painted), 3))
        model.light_diffuse[:] = np.clip(self._diffuse * gain, 0.0, 1.0)
        direction = self._direction + tilt
        model.light_dir[:] = direction / np.linalg.norm(direction, axis=1, keepdims=True)
        model.vis.headlight.ambient[:] = np.clip(self._ambient * ambient, 0.0, 1.0)
        model.geom_rgba[:] = self._rgba
        model.geom_rgba[self._painted, :3] = np.clip(self._rgba[self._painted, :3] + shift, 0.0, 1.0)
        self._move_cameras(np.random.default_rng([_STREAM, seed, 1]))

    def _move_cameras(self, rng: np.random.Generator) -> None:
        for slot, (metres, radians) in _CAMERA_PLAY.items():
            index = int(self._model.camera(slot).id)
            shift = self._camera * rng.uniform(-1.0, 1.0, size=(2, 3))
            turn, turned = np.zeros(4), np.zeros(4)
            mujoco.mju_euler2Quat(turn, radians * shift[1], 'xyz')
            mujoco.mju_mulQuat(turned, self._camera_rotation[index], turn)
            self._model.cam_pos[index] = self._camera_position[index] + metres * shift[0]
            self._model.cam_quat[index] = turned
