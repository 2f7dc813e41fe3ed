"""The control clock: monotone, never far ahead of /clock, quiet under jitter, and it sees jumps."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from cosmos3_ros.nodes.clock import LEAD_PERIODS, DisciplinedClock, SystemClock

MS = 1_000_000
PERIOD = 10 * MS
JUMP = 100 * MS


def run(clock: DisciplinedClock, seconds: float, *, rate: float, jitter: np.random.Generator | None,
        mono: int = 0, sim: int = 1_000_000_000) -> tuple[list[int], list[int], list[int]]:
    """Feed 100 Hz of simulated time; read at 500 Hz. Returns monotonic times, true and read times."""
    last_message = -1
    monos, truth, read = [], [], []
    for step in range(round(seconds * 500)):
        now = mono + step * 2 * MS
        true = sim + int((now - mono) * rate)
        message = true // PERIOD
        if message != last_message:
            last_message = message
            late = 0 if jitter is None else int(jitter.exponential(0.5 * MS))
            clock.observe(message * PERIOD, now + late)
            now += late
        monos.append(now)
        truth.append(sim + int((now - mono) * rate))
        read.append(clock.now_ns(now))
    return monos, truth, read


@given(st.sampled_from([0.5, 0.99, 1.0, 1.01, 2.0]), st.integers(0, 2**32 - 1))
def test_monotone_close_and_never_far_ahead(rate, seed):
    clock = DisciplinedClock(jump_ns=JUMP)
    _, truth, read = run(clock, 3.0, rate=rate, jitter=np.random.default_rng(seed))
    assert (np.diff(read) >= 0).all()
    settled = np.array(read[750:]) - np.array(truth[750:])
    assert (settled <= LEAD_PERIODS * PERIOD * max(1.0, rate)).all()
    assert np.abs(settled).max() < 2 * PERIOD
    assert clock.rate == pytest.approx(rate, rel=0.05)
    assert clock.take_jump() == 0


def test_jitter_of_messages_does_not_reach_the_samples():
    clock = DisciplinedClock(jump_ns=JUMP)
    monos, _, read = run(clock, 4.0, rate=1.0, jitter=np.random.default_rng(1))
    unevenness = (np.diff(read) - np.diff(monos))[1000:]
    # Messages come 0.5 ms late on average and up to some ms; a sample moves by a fraction of that.
    assert np.abs(unevenness).std() < 0.2 * MS


def test_time_stands_when_the_simulation_is_paused_and_goes_on():
    clock = DisciplinedClock(jump_ns=JUMP)
    monos, truth, _ = run(clock, 1.0, rate=1.0, jitter=None)
    frozen = [clock.now_ns(monos[-1] + k * 50 * MS) for k in range(20)]
    assert frozen[-1] <= truth[-1] + LEAD_PERIODS * PERIOD
    assert len(set(frozen[2:])) == 1
    assert clock.wait_ns(frozen[-1] + 2 * MS, monos[-1] + 10**9) > 0
    # It goes on 5 s later in real time, at the next tick of simulated time.
    clock.observe(truth[-1] + PERIOD, monos[-1] + 5 * 10**9)
    assert clock.take_jump() == 0
    assert clock.now_ns(monos[-1] + 5 * 10**9 + 30 * MS) >= frozen[-1]


@pytest.mark.parametrize('step_s', [-5.0, -0.2, 30.0])
def test_a_jump_is_reported_once_and_control_time_goes_on(step_s):
    clock = DisciplinedClock(jump_ns=JUMP)
    monos, truth, read = run(clock, 1.0, rate=1.0, jitter=None)
    mono, sim = monos[-1] + PERIOD, truth[-1] + PERIOD + int(step_s * 1e9)
    clock.observe(sim, mono)
    assert clock.take_jump() == pytest.approx(step_s * 1e9, abs=2 * PERIOD)
    assert clock.take_jump() == 0
    after = clock.now_ns(mono)
    assert 0 <= after - read[-1] <= 2 * PERIOD
    assert clock.now_ns(mono) - clock.offset_ns == pytest.approx(sim, abs=PERIOD)
    clock.observe(sim + PERIOD, mono + PERIOD)
    assert clock.take_jump() == 0
    assert clock.now_ns(mono + PERIOD) - after == pytest.approx(PERIOD, abs=PERIOD // 5)


def test_a_message_out_of_order_is_passed_over():
    clock = DisciplinedClock(jump_ns=JUMP)
    monos, truth, read = run(clock, 0.5, rate=1.0, jitter=None)
    clock.observe(truth[-1] - 3 * PERIOD, monos[-1])
    assert clock.take_jump() == 0 and clock.now_ns(monos[-1]) == read[-1]


def test_there_is_no_time_before_the_first_message():
    clock = DisciplinedClock(jump_ns=JUMP)
    assert not clock.ready and clock.now_ns(123) == 0


@given(st.lists(st.integers(-20_000, 20_000), min_size=1, max_size=50))
def test_system_clock_slews_and_never_goes_back(errors_ns):
    clock = SystemClock(10**18, 0, jump_ns=JUMP)
    mono, drift, last = 0, 0, 10**18
    for error in errors_ns:
        mono += 2 * MS
        drift += error
        clock.observe(10**18 + mono + drift, mono)
        now = clock.now_ns(mono)
        assert now > last
        last = now
    assert clock.take_jump() == 0 and clock.offset_ns == 0
    for _ in range(3000):
        mono += 2 * MS
        clock.observe(10**18 + mono + drift, mono)
    assert abs(clock.now_ns(mono) - (10**18 + mono + drift)) <= 1


@pytest.mark.parametrize('step_ns', [-3 * 10**9, 10**9])
def test_system_clock_step_is_a_jump(step_ns):
    clock = SystemClock(10**18, 0, jump_ns=JUMP)
    clock.observe(10**18 + 2 * MS + step_ns, 2 * MS)
    assert clock.take_jump() == step_ns
    assert clock.now_ns(2 * MS) == 10**18 + 2 * MS
    assert clock.now_ns(4 * MS) - clock.offset_ns == 10**18 + 4 * MS + step_ns
