"""Efforts close the loop: inverse dynamics and PID drive a torque-controlled arm in MuJoCo."""

from arm_double import chunk_of, robot_of
import numpy as np
import pytest

from cosmos3_ros.contracts import ContractError, ControllerMode, JointMeasurement, StopReason
from cosmos3_ros.control import Controller, ControllerConfig, EffortGains
from cosmos3_ros.control.effort import EffortLaw

mujoco = pytest.importorskip('mujoco', reason="the extra 'sim' is not installed")

STEP_NS = 2_000_000
CHUNK_S = 1 / 15


class TorqueArm:
    """MuJoCo's arm under the controller's efforts, nothing else; it has its own masses and mathematics."""

    def __init__(self, **config):
        from cosmos3_ros.sim.configuration import SimulationConfig
        from cosmos3_ros.sim.scene import build_scene
        self.robot = robot_of('panda', 'lab')
        self.scene = build_scene(SimulationConfig())
        self.data = mujoco.MjData(self.scene.model)
        self.data.qpos[self.scene.arm_qpos] = self.robot.home_rad
        mujoco.mj_forward(self.scene.model, self.data)
        self.controller = Controller(self.robot, ControllerConfig(command_effort=True, **config))
        self.controller.warm_up()
        self.now_ns = self.start_ns = 10**12
        # Until the first command the arm's own brakes and gravity compensation hold it.
        self.effort = self.robot.dynamics.gravity(self.robot.home_rad)
        self.errors, self.efforts = [], []
        self.measure()
        assert self.controller.arm(self.now_ns).accepted

    def measure(self):
        scene, data = self.scene, self.data
        self.controller.measure(JointMeasurement(
            self.now_ns, self.robot.joint_names, data.qpos[scene.arm_qpos].copy(),
            data.qvel[scene.arm_qvel].copy(), self.effort), self.now_ns)

    def submit_swing(self):
        """The next two seconds of a swing of all joints."""
        t = (self.now_ns - self.start_ns) * 1e-9 + CHUNK_S * np.arange(1, 33)
        rows = self.robot.home_rad + 0.15 * np.sin(1.2 * t)[:, None]
        return self.controller.submit(chunk_of(self.robot, self.now_ns, rows), self.now_ns)

    def run(self, seconds, push_n=0.0):
        model, data = self.scene.model, self.data
        hand = model.body(model.site('tcp').bodyid[0]).id
        for _ in range(round(seconds * 1e9 / STEP_NS)):
            if (self.now_ns - self.start_ns) % 500_000_000 == 0:
                self.submit_swing()
            command = self.controller.tick(self.now_ns)
            if command is not None:
                self.effort = command.effort
                self.efforts.append(command.effort)
                self.errors.append(data.qpos[self.scene.arm_qpos] - command.position)
            data.xfrc_applied[hand, 2] = -push_n
            data.ctrl[:7] = self.effort
            mujoco.mj_step(model, data)
            self.now_ns += STEP_NS
            self.measure()
        return self


def test_the_arm_follows_through_efforts_alone():
    arm = TorqueArm().run(2.5)
    assert arm.controller.mode is ControllerMode.RUNNING
    errors, efforts = np.stack(arm.errors), np.stack(arm.efforts)
    assert np.ptp(arm.data.qpos[arm.scene.arm_qpos] - arm.robot.home_rad) < 1.0
    assert np.abs(np.diff(np.stack(arm.errors), axis=0)).max() < 1e-3
    # PD alone would droop by gravity / stiffness, some 70 mrad at joint 2.
    assert np.sqrt((errors**2).mean()) < 2e-3, np.sqrt((errors**2).mean(axis=0))
    limits = arm.robot.limits
    assert (np.abs(efforts) <= limits.effort_nm).all()
    step = limits.effort_rate_nm_s * STEP_NS * 1e-9
    assert (np.abs(np.diff(efforts, axis=0)) <= step * (1 + 1e-9)).all()


def test_feed_forward_carries_the_arm_and_feedback_corrects_it():
    """Without any feedback the arm drifts (MuJoCo's has friction) where it would fall; with it, hardly."""
    free = TorqueArm(effort=EffortGains(0.0, 0.0, 0.0, 0.0), tracking_error_rad=1.0).run(1.0)
    tied = TorqueArm().run(1.0)
    assert np.abs(free.errors[-1]).max() < 0.4
    assert np.abs(tied.errors[-1]).max() < 0.2 * np.abs(free.errors[-1]).max()


def test_a_push_that_the_model_does_not_explain_stops():
    arm = TorqueArm(stop_on_effort_residual=True).run(1.5)
    assert arm.controller.mode is ControllerMode.RUNNING, arm.controller.state(arm.now_ns).stop_detail
    arm.run(1.0, push_n=150.0)
    state = arm.controller.state(arm.now_ns)
    assert state.stop_reason is StopReason.EXTERNAL_FORCE
    assert 'effort_residual_scale' in state.stop_detail and 'N m' in state.stop_detail


def test_efforts_are_refused_without_a_model():
    from dataclasses import replace
    with pytest.raises(ContractError, match='no inertial parameters'):
        Controller(replace(robot_of('panda', 'lab'), dynamics=None), ControllerConfig(command_effort=True))


def test_the_integral_does_not_wind_up_at_the_clamp():
    """A blocked arm, far off: the effort stays at its limit and comes off it as soon as the error turns."""
    robot = robot_of('panda', 'lab')
    law = EffortLaw(robot, EffortGains())
    still = np.zeros(7)
    now_ns = 0

    def command(offset):
        nonlocal now_ns
        now_ns += STEP_NS
        measured = JointMeasurement(now_ns, robot.joint_names, robot.home_rad - offset, still)
        return law.command(robot.home_rad, still, still, measured, now_ns)

    limit = robot.limits.effort_nm
    for _ in range(800):
        effort = command(0.8)
    np.testing.assert_allclose(effort, limit)
    integral = law._integral.copy()
    assert (integral <= EffortGains().integral_share * limit + 1e-12).all()
    # Half the clamp's worth of time at the rate limit, not the seconds that the error lasted.
    steps = int(np.ceil((2 * limit / (robot.limits.effort_rate_nm_s * STEP_NS * 1e-9)).max())) + 2
    for _ in range(steps):
        effort = command(-0.8)
    np.testing.assert_allclose(effort, -limit)
