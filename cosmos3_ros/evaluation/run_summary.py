"""Numbers of a run, recomputed from its recording."""

from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bag import Bag, Commands, open_bag, read_commands, realtime_factor
from .limit_check import GAP_S, CommandLog, check_commands
from .limit_file import CheckedLimits
from .limit_report import LimitReport
from .limit_timeline import LimitInterval, find_intervals

CONTROLLER_STATE = '/controller_state'
MODE_SHADOW = 2


@dataclass(frozen=True, slots=True, eq=False)
class RunSummary:
    """What a recording says.

    :param command_rate_hz: Commands per machine second while the controller was commanding.
    :param images_published: Raw images as their publishers numbered them, over all cameras.
    :param images_recorded: Raw images in the bag.
    :param lost: Messages of any topic that were published while recorded and are not in the bag.
    :param active_limits: When which limit shaped the motion, as the controller said.
    """

    commands: Commands | None
    limits: LimitReport
    command_rate_hz: float
    realtime_factor: float
    images_published: int
    images_recorded: int
    lost: int
    active_limits: tuple[LimitInterval, ...] = ()


def summarise_run(
    path: Path, limits: CheckedLimits, breaks_ns: tuple[int, ...], *, ends_at_rest: bool = True,
) -> RunSummary:
    """Read a recording and check its commands.

    :param breaks_ns: Simulated instants at which a reset moved the arm.
    :param ends_at_rest: False if the run was interrupted, so that the recording may end in motion.
    :raises BagError: The bag cannot be read.
    """
    counts = json.loads((path / 'recording.json').read_text())['topics']
    images = {name: topic for name, topic in counts.items() if topic['type'] == 'sensor_msgs/msg/Image'
              and name.endswith('/image_raw')}
    with open_bag(path) as bag:
        commands = None
        report = LimitReport()
        if bag.topics.get('/joint_command', ('', 0))[1]:
            commands = read_commands(bag, limits.joint_names)
            report = check_commands(
                commands.log, limits, breaks_ns=breaks_ns, ends_at_rest=ends_at_rest)
        factor = realtime_factor(bag)
        active = read_active_limits(bag)
    recorded = sum(topic['received'] for topic in images.values())
    return RunSummary(
        commands=commands, limits=report,
        command_rate_hz=float('nan') if commands is None else command_rate(commands.received_ns),
        realtime_factor=factor,
        images_published=recorded + sum(topic['lost'] for topic in images.values()),
        images_recorded=recorded, lost=sum(topic['lost'] for topic in counts.values()),
        active_limits=active)


def read_active_limits(bag: Bag) -> tuple[LimitInterval, ...]:
    """Return when which limit was active; empty without ``controller_state`` in the bag."""
    if CONTROLLER_STATE not in bag.topics:
        return ()
    return find_intervals(
        (message.header.stamp.sec * 10**9 + message.header.stamp.nanosec, tuple(message.active_limits))
        for _, _, message in bag.messages(CONTROLLER_STATE))


def command_rate(received_ns: NDArray[np.int64]) -> float:
    """Return commands per second of machine time, pauses between episodes left out."""
    steps = np.diff(received_ns)
    inside = steps[steps <= GAP_S * 1e9]
    return float(len(inside) / (inside.sum() * 1e-9)) if len(inside) else float('nan')


def check_shadow(path: Path, limits: CheckedLimits) -> tuple[LimitReport, int]:
    """Check what a shadowing controller would have commanded.

    ``controller_state`` carries the plan's position at its own stamp, so divided differences of these
    samples are bounded by the limits as those of commands are.

    :return: The report and the number of checked samples.
    """
    with open_bag(path) as bag:
        if CONTROLLER_STATE not in bag.topics:
            return LimitReport(), 0
        log = _shadow_log(bag, limits.joint_names)
    return check_commands(log, limits, ends_at_rest=False), len(log.stamps_ns)


def _shadow_log(bag: Bag, joint_names: tuple[str, ...]) -> CommandLog:
    stamps: list[int] = []
    rows: list[Any] = []
    for _, _, message in bag.messages(CONTROLLER_STATE):
        if message.mode != MODE_SHADOW or tuple(message.joint_names) != joint_names:
            continue
        stamp = message.header.stamp
        stamps.append(stamp.sec * 10**9 + stamp.nanosec)
        rows.append(np.asarray(message.commanded_position))
    position = np.array(rows, dtype=np.float64).reshape(len(stamps), len(joint_names))
    return CommandLog(joint_names, np.array(stamps, dtype=np.int64), position)
