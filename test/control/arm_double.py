"""An arm that does what it is told one tick later, and short ways to drive a controller in tests."""

import numpy as np

from cosmos3_ros.contracts import ActionChunk, ControllerMode, JointMeasurement, ModelIdentity
from cosmos3_ros.control import Controller, ControllerConfig
from cosmos3_ros.robots import load_robot

# 200 Hz: the plans are the same as at 500 Hz, and the tests faster.
TICK_NS = 5_000_000
STEP_NS = 66_666_667
START_NS = 1_700_000_000_000_000_000
IDENTITY = ModelIdentity('test@0', 'numpy', False)
_robots = {}


def robot_of(name='panda', profile='lab'):
    key = name, profile
    if key not in _robots:
        _robots[key] = load_robot(name, profile)
    return _robots[key]


def chunk_of(robot, stamp_ns, rows, step_ns=STEP_NS, gripper=None, names=None, trace_id=''):
    return ActionChunk(
        stamp_ns=stamp_ns, step_ns=step_ns, joint_names=names or robot.joint_names, positions=rows,
        gripper=np.zeros(len(rows)) if gripper is None else gripper, contract='droid_joint', instruction='',
        seed=0, steps=0, guidance=1.0, policy='test', identity=IDENTITY, trace_id=trace_id, latency_s=0.0)


class Arm:
    """A controller with a simulated arm; ``now_ns`` only moves in :meth:`run`."""

    def __init__(self, robot=None, position=None, witness=None, **config):
        self.robot = robot or robot_of()
        self.controller = Controller(self.robot, ControllerConfig(**{'rate_hz': 200.0, **config}))
        self.position = np.array(self.robot.home_rad if position is None else position)
        self.velocity = np.zeros_like(self.position)
        self.offset = np.zeros_like(self.position)
        self.now_ns = START_NS
        self.witness = witness
        self.reports = True
        self.follows = True
        self.commands = []

    def ready(self):
        self.controller.warm_up()
        self.measure()
        return self

    def armed(self):
        self.ready()
        verdict = self.controller.arm(self.now_ns)
        assert verdict.accepted, verdict
        return self

    def measure(self, position=None, velocity=None):
        position = self.position + self.offset if position is None else position
        velocity = self.velocity if velocity is None else velocity
        self.controller.measure(
            JointMeasurement(self.now_ns, self.robot.joint_names, position, velocity), self.now_ns)

    def submit(self, rows, age_s=0.15, **kw):
        return self.controller.submit(
            chunk_of(self.robot, self.now_ns - int(age_s * 1e9), rows, **kw), self.now_ns)

    def run(self, seconds):
        for _ in range(round(seconds * 1e9 / TICK_NS)):
            self.step()
        return self

    def step(self, tick_ns=TICK_NS):
        self.now_ns += tick_ns
        if self.reports:
            self.measure()
        before = self.controller.planner.plan
        command = self.controller.tick(self.now_ns)
        plan = self.controller.planner.plan
        if self.witness is not None and plan is not before:
            times = plan.start_ns + plan.step_ns * np.arange(plan.steps + 1)
            self.witness.check_plan(times, plan.position, plan.velocity, plan.acceleration, plan.jerk)
        if command is None:
            self.velocity = np.zeros_like(self.position)
            return None
        self.commands.append(command)
        if self.witness is not None:
            self.witness.check_command(
                command.stamp_ns, command.position, command.velocity, command.acceleration)
        if self.follows and self.mode is not ControllerMode.SHADOW:
            self.position, self.velocity = command.position, command.velocity
        return command

    @property
    def mode(self):
        return self.controller.mode

    def state(self):
        return self.controller.state(self.now_ns)

    def swing(self, size=0.1, rows=32, rate=1.0):
        """Rows that swing about the present position, starting there at the stamp of the chunk."""
        t = np.arange(1, rows + 1) * STEP_NS * 1e-9
        return self.position + size * np.sin(rate * t)[:, None]
