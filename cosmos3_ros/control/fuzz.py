"""The long fuzz: hostile chunks, random stops and resets, an independent checker beside it."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

import numpy as np

from cosmos3_ros.robots import Robot, load_robot, robot_names

from .config import TRACKERS
from .fuzz_session import CheckerFactory, Session
from .hostile import FAMILIES

# Ticks of one session: a new arm, a new pose, one family.
SESSION_TICKS = 1500
# Sessions that one process runs before it reports.
SESSIONS_PER_TASK = 5


@dataclass(slots=True)
class Tally:
    """Totals of some sessions, mergeable in any order."""

    sessions: int = 0
    submitted: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    plans: Counter[str] = field(default_factory=Counter)
    stops: Counter[str] = field(default_factory=Counter)
    violations: Counter[str] = field(default_factory=Counter)
    worst_margin: dict[str, float] = field(default_factory=dict)
    plan_ms: list[float] = field(default_factory=list)
    tick_us: list[float] = field(default_factory=list)

    def merge(self, other: 'Tally') -> None:
        """Add another tally."""
        self.sessions += other.sessions
        for name in ('submitted', 'rejected', 'plans', 'stops', 'violations'):
            # Counter.update adds and, unlike +, keeps zeros: a limit that was checked and never broken.
            getattr(self, name).update(getattr(other, name))
        for limit, margin in other.worst_margin.items():
            self.worst_margin[limit] = min(margin, self.worst_margin.get(limit, np.inf))
        self.plan_ms.extend(other.plan_ms)
        self.tick_us.extend(other.tick_us)


@dataclass(frozen=True, slots=True)
class Task:
    """Some sessions of a run: everything that their course depends on.

    :param combinations: Robot, tracker and family of session i are number i, counted round.
    :param ticks: Of each session.
    """

    combinations: tuple[tuple[Robot, str, str], ...]
    sessions: range
    ticks: int
    seed: int
    checker: CheckerFactory


def run_task(task: Task) -> Tally:
    """Run the sessions of ``task``; each has its own random numbers, so it does not matter where."""
    tally = Tally()
    for index in task.sessions:
        robot, tracker, family = task.combinations[index % len(task.combinations)]
        checker = task.checker(robot)
        session = Session(robot, tracker, family, np.random.default_rng([task.seed, index]), checker)
        session.run(task.ticks)
        counts = session.controller.planner.counts
        tally.merge(Tally(
            1, Counter({family: session.submitted}), Counter({family: session.rejected}),
            Counter({
                'committed': counts.committed, 'reduced': counts.reduced, 'refused': counts.rejected,
                'infeasible': counts.infeasible}),
            session.stops, Counter(checker.violations), dict(checker.worst_margin), session.plan_ms,
            session.tick_us))
    return tally


def run_fuzz(
    ticks: int, seed: int, checker: CheckerFactory, robots: Sequence[Robot] | None = None,
    trackers: Sequence[str] = TRACKERS, families: Sequence[str] = FAMILIES, workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Run about ``ticks`` ticks over all combinations and return the totals.

    :param checker: Makes an independent checker for a robot.
    :param robots: None takes every shipped robot under ``lab``.
    :param workers: Processes that share the sessions. The motions are the same for any number.
    :param on_progress: Called with sessions done and sessions in all.
    :returns: ticks, violations, worst_margin, plan_ms, tick_us, rejected (fraction by family),
        infeasible, stops, seed. The same seed gives the same motions; timings differ.
    :raises ValueError: An unknown tracker, or nothing to run.
    """
    if robots is None:
        robots = [load_robot(name, 'lab') for name in robot_names()]
    unknown = [t for t in trackers if t not in TRACKERS]
    if unknown or not robots or not trackers or ticks <= 0 or workers <= 0:
        raise ValueError(
            f'robots {len(robots)}, trackers {list(trackers)}, ticks {ticks}, workers {workers} arrived; at '
            f'least one robot, some of {", ".join(TRACKERS)}, and positive numbers of ticks and workers are '
            'needed')
    combinations = tuple((r, t, f) for f in families for r in robots for t in trackers)
    sessions = max(len(combinations), round(ticks / SESSION_TICKS))
    length = max(1, round(ticks / sessions))
    tasks = [
        Task(combinations, range(i, min(i + SESSIONS_PER_TASK, sessions)), length, seed, checker)
        for i in range(0, sessions, SESSIONS_PER_TASK)]
    total = Tally()
    progress = on_progress or (lambda _done, _all: None)
    if workers == 1:
        for task in tasks:
            total.merge(run_task(task))
            progress(total.sessions, sessions)
    else:
        # Fresh interpreters: a fork would share the solver's and the threads' state.
        with ProcessPoolExecutor(workers, mp_context=get_context('spawn')) as pool:
            for done in as_completed([pool.submit(run_task, task) for task in tasks]):
                total.merge(done.result())
                progress(total.sessions, sessions)
    return {
        'ticks': sessions * length, 'seed': seed, 'sessions': sessions, 'workers': workers,
        'violations': dict(sorted(total.violations.items())),
        'worst_margin': dict(sorted(total.worst_margin.items())),
        'plan_ms': _percentiles(total.plan_ms), 'tick_us': _percentiles(total.tick_us),
        'rejected': {f: round(total.rejected[f] / max(1, total.submitted[f]), 4) for f in families},
        'plans': dict(total.plans), 'infeasible': total.plans['infeasible'],
        'stops': dict(sorted(total.stops.items())),
    }


def _percentiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {'p50': float('nan'), 'p99': float('nan'), 'max': float('nan')}
    p50, p99 = np.percentile(values, [50, 99])
    return {'p50': round(float(p50), 4), 'p99': round(float(p99), 4), 'max': round(max(values), 4)}
