"""The newest joint state: is it fresh, does the arm stand, may it be armed or reset?"""

import numpy as np

from cosmos3_ros.contracts import JointMeasurement
from cosmos3_ros.robots import Robot

from .config import ControllerConfig
from .plan import Plan


class Readiness:
    """Judge the newest measurement."""

    def __init__(self, robot: Robot, config: ControllerConfig) -> None:
        self._robot = robot
        self._config = config
        self._stale_s = config.joint_state_stale_s or robot.profile.joint_state_stale_s
        self.measurement: JointMeasurement | None = None
        self._fault = ''
        self._still_since_ns: int | None = None

    def take(self, measurement: JointMeasurement, fault: str, now_ns: int) -> None:
        """Take a measurement and what is wrong with it."""
        self.measurement, self._fault = measurement, fault
        speeds, slow = measurement.velocity.tolist(), self._config.standstill_rad_s
        if fault or max(speeds) > slow or min(speeds) < -slow:
            self._still_since_ns = None
        elif self._still_since_ns is None or self._still_since_ns > now_ns:
            self._still_since_ns = now_ns

    def why_stale(self, now_ns: int) -> str:
        """Return why the joint state cannot be used now, or an empty string."""
        if self.measurement is None:
            return 'no joint state has arrived'
        age_s = (now_ns - self.measurement.stamp_ns) * 1e-9
        if age_s > self._stale_s:
            return (
                f'the joint state is {age_s:.3f} s old, {self._stale_s:g} s is allowed '
                '(joint_state_stale_s)')
        return ''

    def is_standing(self, now_ns: int) -> bool:
        """Tell whether fresh measurements show the arm at rest."""
        return not self.why_stale(now_ns) and self._still_since_ns is not None

    def why_not_arm(self, now_ns: int) -> str:
        """Return why the arm may not be armed, or an empty string."""
        reason = self.why_stale(now_ns) or self._fault
        if reason:
            return reason
        assert self.measurement is not None
        if self._still_since_ns is None:
            return self._describe_motion()
        q, limits = self.measurement.position, self._robot.hardware_limits
        outside = np.maximum(limits.lower_rad - q, q - limits.upper_rad)
        worst = int(np.argmax(outside))
        if outside[worst] > 0.0:
            return (
                f'{limits.names[worst]} stands at {q[worst]:.4f} rad, outside of '
                f'{limits.lower_rad[worst]:.4f} to {limits.upper_rad[worst]:.4f}; move it back by hand')
        return ''

    def why_not_reset(self, now_ns: int) -> str:
        """Return why the stop may not be reset, or an empty string."""
        reason = self.why_stale(now_ns) or self._fault
        if reason:
            return reason
        if self._still_since_ns is None:
            return self._describe_motion()
        stood_s = (now_ns - self._still_since_ns) * 1e-9
        if stood_s < self._config.reset_cooldown_s:
            return (
                f'the arm has stood for {stood_s:.3f} s, {self._config.reset_cooldown_s:g} s is needed '
                '(reset_cooldown_s)')
        return ''

    def find_effort_residual(self, plan: Plan, now_ns: int) -> str:
        """Return which joint carries an effort that the model does not explain, or ''."""
        measured, dynamics = self.measurement, self._robot.dynamics
        if not self._config.stop_on_effort_residual or dynamics is None or measured is None \
                or measured.effort is None:
            return ''
        expected = dynamics.effort(measured.position, measured.velocity, plan.sample(now_ns)[2])
        residual = np.abs(measured.effort - expected)
        allowed = self._robot.profile.effort_residual_scale * self._robot.hardware_limits.effort_nm
        worst = int(np.argmax(residual - allowed))
        if residual[worst] <= allowed[worst]:
            return ''
        return (
            f'{self._robot.joint_names[worst]} carries {residual[worst]:.2f} N m that the model does not '
            f'explain, {allowed[worst]:.2f} is allowed (effort_residual_scale)')

    def _describe_motion(self) -> str:
        assert self.measurement is not None
        speed = float(np.abs(self.measurement.velocity).max())
        return (
            f'the arm moves at {speed:.3f} rad/s, {self._config.standstill_rad_s:g} counts as standing '
            '(standstill_rad_s)')
