"""One session of the long fuzz: an arm, a tracker, a family of chunks, random disturbances, a checker."""

from collections import Counter
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import (
    ContractError,
    ControllerMode,
    JointCommand,
    JointMeasurement,
    StopReason,
)
from cosmos3_ros.robots import Robot

from .config import ControllerConfig
from .controller import Controller
from .hostile import HostileChunks

Array = NDArray[np.float64]

TICK_NS = 2_000_000
CHUNK_PERIOD_NS = 270_000_000
START_MARGIN_M = 0.02
# Events per second of a session, beside the chunks.
EVENT_RATE_HZ = 0.7


class LimitChecker(Protocol):
    """What the fuzz needs of a checker; it must share no code with the controller."""

    def restart(self) -> None:
        """Forget the last sample: the next one starts a new motion or a new time base."""

    def check_command(self, stamp_ns: int, position: Array, velocity: Array, acceleration: Array) -> None:
        """Check one sample and its step from the one before."""

    def check_plan(
        self, times_ns: NDArray[np.int64], position: Array, velocity: Array, acceleration: Array,
        jerk: Array,
    ) -> None:
        """Check a committed plan at its nodes and between them, and that it ends at rest.

        :param times_ns: Shape (N + 1,), the nodes; the states (N + 1, joints), the jerk (N, joints).
        """

    @property
    def violations(self) -> Mapping[str, int]:
        """Violations so far by limit."""

    @property
    def worst_margin(self) -> Mapping[str, float]:
        """Smallest distance to each limit so far, in the limit's unit; negative is a violation."""


CheckerFactory = Callable[[Robot], LimitChecker]
"""Makes a checker for a robot; a module's own function or class where several processes run."""


class Session:
    """One armed stretch of one family on one robot with one tracker."""

    def __init__(
        self, robot: Robot, tracker: str, family: str, rng: np.random.Generator, checker: LimitChecker,
    ) -> None:
        self._robot, self._rng, self._checker = robot, rng, checker
        # Half of the sessions bend what is out of reach to the limit, so that the tracker sees it.
        reach = float('inf') if rng.random() < 0.5 else 0.05
        self.controller = Controller(robot, ControllerConfig(
            tracker=cast(Literal['mpc', 'pid'], tracker), reach_tolerance_rad=reach,
            stop_on_stale_chunk=bool(rng.random() < 0.3), limit_storm_plans=60))
        self._chunks = HostileChunks(robot, family, rng)
        self._now_ns = int(rng.integers(10**9, 10**12))
        self._next_chunk_ns = self._now_ns
        self._position = draw_pose(robot, rng)
        self._velocity = np.zeros_like(self._position)
        self._blind_until_ns = 0
        self._scale: float | None = None
        # How far stamps ran ahead of the motion, by jumps of the clock.
        self._jumped_ns = 0
        self.submitted = self.rejected = 0
        self.stops: Counter[str] = Counter()
        self._stopped = False
        self.plan_ms: list[float] = []
        self.tick_us: list[float] = []

    def run(self, ticks: int) -> None:
        """Run ``ticks`` ticks, arming again whenever that is possible."""
        controller = self.controller
        controller.warm_up()
        for _ in range(ticks):
            self._now_ns += TICK_NS
            self._measure()
            mode = controller.mode
            if mode is ControllerMode.INACTIVE:
                if controller.arm(self._now_ns).accepted:
                    self._checker.restart()
            elif mode is ControllerMode.STOPPED:
                if controller.reset(self._now_ns).accepted:
                    self._scale = None
            else:
                self._disturb()
                self._submit()
            self._tick()

    def _measure(self) -> None:
        if self._now_ns < self._blind_until_ns:
            return
        noise = self._rng.normal(0.0, 1e-5, len(self._position))
        self.controller.measure(JointMeasurement(
            self._now_ns, self._robot.joint_names, self._position + noise, self._velocity, None, 0.0),
            self._now_ns)

    def _submit(self) -> None:
        if self._scale is not None and self._now_ns % 100_000_000 < TICK_NS:
            self.controller.set_speed_scale(self._scale, self._now_ns)
        if self._now_ns < self._next_chunk_ns:
            return
        self._next_chunk_ns = self._now_ns + CHUNK_PERIOD_NS
        self.submitted += 1
        try:
            chunk = self._chunks.draw(self._position, self._now_ns)
        except ContractError:
            self.rejected += 1
            return
        self.rejected += not self.controller.submit(chunk, self._now_ns).accepted

    def _disturb(self) -> None:
        rng, controller, now_ns = self._rng, self.controller, self._now_ns
        if rng.random() > EVENT_RATE_HZ * TICK_NS * 1e-9:
            return
        kind = rng.integers(8)
        if kind == 0:
            controller.stop(StopReason.OPERATOR, 'fuzz', now_ns)
        elif kind == 1:
            controller.disarm(now_ns)
        elif kind == 2:
            self._blind_until_ns = now_ns + 400_000_000
        elif kind == 3:
            self._jump(int(rng.choice([-5_000_000_000, 7_000_000_000, 120_000_000, 30_000_000])))
        elif kind == 4:
            self._position = self._position + rng.normal(0.0, 0.05, len(self._position))
        elif kind == 5:
            controller.report_overrun(int(rng.integers(0, 100_000_000)), now_ns)
        else:
            self._scale = float(rng.choice([0.0, 0.3, 1.0, rng.random()]))
            controller.set_speed_scale(self._scale, now_ns)

    def _jump(self, jump_ns: int) -> None:
        """Let the clock jump. Past its bounds the motion goes on where it was, so the checker's time does."""
        config = self.controller.config
        self._now_ns += jump_ns
        self._next_chunk_ns = self._now_ns
        if jump_ns < 0 or jump_ns + TICK_NS > config.overrun_stop_ns:
            self._jumped_ns += jump_ns

    def _tick(self) -> None:
        controller, plan = self.controller, self.controller.planner.plan
        begin = perf_counter()
        command = controller.tick(self._now_ns)
        took = perf_counter() - begin
        planned = controller.planner.plan
        if planned is plan:
            self.tick_us.append(took * 1e6)
        else:
            self.plan_ms.append(took * 1e3)
            nodes = planned.start_ns + planned.step_ns * np.arange(planned.steps + 1, dtype=np.int64)
            self._checker.check_plan(
                nodes, planned.position, planned.velocity, planned.acceleration, planned.jerk)
        if command is None:
            self._velocity = np.zeros_like(self._position)
            if controller.mode is ControllerMode.STOPPED and not self._stopped:
                self.stops[controller.state(self._now_ns).stop_reason.name] += 1
            self._stopped = controller.mode is ControllerMode.STOPPED
            return
        self._stopped = False
        self._follow(command)

    def _follow(self, command: JointCommand) -> None:
        self._checker.check_command(
            command.stamp_ns - self._jumped_ns, command.position, command.velocity, command.acceleration)
        self._position, self._velocity = command.position, command.velocity


def draw_pose(robot: Robot, rng: np.random.Generator) -> Array:
    """Return a random pose inside of all limits, with room to move; home if none is found."""
    profile, limits = robot.profile, robot.limits
    poses = rng.uniform(limits.lower_rad, limits.upper_rad, (256, len(limits.lower_rad)))
    distance, a, b, radius = robot.collision.distances_and_capsules(poses)
    moving = robot.collision.moving
    clearance = robot.workspace.distances(a[:, moving], b[:, moving], radius[moving])
    good = (distance.min(axis=1) > profile.self_collision_distance_m + START_MARGIN_M) & (
        clearance.min(axis=1) > profile.table_distance_m + START_MARGIN_M)
    found = np.flatnonzero(good)
    return np.array(poses[found[0]] if len(found) else robot.home_rad)
