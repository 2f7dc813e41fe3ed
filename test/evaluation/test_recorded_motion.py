"""A recording past the limits is reported by joint, time, limit and amount; one inside of them is not."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cosmos3_ros.contracts import ContractError
from cosmos3_ros.evaluation.limit_file import read_limits
from cosmos3_ros.evaluation.limit_timeline import LimitInterval, find_intervals
from cosmos3_ros.evaluation.recorded_motion import find_exceedances, is_within
from cosmos3_ros.evaluation.run_summary import read_active_limits
from cosmos3_ros.robots import load_robot

DROID = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'droid_lerobot_example'
LIMITS = read_limits('panda', 'lab')
HOME = load_robot('panda', 'lab').home_rad
T = np.arange(120) / 15.0


def swing(size, rate, joint=3):
    rows = np.tile(HOME, (len(T), 1))
    rows[:, joint] += size * np.sin(rate * T)
    return rows


def test_a_slow_motion_exceeds_nothing():
    assert find_exceedances(T, swing(0.2, 0.5), LIMITS) == ()


def test_joint_time_limit_and_amount_are_those_of_the_motion():
    """A swing that stays inside, with a second of a faster one in it: amplitude times rate is its speed."""
    rows = swing(0.2, 0.5)
    burst = (T >= 4.0) & (T <= 5.0)
    peak = 1.5 * LIMITS.velocity[3]
    rows[burst, 3] += peak / np.pi / 2 * np.sin(2 * np.pi * (T[burst] - 4.0))
    found = find_exceedances(T, rows, LIMITS)
    assert {one.where for one in found} <= {LIMITS.joint_names[3], 'tcp', 'elbow'}
    fast = [one for one in found if one.limit == 'velocity']
    assert fast and all(3.8 <= one.start_s <= one.worst_s <= one.end_s <= 5.2 for one in fast)
    assert max(one.value for one in fast) == pytest.approx(peak, rel=0.15)
    assert all(one.allowed == pytest.approx(LIMITS.velocity[3]) for one in fast)
    text = str(fast[0])
    assert LIMITS.joint_names[3] in text and 'is allowed' in text and '%' in text


def test_space_counts_too():
    rows = np.tile(HOME, (len(T), 1))
    rows[:, 1] += np.linspace(0.0, 1.6, len(T))
    assert 'plane' in {one.limit for one in find_exceedances(T, rows, LIMITS)}


def test_times_near_an_exceedance_are_told():
    rows = swing(0.2, 0.5)
    rows[60, 3] += 0.4
    found = find_exceedances(T, rows, LIMITS)
    free = is_within(T, found, 0.2)
    assert not free[60] and free[:20].all() and free[-20:].all()


@pytest.mark.parametrize('rows', [np.zeros((120, 6)), np.full((120, 7), np.nan), np.zeros((119, 7))])
def test_rows_that_do_not_fit_are_refused(rows):
    with pytest.raises(ContractError, match='position'):
        find_exceedances(T, rows, LIMITS)


@pytest.mark.skipif(not DROID.is_dir(), reason='the public DROID example episode is not on this machine')
def test_the_recorded_human_is_faster_than_lab_with_joint_5():
    """Read off the recording's own differences: joint 5 turns 0.083 rad in 67 ms around 8.8 s."""
    from cosmos3_ros.evaluation.lerobot_episode import read_episode
    episode = read_episode(DROID)
    steps = np.abs(np.diff(episode.joint_position[:, 4])) * 15.0
    found = find_exceedances(episode.stamps_s, episode.joint_position, LIMITS)
    fast = [one for one in found if one.limit == 'velocity']
    assert {one.where for one in fast} == {'panda_joint5'}
    worst = max(fast, key=lambda one: one.value)
    assert worst.worst_s == pytest.approx(float(np.argmax(steps)) / 15.0, abs=0.1)
    assert worst.value == pytest.approx(float(steps.max()), rel=0.1)


def test_states_become_intervals_of_each_limit():
    states = [(10**9 + k * 50_000_000, ('a',) * (k < 5) + ('b',) * (k % 10 < 2)) for k in range(20)]
    assert find_intervals(states) == (
        LimitInterval('a', 0.0, pytest.approx(0.2)), LimitInterval('b', 0.0, pytest.approx(0.05)),
        LimitInterval('b', pytest.approx(0.5), pytest.approx(0.55)))
    assert find_intervals([]) == ()


class StateBag:
    """Stands for a recording with one state every 50 ms, of which the second to fourth name a limit."""

    topics = {'/controller_state': ('cosmos3_ros/msg/ControllerState', 6)}

    def messages(self, topic):
        for k in range(6):
            stamp = SimpleNamespace(sec=3, nanosec=k * 50_000_000)
            yield topic, 0, SimpleNamespace(
                header=SimpleNamespace(stamp=stamp), active_limits=['j:velocity'] if 1 <= k <= 3 else [])


def test_a_recording_tells_when_a_limit_was_active():
    assert read_active_limits(StateBag()) == (
        LimitInterval('j:velocity', pytest.approx(0.05), pytest.approx(0.15)),)
