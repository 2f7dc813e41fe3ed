"""The joint servo inside the simulated arm: a timed position and velocity reference becomes torque."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import ContractError, JointCommand, frozen_array

from .configuration import ARM_JOINTS, SimulationConfig
from .mujoco_library import mujoco
from .scene import Scene

# Error dynamics e'' + 2 w e' + w^2 e = 0 with w = 50 rad/s (computed torque control; Siciliano et
# al., "Robotics", section 8.5.2): at 5 rad/s^2 of unknown acceleration the arm trails by
# 5 / w^2 = 2 mrad, and 2 w dt = 0.2 at 500 Hz is far from the limit of stability.
_STIFFNESS = 2500.0
_DAMPING = 100.0

# A command is extrapolated from its stamp; one that claims to lie farther ahead than this is refused.
_MAX_LEAD_NS = 100_000_000


@dataclass(slots=True)
class CommandCounters:
    """What became of the commands since the world was built."""

    received: int = 0
    refused: int = 0
    timeouts: int = 0
    last_refusal: str = ''


class JointServo:
    """Follow the newest command; brake and hold when commands stop.

    The reference is the newest command carried on at its velocity for the time since its stamp, so
    a position command with a velocity is followed without the lag of a plain position actuator.
    After ``command_timeout_s`` without a command the reference brakes at ``brake_rad_s2`` and holds.
    """

    def __init__(self, scene: Scene, config: SimulationConfig) -> None:
        self.counters = CommandCounters()
        self._scene = scene
        self._config = config
        self._timeout_ns = round(config.command_timeout_s * 1e9)
        self._step_s = config.step_ns * 1e-9
        limits = np.array([scene.model.actuator(name).ctrlrange for name in ARM_JOINTS])
        self._max_torque = limits[:, 1].copy()
        self._wanted = np.zeros(scene.model.nv)
        self._inertial = np.zeros(scene.model.nv)
        self._position = np.zeros(len(ARM_JOINTS))
        self._velocity = np.zeros(len(ARM_JOINTS))
        self._acceleration = np.zeros(len(ARM_JOINTS))
        self._command: JointCommand | None = None
        self._received_ns = 0
        self._gripper = 0.0
        self._led = False

    @property
    def gripper_target(self) -> float:
        """Commanded gripper, 0 open .. 1 closed."""
        return self._gripper

    @property
    def following(self) -> bool:
        """True while commands arrive in time."""
        return self._command is not None

    def reset(self, position: NDArray[np.float64], gripper: float,
              velocity: NDArray[np.float64] | None = None) -> None:
        """Hold ``position`` (after braking from ``velocity``) and forget the last command."""
        self._position = np.array(position, dtype=np.float64)
        self._velocity = np.zeros_like(self._position)
        if velocity is not None:
            self._velocity = np.array(velocity, dtype=np.float64)
        self._acceleration = np.zeros_like(self._position)
        self._command = None
        self._gripper = float(gripper)

    def lead(self, position: NDArray[np.float64], velocity: NDArray[np.float64], gripper: float) -> None:
        """Set the reference of the next step, past all checks: for rollouts on a copy of the world."""
        self._led = True
        self._position, self._velocity, self._gripper = position, velocity, gripper
        self._acceleration = np.zeros_like(position)

    def accept(self, command: JointCommand, measured: NDArray[np.float64], now_ns: int) -> None:
        """Follow ``command`` from now on.

        :param command: A stamp of 0 means now.
        :param measured: Shape (N,), the arm's present position.
        :raises ContractError: Wrong shape, NaN, a stamp too old or too far ahead, or a jump. The
            servo then goes on with the previous command.
        """
        self.counters.received += 1
        try:
            self._check(command, measured, now_ns)
        except ContractError as error:
            self.counters.refused += 1
            self.counters.last_refusal = str(error)
            raise
        self._command = command
        self._received_ns = now_ns
        self._gripper = float(command.gripper)

    def drive(self, data: Any, now_ns: int) -> None:
        """Write the torques of the instant ``now_ns`` into ``data.ctrl``.

        Needs ``mj_step1`` to have run at the present state.
        """
        self._advance_reference(now_ns)
        scene = self._scene
        position_error = self._position - data.qpos[scene.arm_qpos]
        velocity_error = self._velocity - data.qvel[scene.arm_qvel]
        self._wanted[scene.arm_qvel] = (
            self._acceleration + _STIFFNESS * position_error + _DAMPING * velocity_error)
        mujoco.mj_mulM(scene.model, data, self._inertial, self._wanted)
        torque = (self._inertial + data.qfrc_bias - data.qfrc_passive)[scene.arm_qvel]
        data.ctrl[:len(ARM_JOINTS)] = np.minimum(np.maximum(torque, -self._max_torque), self._max_torque)

    def _check(self, command: JointCommand, measured: NDArray[np.float64], now_ns: int) -> None:
        size = len(ARM_JOINTS)
        position = frozen_array('joint command, position', command.position, shape=(size,))
        frozen_array('joint command, velocity', command.velocity, shape=(size,))
        frozen_array('joint command, acceleration', command.acceleration, shape=(size,))
        if not 0.0 <= command.gripper <= 1.0:
            raise ContractError(
                f'joint command, gripper: {command.gripper} arrived, 0 (open) to 1 (closed) is allowed')
        if command.stamp_ns:
            age_ns = now_ns - command.stamp_ns
            if not -_MAX_LEAD_NS <= age_ns <= self._timeout_ns:
                raise ContractError(
                    f'joint command: its stamp is {age_ns * 1e-9:.3f} s old in simulated time, '
                    f'{-_MAX_LEAD_NS * 1e-9:g} to {self._config.command_timeout_s:g} s is allowed; the '
                    'sender must use /clock (use_sim_time: true), or raise command_timeout_s')
        jump = np.abs(position - measured)
        worst = int(jump.argmax())
        if jump[worst] > self._config.max_command_jump_rad:
            raise ContractError(
                f'joint command: {ARM_JOINTS[worst]} at {position[worst]:.3f} rad is {jump[worst]:.3f} rad '
                f'from its measured position, {self._config.max_command_jump_rad:g} is allowed '
                '(max_command_jump_rad)')

    def _advance_reference(self, now_ns: int) -> None:
        if self._led:
            self._led = False
            return
        command = self._command
        if command is not None and now_ns - self._received_ns <= self._timeout_ns:
            ahead_s = (now_ns - (command.stamp_ns or self._received_ns)) * 1e-9
            self._position = command.position + command.velocity * ahead_s
            self._velocity = command.velocity
            self._acceleration = command.acceleration
            return
        if command is not None:
            self.counters.timeouts += 1
            self._command = None
            self._position = np.array(self._position)
            self._velocity = np.array(self._velocity)
        # Constant deceleration per joint down to rest, integrated exactly over one step.
        change = np.minimum(np.abs(self._velocity), self._config.brake_rad_s2 * self._step_s)
        slower = self._velocity - np.sign(self._velocity) * change
        self._position = self._position + 0.5 * (self._velocity + slower) * self._step_s
        self._acceleration = (slower - self._velocity) / self._step_s
        self._velocity = slower
