"""The loop without ROS: world, oracle, a policy latency, and whatever tracks the chunks.

Also a script: ``python test/sim/closed_loop.py --episodes 10`` prints the success rate of each task.
"""

import argparse
from dataclasses import dataclass
import sys
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import ActionChunk, ControllerMode, JointCommand, JointMeasurement, Observation
from cosmos3_ros.generator.oracle import OraclePolicy
from cosmos3_ros.sim.configuration import ARM_JOINTS, SimulationConfig
from cosmos3_ros.sim.tasks import TASKS
from cosmos3_ros.sim.world import World

CAMERA_NS = round(1e9 / 15)
BLANK = np.zeros((2, 2, 3), np.uint8)


class Tracker(Protocol):
    """What turns chunks into commands."""

    command_ns: int
    """Nanoseconds between commands."""

    def begin(self, measurement: JointMeasurement) -> None: ...
    def submit(self, chunk: ActionChunk, now_ns: int) -> None: ...
    def command(self, measurement: JointMeasurement, now_ns: int) -> JointCommand | None: ...


class BlendingInterpolator:
    """The least that follows chunks: linear between rows, blended from the old chunk to the new one."""

    command_ns = 10_000_000
    blend_ns = 300_000_000

    def begin(self, measurement: JointMeasurement) -> None:
        self._hold = measurement.position
        self._old: ActionChunk | None = None
        self._new: ActionChunk | None = None
        self._since_ns = 0
        self._last: NDArray[np.float64] | None = None

    def submit(self, chunk: ActionChunk, now_ns: int) -> None:
        self._old, self._new, self._since_ns = self._new, chunk, now_ns

    def command(self, measurement: JointMeasurement, now_ns: int) -> JointCommand | None:
        if self._new is None:
            return None
        share = min(1.0, (now_ns - self._since_ns) / self.blend_ns)
        share = share * share * (3.0 - 2.0 * share)
        position = (1.0 - share) * self._sample(self._old, now_ns) + share * self._sample(self._new, now_ns)
        last = position if self._last is None else self._last
        self._last = position
        velocity = (position - last) / (self.command_ns * 1e-9)
        row = int(np.clip((now_ns - self._new.stamp_ns) // self._new.step_ns, 0, self._new.horizon - 1))
        return JointCommand(now_ns, position, velocity, np.zeros(7), float(self._new.gripper[row]))

    def _sample(self, chunk: ActionChunk | None, now_ns: int) -> NDArray[np.float64]:
        if chunk is None:
            return self._hold
        index = np.clip((now_ns - chunk.stamp_ns) / chunk.step_ns - 1.0, 0.0, chunk.horizon - 1.0)
        low = int(index)
        high = min(low + 1, chunk.horizon - 1)
        return chunk.positions[low] + (chunk.positions[high] - chunk.positions[low]) * (index - low)


class RealController:
    """The package's own controller under the ``lab`` profile, in RUNNING."""

    command_ns = 2_000_000

    def __init__(self) -> None:
        from cosmos3_ros.control.config import ControllerConfig
        from cosmos3_ros.robots import load_robot
        self._robot = load_robot('panda', 'lab')
        self._config = ControllerConfig()

    def begin(self, measurement: JointMeasurement) -> None:
        from cosmos3_ros.control.controller import Controller
        self.controller = Controller(self._robot, self._config)
        self.controller.warm_up()
        self._armed = False
        self.refusals: list[str] = []

    def submit(self, chunk: ActionChunk, now_ns: int) -> None:
        verdict = self.controller.submit(chunk, now_ns)
        if not verdict.accepted:
            self.refusals.append(verdict.reason)

    def command(self, measurement: JointMeasurement, now_ns: int) -> JointCommand | None:
        self.controller.measure(measurement, now_ns)
        if not self._armed:
            verdict = self.controller.arm(now_ns)
            self._armed = verdict.accepted
            if not verdict.accepted:
                self.refusals.append(verdict.reason)
        command = self.controller.tick(now_ns)
        sends = (ControllerMode.RUNNING, ControllerMode.STOPPING)
        return command if self.controller.mode in sends else None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an episode came to."""

    success: bool
    seconds: float
    chunks: int
    tracking_error_rad: float
    largest_speed_rad_s: float


def measure(world: World) -> JointMeasurement:
    state = world.state()
    return JointMeasurement(
        world.time_ns, ARM_JOINTS, state.position, state.velocity, state.effort, state.gripper)


def observe(world: World, stamp_ns: int) -> Observation:
    state = world.state()
    return Observation(stamp_ns, {'wrist': BLANK}, ARM_JOINTS, state.position, state.gripper, 0)


def run_episode(world: World, oracle: OraclePolicy, tracker: Tracker, task: str, seed: int, *,
                latency_s: float = 0.3, replan_s: float = 0.5, limit_s: float = 20.0) -> Outcome:
    """Run until half a second after success, or until ``limit_s``."""
    instruction = world.reset(task, seed).instruction
    tracker.begin(measure(world))
    start_ns = world.time_ns
    camera_ns = replan_ns = snapshot_ns = start_ns
    pending: tuple[int, ActionChunk] | None = None
    chunks = 0
    worst = fastest = 0.0
    done_ns: int | None = None
    while world.time_ns - start_ns < limit_s * 1e9:
        now = world.time_ns
        if now >= snapshot_ns:
            oracle.update_state(world.snapshot())
            snapshot_ns += CAMERA_NS // 2
        if now >= camera_ns:
            camera_ns += CAMERA_NS
            if now >= replan_ns and pending is None:
                pending = now + round(latency_s * 1e9), oracle.generate(
                    observe(world, now), instruction, seed=seed)
                replan_ns = now + round(replan_s * 1e9)
                chunks += 1
        if pending is not None and now >= pending[0]:
            tracker.submit(pending[1], now)
            pending = None
        command = tracker.command(measure(world), now)
        if command is not None:
            world.apply(command)
        world.step_until(now + tracker.command_ns)
        if command is not None:
            state = world.state()
            expected = command.position + command.velocity * (tracker.command_ns * 1e-9)
            worst = max(worst, float(np.abs(state.position - expected).max()))
            fastest = max(fastest, float(np.abs(state.velocity).max()))
        if done_ns is None and world.success():
            done_ns = world.time_ns
        if done_ns is not None and world.time_ns - done_ns > 500_000_000:
            break
    return Outcome(world.success(), (world.time_ns - start_ns) * 1e-9, chunks, worst, fastest)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--episodes', type=int, default=10)
    parser.add_argument('--latency', type=float, default=0.3)
    parser.add_argument('--replan', type=float, default=0.5)
    parser.add_argument('--tracker', choices=('interpolator', 'controller'), default='controller')
    parser.add_argument('tasks', nargs='*', default=list(TASKS))
    options = parser.parse_args()
    world, oracle = World(SimulationConfig()), OraclePolicy()
    tracker: Tracker = RealController() if options.tracker == 'controller' else BlendingInterpolator()
    for task in options.tasks:
        outcomes = []
        for seed in range(options.episodes):
            outcomes.append(run_episode(
                world, oracle, tracker, task, seed, latency_s=options.latency, replan_s=options.replan))
            if not outcomes[-1].success:
                sys.stdout.write(f'  {task} seed {seed} failed: {outcomes[-1]}\n')
                if isinstance(tracker, RealController):
                    state = tracker.controller.state(world.time_ns)
                    sys.stdout.write(f'    {tracker.refusals[-1:]} {state}\n')
        sys.stdout.write(
            f'{task}: {sum(o.success for o in outcomes)}/{len(outcomes)} '
            f'mean {np.mean([o.seconds for o in outcomes]):.1f} s, tracking error up to '
            f'{1e3 * max(o.tracking_error_rad for o in outcomes):.2f} mrad, speed up to '
            f'{max(o.largest_speed_rad_s for o in outcomes):.2f} rad/s\n')
        sys.stdout.flush()
    return 0


if __name__ == '__main__':
    sys.exit(main())
