"""The control loop samples on its grid, counts what it missed, and survives what a tick raises."""

import gc
from itertools import pairwise
import logging
import threading
import time

import numpy as np
from ros_graph import wait_for

from cosmos3_ros.nodes.clock import DisciplinedClock, SystemClock
from cosmos3_ros.nodes.control_loop import ControlLoop

PERIOD = 2_000_000


class Recorder:
    def __init__(self, clock: object, **options: object) -> None:
        self.samples: list[int] = []
        self.missed: list[int] = []
        self.jumps: list[int] = []
        self.errors: list[Exception] = []
        self.hook = lambda: None
        self.loop = ControlLoop(
            clock, PERIOD, self.tick, on_overrun=self.missed.append, on_jump=self.jumps.append,
            on_error=self.errors.append, logger=logging.getLogger('test'), **options)

    def tick(self, sample_ns: int) -> None:
        self.samples.append(sample_ns)
        self.hook()

    def run_until(self, ticks: int) -> None:
        self.loop.start()
        try:
            wait_for(lambda: len(self.samples) >= ticks, f'{ticks} ticks')
        finally:
            self.loop.stop()


def system_clock() -> SystemClock:
    return SystemClock(time.time_ns(), time.monotonic_ns(), jump_ns=10**8)


def test_samples_lie_on_the_grid_and_increase():
    recorder = Recorder(system_clock())
    recorder.run_until(200)
    steps = np.diff(recorder.samples)
    assert (np.array(recorder.samples) % PERIOD == 0).all()
    assert (steps % PERIOD == 0).all() and (steps > 0).all()
    assert np.median(steps) == PERIOD
    assert steps.sum() // PERIOD - len(steps) == recorder.loop.overruns + recorder.loop.clock_steps


def test_a_stall_is_counted_and_passed_over():
    recorder = Recorder(system_clock())
    stalled = threading.Event()

    def stall() -> None:
        if len(recorder.samples) == 20 and not stalled.is_set():
            stalled.set()
            time.sleep(0.05)

    recorder.hook = stall
    recorder.run_until(60)
    assert max(recorder.missed) >= 20
    assert max(np.diff(recorder.samples)) >= 20 * PERIOD


def test_a_short_stall_is_made_up_for():
    """Of points that a driver shall see none is left out, as long as the machine allows it."""
    recorder = Recorder(system_clock())
    stalls: list[int] = []

    def stall() -> None:
        if len(recorder.samples) % 20 == 0:
            stalls.append(recorder.loop.overruns + recorder.loop.clock_steps)
            time.sleep(0.005)

    recorder.hook = stall
    recorder.run_until(400)
    made_up = sum(before == after for before, after in pairwise(stalls))
    # A busy machine may stall for longer than that, but not every time.
    assert made_up > 0
    assert (np.diff(recorder.samples) >= PERIOD).all()


def test_an_error_in_a_tick_does_not_end_the_loop():
    recorder = Recorder(system_clock())

    def fail() -> None:
        if len(recorder.samples) % 2:
            raise RuntimeError('boom')

    recorder.hook = fail
    recorder.run_until(20)
    assert len(recorder.errors) >= 9


def test_the_collector_is_off_inside_and_on_again_after():
    recorder = Recorder(system_clock())
    seen: list[bool] = []
    recorder.hook = lambda: seen.append(gc.isenabled())
    recorder.run_until(5)
    assert not any(seen) and gc.isenabled()


def test_what_the_system_does_not_permit_is_logged_and_the_loop_runs(caplog):
    recorder = Recorder(system_clock(), cpus=(1023,))
    recorder.run_until(5)
    assert 'cpu_affinity [1023] not taken' in caplog.text


def test_with_simulated_time_it_waits_for_the_clock_and_stops_with_it():
    clock = DisciplinedClock(jump_ns=10**8)
    recorder = Recorder(clock)
    recorder.loop.start()
    try:
        for k in range(30):
            clock.observe(10**9 + k * 10_000_000, time.monotonic_ns())
            time.sleep(0.01)
        wait_for(lambda: len(recorder.samples) >= 100, 'ticks in simulated time')
        newest = 10**9 + 29 * 10_000_000
        wait_for(lambda: clock.now_ns(time.monotonic_ns()) >= newest + 20_000_000, 'the end of the lead')
        assert recorder.samples[0] > 10**9 and max(recorder.samples) <= newest + 25_000_000
        clock.observe(5 * 10**8, time.monotonic_ns())
        wait_for(lambda: recorder.jumps, 'the jump')
        assert recorder.jumps[0] < -7 * 10**8
        assert (np.diff(recorder.samples) > 0).all(), 'control time never goes back'
    finally:
        recorder.loop.stop()


class SteppingClock(SystemClock):
    """The system clock, set ahead by ``step_ns`` at will, without calling that a jump."""

    step_ns = 0

    def now_ns(self, monotonic_ns: int) -> int:
        return super().now_ns(monotonic_ns) + self.step_ns


def test_a_step_of_the_clock_is_no_overrun():
    """A simulator that catches up sets the clock ahead in the middle of a sleep of this machine."""
    clock = SteppingClock(time.time_ns(), time.monotonic_ns(), jump_ns=10**9)
    recorder = Recorder(clock)

    def step() -> None:
        if len(recorder.samples) in (20, 40, 60):
            clock.step_ns += 200 * PERIOD

    recorder.hook = step
    recorder.run_until(80)
    assert recorder.loop.clock_steps >= 3 * 190
    # What this machine was late besides is counted as that, and not as 200 points.
    assert recorder.loop.overruns == sum(recorder.missed)
    assert max(recorder.missed, default=0) < 150
    assert (np.diff(recorder.samples) > 0).all()


def test_inputs_are_polled_once_per_tick():
    polls: list[int] = []
    recorder = Recorder(system_clock(), poll=lambda: polls.append(len(recorder.samples)))
    recorder.run_until(100)
    counts = np.bincount(polls, minlength=100)[1:99]
    assert (counts >= 1).all() and np.median(counts) == 1


def test_a_jump_is_reported_before_anything_that_came_with_it():
    clock = DisciplinedClock(jump_ns=10**8)
    events: list[str] = []
    begin = time.monotonic_ns()

    def read_clock() -> None:
        now = time.monotonic_ns()
        jumped = len(recorder.samples) >= 20
        if jumped and 'observed' not in events:
            events.append('observed')
        clock.observe(10**9 + now - begin + (10**9 if jumped else 0), now)

    recorder = Recorder(
        clock, poll_clock=read_clock, poll=lambda: events.append(f'{len(recorder.jumps)} jumps'))
    recorder.run_until(40)
    assert len(recorder.jumps) == 1
    assert events[events.index('observed') - 1:][:3] == ['0 jumps', 'observed', '1 jumps']


def test_what_is_to_be_done_between_ticks_learns_how_much_time_is_left():
    slacks: list[int] = []
    recorder = Recorder(system_clock(), between=slacks.append)
    recorder.run_until(100)
    assert len(slacks) >= 99 and max(slacks) <= 2 * PERIOD
    assert np.median(slacks) > 0
