"""The controller's state as others see it."""

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class ControllerMode(IntEnum):
    """Mode of the supervisor. Values as in msg/ControllerState."""

    UNCONFIGURED = 0
    INACTIVE = 1
    SHADOW = 2
    RUNNING = 3
    STOPPING = 4
    STOPPED = 5


class StopReason(IntEnum):
    """Why the controller stopped. Values as in msg/ControllerState."""

    NONE = 0
    OPERATOR = 1
    STALE_JOINT_STATE = 2
    STALE_CHUNK = 3
    TRACKING_ERROR = 4
    LIMIT_STORM = 5
    CLOCK_JUMP = 6
    INVALID_STATE = 7
    OVERRUN = 8
    SHUTDOWN = 9
    EXTERNAL_FORCE = 10
    LATENCY = 11
    INTERNAL_ERROR = 12
    SPEED_SCALE_STALE = 13
    CONFLICT = 14


@dataclass(frozen=True, slots=True, eq=False)
class ControllerState:
    """Snapshot of the controller. Units as in msg/ControllerState."""

    stamp_ns: int
    mode: ControllerMode
    stop_reason: StopReason
    stop_detail: str
    speed_scale: float
    chunk_age_s: float
    chunk_trace_id: str
    joint_names: tuple[str, ...]
    commanded_position: NDArray[np.float64]
    tracking_error: NDArray[np.float64]
    active_limits: tuple[str, ...] = ()
    chunks_accepted: int = 0
    chunks_rejected: int = 0
    last_rejection: str = ''
    plans_committed: int = 0
    plans_rejected: int = 0
    overruns: int = 0
    seam: dict[str, float] = field(default_factory=dict)
    """Jumps across the last splice: position, velocity, acceleration, jerk (largest joint)."""
