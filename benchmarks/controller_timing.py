"""Time of the controller's parts on one core: plan, tick, submit, measure, state.

Run ``python benchmarks/controller_timing.py [--robot panda] [--profile lab] [--tracker mpc] [--seconds 20]``
on an idle machine. A plan is what a tick costs in which a planning instant is due: reference, assembling and
solving the QPs, verifying every sample, committing, and the sample of the command. The chunks are smooth
(sines about home, 32 rows at 15 Hz, one every half second); ``cosmos3 bench controller`` times hostile ones.

``--processor-time`` counts what the thread itself used. On a machine that others use it leaves out the time
slices given to them (4 ms each, which is all that a 99th percentile of wall time then shows), not what they
cost in caches. It says how long a plan takes on a core of its own, not how late one was.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable
import gc
import sys
import time
from typing import Any, Literal, cast

import numpy as np

from cosmos3_ros.contracts import JointMeasurement
from cosmos3_ros.control import Controller, ControllerConfig
from cosmos3_ros.control.hostile import ROWS, STEP_NS, make_chunk
from cosmos3_ros.robots import Robot, load_robot

TICK_NS = 2_000_000
CHUNK_TICKS = 250
STATE_TICKS = 25
LATENCY_NS = 200_000_000
START_NS = 10**12


def run(
    robot: Robot, tracker: str, seconds: float, clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, list[int]]:
    """Return nanoseconds of ``clock`` of every call, by kind."""
    taken: defaultdict[str, list[int]] = defaultdict(list)

    def clocked(kind: str, call: Callable[..., Any], *args: Any) -> Any:
        begin = clock()
        result = call(*args)
        taken[kind].append(clock() - begin)
        return result

    controller = Controller(robot, ControllerConfig(tracker=cast(Literal['mpc', 'pid'], tracker)))
    controller.warm_up()
    phase = np.arange(len(robot.joint_names))
    position, velocity = np.array(robot.home_rad), np.zeros(len(phase))
    now = START_NS
    controller.measure(JointMeasurement(now, robot.joint_names, position, velocity), now)
    controller.arm(now)
    for k in range(int(seconds * 1e9 / TICK_NS)):
        if k % CHUNK_TICKS == 0:
            stamp = max(now - LATENCY_NS, START_NS)
            t = (stamp - START_NS + STEP_NS * np.arange(1.0, ROWS + 1)[:, None]) * 1e-9
            swing = 0.12 * np.sin(1.3 * t + phase) + 0.02 * np.sin(3.1 * t) - 0.12 * np.sin(phase)
            clocked('submit', controller.submit, make_chunk(
                robot.joint_names, stamp, robot.home_rad + swing), now)
        plan = controller.planner.plan
        command = clocked('tick', controller.tick, now)
        if controller.planner.plan is not plan:
            taken['plan'].append(taken['tick'].pop())
        position, velocity = command.position, command.velocity
        measurement = JointMeasurement(now, robot.joint_names, position, velocity)
        clocked('measure', controller.measure, measurement, now)
        if k % STATE_TICKS == 0:
            clocked('state', controller.state, now)
        now += TICK_NS
    return taken


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n', maxsplit=1)[0])
    parser.add_argument('--robot', default='panda')
    parser.add_argument('--profile', default='lab')
    parser.add_argument('--tracker', choices=('mpc', 'pid'), default='mpc')
    parser.add_argument('--seconds', type=float, default=20.0, help='of motion')
    parser.add_argument('--processor-time', action='store_true', help='of the thread, instead of wall time')
    args = parser.parse_args()
    gc.disable()
    clock = time.thread_time_ns if args.processor_time else time.perf_counter_ns
    taken = run(load_robot(args.robot, args.profile), args.tracker, args.seconds, clock)
    sys.stdout.write('| call | times | p50, us | p99, us | max, us |\n|---|---|---|---|---|\n')
    for kind in ('plan', 'tick', 'measure', 'submit', 'state'):
        p50, p99 = np.percentile(taken[kind], [50, 99]) * 1e-3
        sys.stdout.write(
            f'| {kind} | {len(taken[kind])} | {p50:.0f} | {p99:.0f} | {max(taken[kind]) * 1e-3:.0f} |\n')


if __name__ == '__main__':
    main()
