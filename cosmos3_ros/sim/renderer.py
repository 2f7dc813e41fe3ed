"""Off-screen pictures of the scene."""

from collections.abc import Mapping, Sequence
from importlib import import_module
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .configuration import CAMERA_SLOTS, SimulationError
from .mujoco_library import mujoco
from .scene import Scene

_LABEL_WIDTH = 320


class RendererError(RuntimeError):
    """There is no way to render here. The text names what to install."""


class Renderer:
    """Renders the cameras of a scene without a display.

    One OpenGL context, bound to the thread that built it. EGL unless the environment variable
    MUJOCO_GL says ``osmesa``.

    :param scene: Model to draw; its lights and colours may change between calls.
    :param width: Pixels of the largest picture.
    :param height: Pixels of the largest picture.
    :param cameras: Camera slots, in the order of the answer.
    :param sizes: Width and height of the cameras with smaller pictures.
    :raises RendererError: No OpenGL library.
    :raises SimulationError: A camera that the scene does not have.
    """

    def __init__(self, scene: Scene, width: int, height: int, cameras: Sequence[str] = CAMERA_SLOTS, *,
                 sizes: Mapping[str, tuple[int, int]] | None = None, shadows: bool = False) -> None:
        unknown = [c for c in cameras if c not in CAMERA_SLOTS]
        if unknown:
            raise SimulationError(f'cameras: {unknown} arrived, {list(CAMERA_SLOTS)} are allowed')
        self._scene = scene
        self._cameras = {name: int(scene.model.camera(name).id) for name in cameras}
        self._data = mujoco.MjData(scene.model)
        self._gl = create_context(width, height)
        self._gl.make_current()
        self._context = mujoco.MjrContext(scene.model, int(mujoco.mjtFontScale.mjFONTSCALE_100))
        mujoco.mjr_setBuffer(int(mujoco.mjtFramebuffer.mjFB_OFFSCREEN), self._context)
        self._view = mujoco.MjvScene(scene.model, maxgeom=400)
        self._view.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = int(shadows)
        self._view.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._viewports = {}
        self._bottom_up = {}
        for name in cameras:
            w, h = (sizes or {}).get(name, (width, height))
            self._viewports[name] = mujoco.MjrRect(0, 0, w, h)
            self._bottom_up[name] = np.empty((h, w, 3), np.uint8)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Camera slots in the order of the answer."""
        return tuple(self._cameras)

    def render(self, qpos: NDArray[np.float64], zone_xy: NDArray[np.float64]) -> dict[str, NDArray[np.uint8]]:
        """Return one uint8 (H, W, 3) RGB image for each camera.

        :param qpos: Shape (nq,), the state to draw.
        :param zone_xy: Shape (2,), metres, base frame.
        """
        return self._draw(qpos, zone_xy, None)

    def render_labelled(self, qpos: NDArray[np.float64], zone_xy: NDArray[np.float64],
                        ) -> tuple[dict[str, NDArray[np.uint8]], dict[str, NDArray[np.int32]]]:
        """Return the images and what they show: int32 (h, w), the geom's number or -1 for each pixel.

        Labels are at most 320 wide, of the image's aspect: their cost is that of a second picture.
        """
        labels: dict[str, NDArray[np.int32]] = {}
        return self._draw(qpos, zone_xy, labels), labels

    def _draw(self, qpos: NDArray[np.float64], zone_xy: NDArray[np.float64],
              labels: dict[str, NDArray[np.int32]] | None) -> dict[str, NDArray[np.uint8]]:
        data = self._data
        data.qpos[:] = qpos
        data.mocap_pos[self._scene.zone_mocap, :2] = zone_xy
        mujoco.mj_kinematics(self._scene.model, data)
        mujoco.mj_camlight(self._scene.model, data)
        self._gl.make_current()
        images = {}
        everything = int(mujoco.mjtCatBit.mjCAT_ALL)
        for name, camera in self._cameras.items():
            self._camera.fixedcamid = camera
            mujoco.mjv_updateScene(
                self._scene.model, data, self._option, None, self._camera, everything, self._view)
            viewport, bottom_up = self._viewports[name], self._bottom_up[name]
            mujoco.mjr_render(viewport, self._view, self._context)
            mujoco.mjr_readPixels(bottom_up, None, viewport, self._context)
            images[name] = np.ascontiguousarray(bottom_up[::-1])
            if labels is not None:
                labels[name] = self._label(viewport)
        return images

    def _label(self, image: Any) -> NDArray[np.int32]:
        """Draw the scene once more with each geom's number for a colour (MuJoCo: mjRND_IDCOLOR)."""
        shrink = -(-image.width // _LABEL_WIDTH)
        viewport = mujoco.MjrRect(0, 0, image.width // shrink, image.height // shrink)
        pixels = np.empty((viewport.height, viewport.width, 3), np.uint8)
        flags = self._view.flags
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = 1
        mujoco.mjr_render(viewport, self._view, self._context)
        mujoco.mjr_readPixels(pixels, None, viewport, self._context)
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = 0
        # The colour is the drawn geom's segid + 1, lowest byte in red; 0 is the background.
        drawn = np.full(self._view.ngeom + 1, -1, np.int32)
        for geom in self._view.geoms[:self._view.ngeom]:
            if geom.segid >= 0 and geom.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                drawn[geom.segid + 1] = geom.objid
        parts = pixels[::-1].astype(np.int32)
        numbers: NDArray[np.int32] = drawn[parts[:, :, 0] + 256 * parts[:, :, 1] + 65536 * parts[:, :, 2]]
        return numbers

    def close(self) -> None:
        """Free the OpenGL context. A second call does nothing."""
        if self._gl is not None:
            self._gl.make_current()
            self._context.free()
            self._gl.free()
            self._gl = None


def create_context(width: int, height: int) -> Any:
    """Open an off-screen OpenGL context, through EGL or, if MUJOCO_GL asks for it, OSMesa.

    :raises RendererError: The library is missing or has no software driver.
    """
    backend = os.environ.get('MUJOCO_GL', '').strip().lower() or 'egl'
    if backend not in ('egl', 'osmesa'):
        raise RendererError(f'MUJOCO_GL: {backend!r} arrived, egl (default) or osmesa is allowed')
    packages = 'libegl1 libgl1-mesa-dri' if backend == 'egl' else 'libosmesa6'
    # PyOpenGL picks its platform once, on first import, from this variable.
    os.environ['PYOPENGL_PLATFORM'] = backend
    try:
        return import_module(f'mujoco.{backend}').GLContext(width, height)
    # A missing libEGL shows as AttributeError or ImportError inside PyOpenGL, a missing driver as
    # RuntimeError or EGLError: all mean the same to the caller.
    except Exception as error:
        raise RendererError(
            f'cameras cannot be rendered: no {backend} context ({type(error).__name__}: {error}). '
            f'Install it with: apt-get install {packages}; or set MUJOCO_GL to the other of egl, osmesa'
        ) from error
