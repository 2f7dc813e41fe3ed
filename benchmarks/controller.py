"""MPC against PID against plain interpolation, on the same chunks.

Run ``python benchmarks/controller.py [--data DIR] [--json FILE]``. Prints a Markdown table. "Plain
interpolation" is what most policy runners do: linear between the rows of the newest chunk, which
replaces the old one at once. Violations are counted by ``cosmos3_ros.evaluation``, which shares no code
with the controller. Tracking is against the path that the chunks were cut from, after the best lag.

With ``--data`` a recorded episode is one of the workloads. Where the recorded motion itself exceeds the
limits, nothing inside of them can follow it: those stretches are listed, and the tracking of the rest is a
column of its own.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
import json
from pathlib import Path
import sys
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from cosmos3_ros.contracts import ActionChunk, JointMeasurement
from cosmos3_ros.control import Controller, ControllerConfig
from cosmos3_ros.control.hostile import ROWS, STEP_NS, HostileChunks, make_chunk
from cosmos3_ros.evaluation.lerobot_episode import read_episode
from cosmos3_ros.evaluation.limit_file import read_limits
from cosmos3_ros.evaluation.limit_timeline import LimitInterval, find_intervals
from cosmos3_ros.evaluation.motion_checker import MotionChecker
from cosmos3_ros.evaluation.recorded_motion import Exceedance, find_exceedances, is_within
from cosmos3_ros.robots import Robot, load_robot

Array = NDArray[np.float64]
Source = Callable[[int, Array], ActionChunk]

TICK_NS = 2_000_000
START_NS = 1_000_000_000_000
LATENCY_NS = 200_000_000
CHUNK_PERIOD_NS = 500_000_000
LAGS_S = np.arange(-0.05, 0.3, 0.001)
# States are looked at this often, as the node publishes them.
STATE_PERIOD_TICKS = 25
# A stretch that cannot be followed is felt this long before and after it: a plan and a chunk period.
MARGIN_S = 1.0
# Start-up (enable ramp and first approach) is left out of tracking, not out of the limits.
SETTLE_S = 2.0


@dataclass(frozen=True, slots=True)
class Workload:
    """Chunks over time, and the path they were cut from where there is one."""

    name: str
    duration_s: float
    start: Array
    source: Source
    path: Callable[[Array], Array] | None
    exceedances: tuple[Exceedance, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    :param within_rms_mrad: Tracking where the path keeps the limits; ``within_share`` of the time.
    :param seam: Largest velocity jump at a splice, as a share of the velocity limit.
    """

    chunks: str
    method: str
    rms_mrad: float
    lag_ms: float
    within_rms_mrad: float
    within_lag_ms: float
    within_share: float
    seam: float
    jerk_rms: float
    violations: int
    by_limit: dict[str, int]


def smooth(robot: Robot) -> Workload:
    """Return a slow sum of sines about home."""
    phase = np.arange(len(robot.joint_names))

    def path(t: Array) -> Array:
        swing = 0.12 * np.sin(1.3 * t[:, None] + phase) + 0.02 * np.sin(3.1 * t[:, None])
        return np.asarray(robot.home_rad + swing - 0.12 * np.sin(phase))

    return cut('smooth', robot, path, 15.0)


def cut(name: str, robot: Robot, path: Callable[[Array], Array], duration_s: float) -> Workload:
    """Return chunks cut from ``path``, each computed from an observation LATENCY_NS ago."""
    def source(now_ns: int, _position: Array) -> ActionChunk:
        stamp = max(now_ns - LATENCY_NS, START_NS)
        times = (stamp - START_NS + STEP_NS * np.arange(1.0, ROWS + 1)) * 1e-9
        return make_chunk(robot.joint_names, stamp, path(times))

    return Workload(name, duration_s, path(np.zeros(1))[0], source, path)


def noisy(robot: Robot) -> Workload:
    """Return the smooth chunks with 10 mrad of noise per row, fresh in every chunk."""
    base = smooth(robot)
    rng = np.random.default_rng(0)

    def source(now_ns: int, position: Array) -> ActionChunk:
        chunk = base.source(now_ns, position)
        rows = chunk.positions + rng.normal(0.0, 0.01, chunk.positions.shape)
        return make_chunk(robot.joint_names, chunk.stamp_ns, rows)

    return Workload('smooth + 10 mrad noise', base.duration_s, base.start, source, base.path)


def hostile(robot: Robot, family: str) -> Workload:
    """Return one family of the fuzz."""
    chunks = HostileChunks(robot, family, np.random.default_rng(1))
    return Workload(
        f'hostile: {family}', 10.0, robot.home_rad, lambda now, q: chunks.draw(q, now), None)


def recorded(robot: Robot, data: Path) -> Workload:
    """Return a recorded LeRobot episode, replayed as chunks."""
    episode = read_episode(data)
    curve = CubicSpline(episode.stamps_s, episode.joint_position)

    def path(t: Array) -> Array:
        return np.asarray(curve(np.clip(t, 0.0, episode.stamps_s[-1])))

    work = cut('recorded DROID episode', robot, path, float(episode.stamps_s[-1]) - 3.0)
    limits = read_limits(robot.name, robot.profile.name)
    return replace(work, exceedances=find_exceedances(episode.stamps_s, episode.joint_position, limits))


@dataclass(slots=True)
class Run:
    """What came of a workload.

    :param active: When which limit shaped the motion.
    """

    stamps_ns: NDArray[np.int64]
    position: Array
    velocity: Array
    acceleration: Array
    seam: float = float('nan')
    active: tuple[LimitInterval, ...] = field(default=())


def run_controller(robot: Robot, work: Workload, tracker: str) -> Run:
    """Return the commands of the controller."""
    controller = Controller(robot, ControllerConfig(tracker=cast(Literal['mpc', 'pid'], tracker)))
    controller.warm_up()
    position, velocity = work.start, np.zeros_like(work.start)
    now, stamps, rows, states, seam = START_NS, [], [], [], 0.0
    controller.measure(JointMeasurement(now, robot.joint_names, position, velocity), now)
    verdict = controller.arm(now)
    if not verdict.accepted:
        raise SystemExit(f'{work.name}: {verdict.reason}')
    next_chunk = now
    while now < START_NS + int(work.duration_s * 1e9):
        if now >= next_chunk:
            if controller.submit(work.source(now, position), now).accepted:
                seam = max(seam, controller.state(now).seam['velocity'])
            next_chunk += CHUNK_PERIOD_NS
        command = controller.tick(now)
        if command is None:
            break
        position, velocity = command.position, command.velocity
        stamps.append(now)
        rows.append((position, velocity, command.acceleration))
        controller.measure(JointMeasurement(now, robot.joint_names, position, velocity), now)
        if len(stamps) % STATE_PERIOD_TICKS == 0:
            states.append((now, controller.state(now).active_limits))
        now += TICK_NS
    return Run(
        np.array(stamps), *(np.stack(column) for column in zip(*rows, strict=True)),
        seam=seam / float(robot.limits.velocity_rad_s.min()), active=find_intervals(states))


def run_interpolation(work: Workload) -> Run:
    """Return the commands of plain interpolation, with derivatives by differences."""
    stamps = START_NS + TICK_NS * np.arange(int(work.duration_s * 1e9 / TICK_NS))
    position, rows, chunk = work.start, [], None
    for k, now in enumerate(stamps):
        if k % (CHUNK_PERIOD_NS // TICK_NS) == 0:
            chunk = work.source(int(now), position)
        assert chunk is not None
        due = chunk.stamp_ns + chunk.step_ns * np.arange(1, chunk.horizon + 1)
        position = np.array([np.interp(now, due, column) for column in chunk.positions.T])
        rows.append(position)
    q = np.stack(rows)
    v = np.gradient(q, TICK_NS * 1e-9, axis=0)
    return Run(stamps, q, v, np.gradient(v, TICK_NS * 1e-9, axis=0))


def track(path: Callable[[Array], Array], t: Array, q: Array) -> tuple[float, float]:
    """Return RMS error, mrad, and lag, ms, of samples (M,) at the lag that fits best."""
    if len(t) == 0:
        return float('nan'), float('nan')
    errors = [float(np.sqrt(np.mean((q - path(t - lag)) ** 2))) for lag in LAGS_S]
    best = int(np.argmin(errors))
    return errors[best] * 1e3, float(LAGS_S[best]) * 1e3


def judge(robot: Robot, work: Workload, method: str) -> tuple[Row, Run]:
    """Run one method on one workload."""
    run = run_interpolation(work) if method == 'interpolation' else run_controller(robot, work, method)
    checker = MotionChecker(read_limits(robot.name, robot.profile.name))
    for stamp, *sample in zip(run.stamps_ns, run.position, run.velocity, run.acceleration, strict=True):
        checker.check_command(int(stamp), *sample)
    counts = {limit: n for limit, n in checker.violations.items() if n}
    jerk = np.diff(run.position, 3, axis=0) / (TICK_NS * 1e-9) ** 3
    rms = lag = within_rms = within_lag = share = float('nan')
    if work.path is not None:
        t = (run.stamps_ns - START_NS) * 1e-9
        settled = t > SETTLE_S
        within = settled & is_within(t, work.exceedances, MARGIN_S)
        rms, lag = track(work.path, t[settled], run.position[settled])
        within_rms, within_lag = track(work.path, t[within], run.position[within])
        share = float(within.sum() / settled.sum())
    return Row(
        work.name, method, rms, lag, within_rms, within_lag, share, run.seam,
        float(np.sqrt(np.mean((jerk / robot.limits.jerk_rad_s3) ** 2))), sum(counts.values()), counts), run


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n', maxsplit=1)[0])
    parser.add_argument('--robot', default='panda')
    parser.add_argument('--profile', default='lab')
    parser.add_argument('--data', type=Path, help='a LeRobot v3 dataset with a recorded episode')
    parser.add_argument('--json', type=Path, help='also write the rows here')
    args = parser.parse_args()
    robot = load_robot(args.robot, args.profile)
    works = [smooth(robot), noisy(robot)]
    if args.data is not None:
        works.append(recorded(robot, args.data))
    works += [hostile(robot, family) for family in ('in_limit', 'square', 'floor')]
    out = sys.stdout
    out.write(
        '| chunks | method | RMS, mrad | lag, ms | RMS within limits, mrad | lag, ms | share of time | '
        'seam dv / limit | jerk RMS / limit | violations |\n|---|---|---|---|---|---|---|---|---|---|\n')
    rows = []
    notes: list[str] = []
    for work in works:
        for method in ('mpc', 'pid', 'interpolation'):
            row, run = judge(robot, work, method)
            rows.append(row)
            out.write((
                f'| {row.chunks} | {row.method} | {row.rms_mrad:.2f} | {row.lag_ms:.0f} | '
                f'{row.within_rms_mrad:.2f} | {row.within_lag_ms:.0f} | {row.within_share:.0%} | '
                f'{row.seam:.1e} | {row.jerk_rms:.3g} | {row.violations} |\n'
            ).replace('nan%', '').replace('nan', ''))
            out.flush()
            if method == 'mpc' and work.exceedances:
                notes += [f'{work.name} asks for more than {robot.profile.name}:',
                          *(f'  {one}' for one in work.exceedances), 'Active limits of mpc:',
                          *(f'  {one.start_s:.2f} to {one.end_s:.2f} s: {one.name}' for one in run.active)]
    out.write('\n'.join(['', *notes, '']))
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == '__main__':
    main()
