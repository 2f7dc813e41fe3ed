"""Node ``simulator_cameras``: draws the simulated cameras. A child of ``simulator``, which starts it."""

import ctypes
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
from typing import Any

import numpy as np
from rclpy.publisher import Publisher
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from cosmos3_ros.robots import CameraSlot
from cosmos3_ros.sim.randomization import Randomizer
from cosmos3_ros.sim.renderer import Renderer
from cosmos3_ros.sim.scene import build_scene, simulated_robot
from cosmos3_ros.sim.shared_state import DrawnState, SharedState

from .base import LifecycleBase, SetupError
from .diagnostics import Level, Report, Window
from .images import compressed_message, rgb_message
from .messages import to_time
from .parameters import Parameter, ParameterTable
from .qos import qos_parameters, qos_profile
from .run import run_node

PR_SET_PDEATHSIG = 1
WAKE_S = 0.1
BUILD_TIMEOUT_S = 25.0

CAMERA_PROCESS_PARAMETERS = (
    Parameter('jpeg_quality', int, 90, 'Quality of <camera>/image_raw/compressed.', range=(1, 100),
              read_only=True),
    *qos_parameters('images', 'camera_info'),
)
"""Declared by ``simulator`` too, which passes its values on: one place to set them."""


class SimulatorCamerasNode(LifecycleBase):
    """Publishes pictures of the shared state whenever its parent asks for them.

    All pictures of a set carry the simulated time of the state that they show.
    """

    NAME = 'simulator_cameras'
    TABLE = ParameterTable(
        Parameter('state_descriptor', int, -1, 'Inherited descriptor of the shared state.', read_only=True),
        Parameter('tick_descriptor', int, -1, 'Inherited descriptor of the socket.', read_only=True),
        *CAMERA_PROCESS_PARAMETERS,
    )

    def setup(self) -> None:
        """Open what was inherited, build the renderer, wire the topics."""
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._socket: socket.socket | None = None
        self._shared: SharedState | None = None
        values = self.values
        if values['state_descriptor'] < 0 or values['tick_descriptor'] < 0:
            raise SetupError('simulator_cameras is started by simulator; it cannot run alone')
        # The thread that draws is the parent's wish; the kernel must not leave us behind if it dies.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        self._socket = socket.socket(fileno=values['tick_descriptor'])
        self._socket.settimeout(WAKE_S)
        self._shared = SharedState(values['state_descriptor'])
        self._cameras = {slot.name: slot for slot in simulated_robot().cameras}
        self._render_ms = Window(300)
        self._latency_ms = Window(300)
        images, infos = qos_profile(values, 'images'), qos_profile(values, 'camera_info')
        self._raw: dict[str, Publisher[Any]] = {}
        self._compressed: dict[str, Publisher[Any]] = {}
        self._info: dict[str, tuple[Publisher[Any], CameraInfo]] = {}
        for name, slot in self._cameras.items():
            stem = slot.topic.rpartition('/')[0] or slot.name
            self._raw[name] = self.create_publisher(Image, slot.topic, images)
            self._compressed[name] = self.create_publisher(
                CompressedImage, f'{slot.topic}/compressed', images)
            config = self._shared.config
            self._info[name] = (
                self.create_publisher(CameraInfo, f'{stem}/camera_info', infos),
                camera_info(slot, *config.picture_size(name)))
        built: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(built,), name='render', daemon=True)
        self._thread.start()
        try:
            problem = built.get(timeout=BUILD_TIMEOUT_S)
        except queue.Empty:
            problem = SetupError(f'the renderer was not built within {BUILD_TIMEOUT_S:g} s')
        if problem is not None:
            self._answer(str(problem))
            raise problem

    def start(self) -> None:
        """Tell the parent that pictures can be asked for."""
        self._answer('')

    def teardown(self) -> None:
        """End the thread and close what was inherited."""
        if not hasattr(self, '_stopping'):
            return
        self._stopping.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(2.0)
        for resource in (self._socket, self._shared):
            if resource is not None:
                resource.close()
        self._socket = self._shared = None

    def diagnose(self, report: Report) -> None:
        """Counts and times of the pictures."""
        report.put(images_published=self.counters['images_published'],
                   image_sets_skipped=self.counters['image_sets_skipped'],
                   **self._render_ms.summary('render_ms'), **self._latency_ms.summary('publish_ms'))
        if self.counters['image_sets_skipped']:
            report.add(Level.WARN, (
                f'{self.counters["image_sets_skipped"]} sets skipped: rendering is too slow; lower '
                'camera_rate_hz or the image size'))

    def _answer(self, error: str) -> None:
        if self._socket is not None:
            try:
                self._socket.send(json.dumps({'error': error}).encode())
            except OSError as problem:
                self.get_logger().debug(f'the simulator does not listen: {problem}')

    def _run(self, built: 'queue.SimpleQueue[Exception | None]') -> None:
        """Build, then draw whenever asked. OpenGL contexts belong to one thread, so all happens here."""
        shared, ticks = self._shared, self._socket
        assert shared is not None and ticks is not None
        try:
            config = shared.config
            scene = build_scene(config)
            renderer = Renderer(
                scene, config.image_width, config.image_height, tuple(self._cameras),
                sizes={name: config.picture_size(name) for name in self._cameras}, shadows=config.shadows)
            randomizer = Randomizer(scene, config)
            # The first pictures compile shaders.
            for _ in range(2):
                renderer.render(scene.model.qpos0, np.zeros(2))
        except Exception as error:
            built.put(error)
            return
        built.put(None)
        drawn = (-1, -1)
        while not self._stopping.is_set():
            if not self._wait_for_tick(ticks):
                continue
            try:
                state = shared.read()
                if state is None or (state.episode, state.stamp_ns) == drawn:
                    continue
                if state.episode != drawn[0]:
                    randomizer.apply(state.seed)
                drawn = (state.episode, state.stamp_ns)
                self._draw(renderer, state)
            except Exception as error:
                self.report_exception('render', error)
        renderer.close()

    def _wait_for_tick(self, ticks: socket.socket) -> bool:
        """Wait for a request; several that piled up count as one."""
        try:
            if not ticks.recv(16):
                raise ConnectionResetError
            ticks.setblocking(False)
            try:
                while ticks.recv(16):
                    self.counters.add('image_sets_skipped')
            except BlockingIOError:
                pass
            finally:
                ticks.settimeout(WAKE_S)
        except TimeoutError:
            return False
        except OSError:
            # The parent is gone or has closed its end: there is nobody to draw for.
            if not self._stopping.is_set():
                self._stopping.set()
                os.kill(os.getpid(), signal.SIGTERM)
            return False
        return True

    def _draw(self, renderer: Renderer, state: DrawnState) -> None:
        begin = time.perf_counter()
        images = renderer.render(state.qpos, state.zone_xy)
        rendered = time.perf_counter()
        if not self.active:
            return
        for name, image in images.items():
            frame = self._cameras[name].frame_id
            publisher, info = self._info[name]
            info.header.stamp = to_time(state.stamp_ns)
            publisher.publish(info)
            self._raw[name].publish(rgb_message(image, stamp_ns=state.stamp_ns, frame_id=frame))
            if self._compressed[name].get_subscription_count() > 0:
                self._compressed[name].publish(compressed_message(
                    image, stamp_ns=state.stamp_ns, frame_id=frame, quality=self.values['jpeg_quality']))
            self.counters.add('images_published')
        self._render_ms.add((rendered - begin) * 1e3)
        self._latency_ms.add((time.perf_counter() - rendered) * 1e3)


def camera_info(slot: CameraSlot, width: int, height: int) -> CameraInfo:
    """Return the calibration of an ideal pinhole camera (sensor_msgs/CameraInfo; the focal length is
    half the height over the tangent of half the vertical angle of view, for square pixels).
    """
    focal = 0.5 * height / np.tan(0.5 * slot.mount.vertical_fov_rad)
    # The middle of the picture lies between the two middle pixels, whose centres are whole numbers.
    cx, cy = 0.5 * (width - 1), 0.5 * (height - 1)
    info = CameraInfo(width=width, height=height, distortion_model='plumb_bob', d=[0.0] * 5)
    info.header.frame_id = slot.frame_id
    info.k = [focal, 0.0, cx, 0.0, focal, cy, 0.0, 0.0, 1.0]
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    info.p = [focal, 0.0, cx, 0.0, 0.0, focal, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(SimulatorCamerasNode, args)


if __name__ == '__main__':
    sys.exit(main())
