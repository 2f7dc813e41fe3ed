"""Values that leave the world: what its sensors say, and the privileged state."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import frozen_array


@dataclass(frozen=True, slots=True, eq=False)
class WorldState:
    """What a real arm would report, and the tool's true pose.

    :param position: Shape (7,), radians, order of ``configuration.ARM_JOINTS``.
    :param velocity: Shape (7,), rad/s.
    :param effort: Shape (7,), N m, the torques in force.
    :param finger_m: Travel of one finger, 0 closed.
    :param gripper: Measured, 0 open .. 1 closed.
    :param tcp: Shape (3,), metres, base frame.
    """

    stamp_ns: int
    position: NDArray[np.float64]
    velocity: NDArray[np.float64]
    effort: NDArray[np.float64]
    finger_m: float
    finger_velocity_m_s: float
    gripper: float
    tcp: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class SimulationSnapshot:
    """The whole state of an episode at one instant, as in msg/SimulationState.

    :param qpos: Generalised positions, MuJoCo's order.
    :param qvel: Generalised velocities, MuJoCo's order.
    :param ctrl: Actuator inputs in force.
    :param zone_xy: Shape (2,), metres, base frame.
    """

    stamp_ns: int
    task: str
    instruction: str
    seed: int
    episode: int
    success: bool
    qpos: NDArray[np.float64]
    qvel: NDArray[np.float64]
    ctrl: NDArray[np.float64]
    zone_xy: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Check finiteness and freeze the arrays.

        :raises ContractError: NaN, or a wrong shape.
        """
        for name in ('qpos', 'qvel', 'ctrl'):
            object.__setattr__(self, name, frozen_array(name, getattr(self, name), shape=(None,)))
        object.__setattr__(self, 'zone_xy', frozen_array('zone_xy', self.zone_xy, shape=(2,)))
