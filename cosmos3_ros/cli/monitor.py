"""What the graph says about itself, kept for the live view and the final counts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from cosmos3_ros import msg

MODES = ('UNCONFIGURED', 'INACTIVE', 'SHADOW', 'RUNNING', 'STOPPING', 'STOPPED')
REASONS = (
    'NONE', 'OPERATOR', 'STALE_JOINT_STATE', 'STALE_CHUNK', 'TRACKING_ERROR', 'LIMIT_STORM', 'CLOCK_JUMP',
    'INVALID_STATE', 'OVERRUN', 'SHUTDOWN', 'EXTERNAL_FORCE', 'LATENCY', 'INTERNAL_ERROR',
    'SPEED_SCALE_STALE', 'CONFLICT')
"""As in msg/ControllerState."""
IMAGE_PREFIX = 'images_received.'


@dataclass(slots=True)
class NodeReport:
    """The newest /diagnostics of one node.

    :param arrived_s: Monotonic time of arrival.
    """

    level: int
    message: str
    values: Mapping[str, str]
    arrived_s: float

    def number(self, key: str) -> float:
        """Return a value as a number, NaN if it is not there or is none."""
        try:
            return float(self.values.get(key, 'nan'))
        except ValueError:
            return float('nan')


@dataclass(slots=True)
class Stop:
    """One stop of the controller."""

    reason: str
    detail: str


@dataclass(slots=True)
class _Rate:
    """Images per second of one camera, from two consecutive diagnostics."""

    count: float = 0.0
    arrived_s: float = 0.0
    hz: float = float('nan')


@dataclass(slots=True)
class Monitor:
    """Subscribes to the graph's state. Read from any thread.

    :param node: Node that is being spun.
    """

    node: Any
    reports: dict[str, NodeReport] = field(default_factory=dict)
    controller: Any = None
    scene: Any = None
    simulation: Any = None
    scenes: int = 0
    chunks: int = 0
    stops: list[Stop] = field(default_factory=list)
    lateness_p99_us: list[float] = field(default_factory=list)
    rates_hz: dict[str, _Rate] = field(default_factory=dict)
    last_chunk_s: float = float('nan')
    _lock: Any = field(default_factory=threading.Lock)
    _stopped: bool = False

    def __post_init__(self) -> None:
        """Subscribe."""
        latched = QoSProfile(
            depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        node = self.node
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 50)
        node.create_subscription(msg.ControllerState, 'controller_state', self._on_controller, 10)
        node.create_subscription(msg.SceneReport, 'scene', self._on_scene, latched)
        node.create_subscription(msg.SimulationState, 'simulation_state', self._on_simulation, 10)
        node.create_subscription(msg.ActionChunk, 'action_chunk', self._on_chunk, 10)

    @property
    def mode(self) -> str:
        """The controller's mode, ``-`` before its first message."""
        return '-' if self.controller is None else MODES[self.controller.mode]

    def images_received(self, node: str) -> dict[str, int]:
        """Return a node's image counts per camera."""
        report = self.reports.get(node)
        if report is None:
            return {}
        return {key.removeprefix(IMAGE_PREFIX): int(value) for key, value in report.values.items()
                if key.startswith(IMAGE_PREFIX)}

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        now_s = time.monotonic()
        for status in message.status:
            name = status.name.rsplit('/', 1)[-1]
            values = {pair.key: pair.value for pair in status.values}
            level = status.level[0] if isinstance(status.level, bytes) else int(status.level)
            self.reports[name] = NodeReport(level, status.message, values, now_s)
            if name == 'perception':
                for camera, count in self.images_received(name).items():
                    self._count(camera, count, now_s)
            if name == 'controller' and 'lateness_us_p99' in values:
                self.lateness_p99_us.append(float(values['lateness_us_p99']))

    def _count(self, camera: str, count: float, now_s: float) -> None:
        rate = self.rates_hz.setdefault(camera, _Rate())
        if rate.arrived_s and now_s > rate.arrived_s:
            rate.hz = (count - rate.count) / (now_s - rate.arrived_s)
        rate.count, rate.arrived_s = count, now_s

    def _on_controller(self, message: Any) -> None:
        self.controller = message
        stopped = message.mode in (msg.ControllerState.MODE_STOPPING, msg.ControllerState.MODE_STOPPED)
        latched = stopped and message.stop_reason != msg.ControllerState.REASON_NONE
        if latched and not self._stopped:
            self.stops.append(Stop(REASONS[message.stop_reason], message.stop_detail))
        self._stopped = latched

    def _on_scene(self, message: Any) -> None:
        self.scene = message
        self.scenes += 1

    def _on_simulation(self, message: Any) -> None:
        self.simulation = message

    def _on_chunk(self, _: Any) -> None:
        self.chunks += 1
        self.last_chunk_s = time.monotonic()
