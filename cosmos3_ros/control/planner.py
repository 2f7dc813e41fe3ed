"""Propose, verify, commit: the only place where the committed plan changes."""

from dataclasses import dataclass
import logging
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import ContractError
from cosmos3_ros.robots import Robot

from .braking import Brake
from .config import ControllerConfig
from .envelope import inscribe_envelope
from .mpc import JointBounds, Mpc
from .pid import Pid
from .plan import Plan
from .triple_integrator import predict
from .verification import Rejection, Verifier

Array = NDArray[np.float64]
_logger = logging.getLogger(__name__)

# What is tried when a plan is refused: these shares of the change from the plan in force. Joint
# limits are convex, so every mixture of two admissible jerk sequences keeps them; only the limits in
# space need another look. A speed or an effort that is too high by a factor says which share would do;
# a distance does not.
SHARE_OF_CHANGE = 0.4
LEAST_SHARE = 0.1
# A reference that stays this close to an arm at rest asks for no motion: an encoder's resolution.
STILL_RAD = 1e-5
PROPORTIONAL = ('tool_speed', 'elbow_speed', 'effort', 'effort_rate')


class Tracker(Protocol):
    """Anything that turns a reference into jerks that end at rest."""

    def solve(self, state: Array, kept: Plan, position: Array, velocity: Array,
              acceleration: Array) -> Array | None:
        """Return jerks (N, joints), or None if there are none."""


class MpcTracker:
    """The MPC as a tracker; it needs no acceleration of the reference."""

    def __init__(self, mpc: Mpc) -> None:
        self._mpc = mpc

    def solve(self, state: Array, kept: Plan, position: Array, velocity: Array,
              acceleration: Array) -> Array | None:
        """Return jerks (N, joints), or None if a QP failed."""
        del acceleration
        return self._mpc.solve(state, kept, position, velocity)


@dataclass(slots=True)
class PlanCounts:
    """What became of the proposals."""

    committed: int = 0
    reduced: int = 0
    """Committed with a smaller share of the change."""
    rejected: int = 0
    infeasible: int = 0
    in_a_row: int = 0
    """Proposals rejected since the last one that was committed."""


class Planner:
    """Hold the committed plan; replace it by admissible plans only.

    Invariant: the committed plan keeps every limit and ends at rest. Keeping it is therefore always
    safe, and is what happens when a solver fails or a proposal is refused.
    """

    def __init__(self, robot: Robot, config: ControllerConfig) -> None:
        limits = robot.limits
        self._step_ns = config.plan_period_ns
        self._steps = config.horizon_steps
        self.prediction = predict(self._steps, self._step_ns * 1e-9)
        envelope = inscribe_envelope(limits)
        self.bounds = JointBounds(
            envelope.lower_rad, envelope.upper_rad, limits.velocity_rad_s, limits.acceleration_rad_s2,
            limits.jerk_rad_s3, envelope.chords)
        self.verifier = Verifier(robot, envelope.chords)
        self._tracker: Tracker = (
            MpcTracker(Mpc(self.prediction, self.bounds, config.mpc)) if config.tracker == 'mpc'
            else Pid(self.prediction, self.bounds, config.pid))
        self._pid = self._tracker if isinstance(self._tracker, Pid) else None
        self._brake = Brake(self.prediction, self.bounds)
        self.plan = Plan.hold(robot.home_rad, 0, self._step_ns, self._steps)
        self.counts = PlanCounts()
        self.last_rejection: Rejection | None = None

    def start(self, position: Array, now_ns: int) -> Rejection | None:
        """Commit standing still at ``position``; return what is broken there already, if anything.

        Standing still is the one plan that is always as good as the present.
        """
        self.plan = Plan.hold(position, now_ns, self._step_ns, self._steps)
        self.counts.in_a_row = 0
        if self._pid is not None:
            self._pid.restart()
        return self.verifier.check(self.plan)

    def observe(self, servo_error: Array) -> None:
        """Tell the PID's integral by how much the arm is off its command."""
        if self._pid is not None:
            self._pid.servo_error = servo_error

    def due(self, now_ns: int) -> int | None:
        """Return the newest planning instant up to ``now_ns``, or None if it has been planned."""
        nodes = (now_ns - self.plan.start_ns) // self._step_ns
        return self.plan.start_ns + nodes * self._step_ns if nodes >= 1 else None

    def follow(self, at_ns: int, position: Array, velocity: Array, acceleration: Array) -> None:
        """Plan from node ``at_ns`` on along a reference; each of shape (N, joints) at nodes 1..N."""
        kept = self._advance(at_ns)
        if self._pid is None and kept.is_still_from(at_ns) \
                and np.abs(position - kept.position[-1]).max() <= STILL_RAD:
            # What is left of the plan is what is asked for, and was verified when it was committed.
            self.plan = kept
            self.counts.committed += 1
            self.counts.in_a_row = 0
            return
        state = kept.state(0)
        self._commit(kept, state, self._tracker.solve(state, kept, position, velocity, acceleration))

    def brake(self, at_ns: int, measured: tuple[Array, Array] | None) -> None:
        """Plan a stop from node ``at_ns`` on; see :meth:`.Brake.plan`."""
        kept = self._advance(at_ns)
        if measured is None and kept.is_still_from(at_ns):
            self.plan = kept
            return
        self._commit(kept, kept.state(0), self._brake.plan(kept, measured))

    def move(self, shift_ns: int) -> None:
        """Shift the committed plan in time."""
        self.plan = self.plan.moved(shift_ns)

    def warm_up(self) -> None:
        """Run every solver and check once."""
        plan = self.plan
        still = np.zeros((self._steps, plan.position.shape[1]))
        self._tracker.solve(plan.state(0), plan, plan.position[1:], still, still)
        self._brake.warm_up(plan)
        self.verifier.check(plan)

    def _advance(self, at_ns: int) -> Plan:
        return self.plan.shifted((at_ns - self.plan.start_ns) // self._step_ns)

    def _commit(self, kept: Plan, state: Array, jerk: Array | None) -> None:
        """Commit the largest admissible share of the change from ``kept`` to ``jerk``."""
        self.plan = kept
        if jerk is None:
            self.counts.infeasible += 1
            self._count_rejected()
            return
        share = 1.0
        while True:
            mixed = jerk if share == 1.0 else share * jerk + (1.0 - share) * kept.jerk
            try:
                plan = Plan.from_jerk(kept.start_ns, self._step_ns, state, mixed, self.prediction)
            except ContractError as error:
                _logger.error('the solver broke its own constraint: %s', error)
                self.counts.infeasible += 1
                break
            rejection = self.verifier.check(plan)
            if rejection is None:
                self.plan = plan
                self.counts.committed += 1
                self.counts.reduced += share < 1.0
                self.counts.in_a_row = 0
                return
            self.last_rejection = rejection
            if share <= LEAST_SHARE:
                break
            share = _next_share(share, rejection)
        self._count_rejected()

    def _count_rejected(self) -> None:
        self.counts.rejected += 1
        self.counts.in_a_row += 1


def _next_share(share: float, rejection: Rejection) -> float:
    """Return the share to try after ``share`` was rejected: one informed try, then the least."""
    if share < 1.0:
        return LEAST_SHARE
    if rejection.limit in PROPORTIONAL and rejection.value > 0.0:
        return max(LEAST_SHARE, 0.8 * rejection.allowed / rejection.value)
    return SHARE_OF_CHANGE
