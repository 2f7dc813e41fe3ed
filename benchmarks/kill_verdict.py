"""Judge strikes by what was recorded: commands, joint states, and what the controller said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cosmos3_ros.msg import ControllerState
from kill_graph import EXPECTED, Attempt
import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.cli.monitor import REASONS
from cosmos3_ros.evaluation.bag import open_bag, read_commands
from cosmos3_ros.evaluation.limit_check import check_commands
from cosmos3_ros.evaluation.limit_file import CheckedLimits

REST_RAD_S = 0.01
"""Slower than this is rest: the physics of a held arm shows some mrad/s when something touches it."""
REST_HELD_S = 0.3
MEASURED_SHARE = 1.1
"""The measured arm follows its command with an error of its own; limits hold for the command."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one strike.

    :param rest_s: From the strike until the measured arm stood for good.
    :param reason_s: From the strike until the reason was published.
    :param faults: Why it failed, empty if it passed.
    """

    struck: str
    seed: int
    delay_s: float
    commands: int
    speed_rad_s: float
    rest_s: float
    reason: str
    reason_s: float
    disturbed: str = ''
    violations: dict[str, int] = field(default_factory=dict)
    faults: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether everything was as it must be."""
        return not self.faults


def judge(bag_path: Path, attempts: Sequence[Attempt], limits: CheckedLimits) -> list[Verdict]:
    """Return the verdict on every attempt; on a disturbed one, its commands are all that is judged."""
    with open_bag(bag_path) as bag:
        commands = read_commands(bag, limits.joint_names)
        arm = _Measured(bag, limits.joint_names)
        said = [(arrived, message.stop_reason, message.mode)
                for _, arrived, message in bag.messages('/controller_state')]
    return [_judge_one(attempt, commands, arm, said, limits) for attempt in attempts]


class _Measured:
    """The recorded joint states."""

    def __init__(self, bag: Any, joint_names: tuple[str, ...]) -> None:
        arrivals, position, velocity = [], [], []
        for _, arrived, message in bag.messages('/joint_states'):
            names = list(message.name)
            order = [names.index(name) for name in joint_names]
            arrivals.append(arrived)
            position.append(np.asarray(message.position)[order])
            velocity.append(np.asarray(message.velocity)[order])
        self.arrived_ns = np.array(arrivals, dtype=np.int64)
        self.position, self.velocity = (
            np.array(rows).reshape(-1, len(joint_names)) for rows in (position, velocity))

    def window(self, begin_ns: int, end_ns: int) -> tuple[NDArray[np.int64], Any, Any]:
        part = slice(*np.searchsorted(self.arrived_ns, [begin_ns, end_ns]))
        return self.arrived_ns[part], self.position[part], self.velocity[part]


def _judge_one(
    attempt: Attempt, commands: Any, arm: _Measured, said: list[tuple[int, int, int]],
    limits: CheckedLimits,
) -> Verdict:
    faults: list[str] = []
    killed = attempt.struck == 'controller'
    rows = slice(*np.searchsorted(commands.received_ns, [attempt.armed_ns, attempt.ended_ns]))
    log = commands.log.rows(rows.start, rows.stop)
    # Of a controller that was killed the last command is no command to rest.
    report = check_commands(log, limits, ends_at_rest=not killed)
    violations = {name: count for name, count in report.violations.items() if count}
    if violations or not len(log.stamps_ns):
        faults.append(f'commands: {violations or "none were recorded"}')
    if attempt.disturbed:
        return Verdict(attempt.struck, attempt.seed, attempt.delay_s, len(log.stamps_ns), 0.0, 0.0, '', 0.0,
                       attempt.disturbed, violations)
    arrived, position, velocity = arm.window(attempt.struck_ns, attempt.ended_ns)
    speed = np.abs(velocity).max(axis=1, initial=0.0)
    moving = np.flatnonzero(speed > REST_RAD_S)
    rested_ns = int(arrived[moving[-1]]) if len(moving) else attempt.struck_ns
    if not len(arrived) or arrived[-1] - rested_ns < REST_HELD_S * 1e9:
        faults.append('the arm did not come to rest')
    elif (position < limits.lower).any() or (position > limits.upper).any():
        faults.append('the measured arm left its position limits')
    elif (np.abs(velocity) > MEASURED_SHARE * limits.velocity).any():
        faults.append('the measured arm was faster than its velocity limits')
    reason, reason_ns, stopped = '', attempt.struck_ns, False
    for instant, number, mode in said:
        if attempt.struck_ns <= instant <= attempt.ended_ns and number:
            if not reason:
                reason_ns = instant
            reason = REASONS[number]
            stopped = mode == ControllerState.MODE_STOPPED
    if reason != EXPECTED[attempt.struck]:
        wanted = EXPECTED[attempt.struck]
        faults.append(f'{reason or "no reason"} was latched, {wanted or "none"} was expected')
    if not (stopped or killed):
        faults.append('the mode did not become STOPPED')
    for wanted, found in (('went on', attempt.went_on), ('was held', attempt.held)):
        if found is False:
            faults.append(f'not seen: the arm {wanted}')
    if attempt.broken:
        faults.append(attempt.broken)
    if attempt.exit_code:
        faults.append(f'the controller ended with exit code {attempt.exit_code}')
    return Verdict(
        attempt.struck, attempt.seed, round(attempt.delay_s, 3), len(log.stamps_ns),
        float(speed[0]) if len(speed) else float('nan'), (rested_ns - attempt.struck_ns) * 1e-9,
        reason, (reason_ns - attempt.struck_ns) * 1e-9, '', violations, tuple(faults))
