"""Assemble the tabletop: arm, table, cubes, target zone, cameras and lights, as one MuJoCo model."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.robots import CameraSlot, Robot, load_robot

from .configuration import ARM_JOINTS, FINGER_JOINTS, ROBOT, SimulationConfig
from .mujoco_library import mujoco

PANDA_XML = Path(__file__).with_name('assets') / 'panda.xml'

CUBE_HALF_M = 0.02
CUBE_MASS_KG = 0.06
_SLIDING = 0.5
"""Friction of cubes and table: wood on wood has 0.25 to 0.5. At 1.0 a cube jams before rubber fingers (1.0 as
well) that press it down however little: one push in fifty, and the controller's tracking stop ends it."""
ZONE_RADIUS_M = 0.07

CUBE_RGBA: dict[str, tuple[float, float, float, float]] = {
    'red': (0.84, 0.11, 0.10, 1.0),
    'green': (0.12, 0.62, 0.20, 1.0),
    'blue': (0.10, 0.27, 0.85, 1.0),
    'yellow': (0.95, 0.77, 0.08, 1.0),
}

# Contact bits: the robot (1) touches the world (2); the world touches itself and the robot.
_WORLD_CONTACT = {'contype': 2, 'conaffinity': 3}
_SEEN_ONLY = {'contype': 0, 'conaffinity': 0}


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A compiled model and where things lie in its state vectors.

    :param arm_qpos: Shape (7,), indices of the arm joints in ``qpos``.
    :param arm_qvel: Shape (7,), indices in ``qvel``.
    :param finger_qpos: Both fingers' indices in ``qpos``.
    :param cube_qpos: Colour to the first of the seven indices (position, quaternion w x y z).
    """

    model: Any
    arm_qpos: NDArray[np.int64]
    arm_qvel: NDArray[np.int64]
    finger_qpos: NDArray[np.int64]
    cube_qpos: dict[str, int]
    cube_qvel: dict[str, int]
    tcp_site: int
    zone_mocap: int


@cache
def simulated_robot() -> Robot:
    """Return the robot's description: names, home pose, gripper joint and camera mounts."""
    return load_robot(ROBOT)


def build_scene(config: SimulationConfig) -> Scene:
    """Compile the scene that ``config`` describes."""
    spec = mujoco.MjSpec.from_file(str(PANDA_XML))
    spec.modelname = 'cosmos3_tabletop'
    spec.option.timestep = config.step_ns * 1e-9
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    # Elliptic cones with a high impratio keep a grasped cube from creeping out (MuJoCo manual,
    # "Solver parameters": impratio).
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10
    _set_visuals(spec, config)
    _add_furniture(spec)
    _add_zone(spec)
    _add_cubes(spec, config.cubes)
    _add_cameras(spec, simulated_robot().cameras)
    _add_lights(spec, config)
    model = spec.compile()
    joints = [model.joint(name) for name in ARM_JOINTS]
    fingers = [model.joint(name) for name in FINGER_JOINTS]
    cube_joints = {colour: model.joint(f'cube_{colour}') for colour in config.cubes}
    return Scene(
        model=model,
        arm_qpos=np.array([int(j.qposadr[0]) for j in joints]),
        arm_qvel=np.array([int(j.dofadr[0]) for j in joints]),
        finger_qpos=np.array([int(j.qposadr[0]) for j in fingers]),
        cube_qpos={c: int(j.qposadr[0]) for c, j in cube_joints.items()},
        cube_qvel={c: int(j.dofadr[0]) for c, j in cube_joints.items()},
        tcp_site=int(model.site('tcp').id),
        zone_mocap=int(model.body('zone').mocapid[0]),
    )


def build_arm() -> Any:
    """Compile the arm alone, for inverse kinematics."""
    return mujoco.MjSpec.from_file(str(PANDA_XML)).compile()


def _set_visuals(spec: Any, config: SimulationConfig) -> None:
    # 'global' is a keyword in Python, hence the trailing underscore of the binding.
    # Every picture clears the whole buffer, so it is no larger than the largest one.
    spec.visual.global_.offwidth = config.image_width
    spec.visual.global_.offheight = config.image_height
    spec.visual.quality.shadowsize = 2048 if config.shadows else 0
    spec.visual.quality.offsamples = 0
    # Rendering on the processor costs by the vertex: 20 x 10 facets still look round here.
    spec.visual.quality.numslices = 20
    spec.visual.quality.numstacks = 10
    spec.visual.map.znear = 0.01
    spec.visual.headlight.ambient = [0.34] * 3
    spec.visual.headlight.diffuse = [0.16] * 3
    spec.visual.headlight.specular = [0.05] * 3
    spec.stat.center = [0.4, 0.0, 0.2]
    spec.stat.extent = 1.2
    spec.add_texture(
        name='sky', type=mujoco.mjtTexture.mjTEXTURE_SKYBOX, builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=[0.80, 0.86, 0.92], rgb2=[0.46, 0.55, 0.66], width=64, height=384)


def _add_furniture(spec: Any) -> None:
    world = spec.worldbody
    # No texture, and one facet (third size): both cost more than the whole arm in software rendering.
    world.add_geom(
        name='floor', type=mujoco.mjtGeom.mjGEOM_PLANE, size=[20, 20, 40], pos=[0, 0, -0.75],
        rgba=[0.46, 0.49, 0.53, 1], **_WORLD_CONTACT)
    # The top's surface is z = 0 of the base frame.
    world.add_geom(
        name='table', type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.60, 0.62, 0.02], pos=[0.35, 0, -0.02],
        rgba=[0.78, 0.67, 0.52, 1], friction=[_SLIDING, 0.005, 0.0001], **_WORLD_CONTACT)
    world.add_geom(
        name='table_edge', type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.585, 0.605, 0.02], pos=[0.35, 0, -0.0601],
        rgba=[0.55, 0.45, 0.34, 1], **_SEEN_ONLY)
    for x in (-0.20, 0.90):
        for y in (-0.55, 0.55):
            world.add_geom(
                type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.03, 0.03, 0.335], pos=[x, y, -0.415],
                rgba=[0.30, 0.31, 0.33, 1], **_SEEN_ONLY)


def _add_zone(spec: Any) -> None:
    # A mocap body: its place is part of the state, so copies of the world and the renderer follow it.
    zone = spec.worldbody.add_body(name='zone', mocap=True, pos=[0.5, 0.2, 0.0])
    disc = mujoco.mjtGeom.mjGEOM_CYLINDER
    zone.add_geom(
        name='zone_rim', type=disc, size=[ZONE_RADIUS_M + 0.006, 0.0004, 0], pos=[0, 0, 0.0004],
        rgba=[0.16, 0.18, 0.22, 1], **_SEEN_ONLY)
    zone.add_geom(
        name='zone', type=disc, size=[ZONE_RADIUS_M, 0.0006, 0], pos=[0, 0, 0.0008],
        rgba=[0.98, 0.98, 0.98, 1], **_SEEN_ONLY)


def _add_cubes(spec: Any, colours: Sequence[str]) -> None:
    for index, colour in enumerate(colours):
        body = spec.worldbody.add_body(name=f'cube_{colour}', pos=[0.5, -0.2 + 0.12 * index, CUBE_HALF_M])
        body.add_freejoint(name=f'cube_{colour}')
        body.add_geom(
            name=f'cube_{colour}', type=mujoco.mjtGeom.mjGEOM_BOX, size=[CUBE_HALF_M] * 3,
            mass=CUBE_MASS_KG, rgba=list(CUBE_RGBA[colour]), friction=[_SLIDING, 0.02, 0.0001], condim=4,
            solref=[0.005, 1], solimp=[0.95, 0.99, 0.001, 0.5, 2], **_WORLD_CONTACT)


def _add_cameras(spec: Any, slots: Sequence[CameraSlot]) -> None:
    """Mount the robot's cameras. MuJoCo looks along -z with y up, an optical frame along z with y down."""
    for slot in slots:
        mount = slot.mount
        body, offset = spec.worldbody, np.zeros(3)
        if mount.parent == 'tool':
            body, offset = spec.body('gripper'), np.asarray(spec.site('tcp').pos)
        roll, pitch, yaw = mount.rpy_rad
        quaternion = np.zeros(4)
        mujoco.mju_euler2Quat(quaternion, np.array([roll, pitch, yaw]), 'XYZ')
        flipped = np.zeros(4)
        mujoco.mju_mulQuat(flipped, quaternion, np.array([0.0, 1.0, 0.0, 0.0]))
        body.add_camera(
            name=slot.name, pos=(offset + mount.xyz_m).tolist(), quat=flipped.tolist(),
            fovy=float(np.degrees(mount.vertical_fov_rad)))


def _add_lights(spec: Any, config: SimulationConfig) -> None:
    spec.worldbody.add_light(
        name='key', pos=[0.9, -0.9, 2.2], dir=[-0.30, 0.40, -1.0], diffuse=[0.46] * 3,
        specular=[0.15] * 3, type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, castshadow=config.shadows)
    spec.worldbody.add_light(
        name='fill', pos=[0.2, 1.2, 1.8], dir=[0.1, -0.7, -1.0], diffuse=[0.14] * 3,
        specular=[0.0] * 3, type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, castshadow=False)
