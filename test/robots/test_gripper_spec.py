"""Range, direction and hysteresis of grippers."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from cosmos3_ros import robots

ROBOTIQ = robots.load_robot('panda').gripper
# The Franka Hand closes downwards: 40 mm per finger open, 0 closed.
FRANKA_HAND = robots.GripperSpec('panda_finger_joint1', 0.04, 0.0, 'closing_decreases', 0.6, 0.4, 0.3)
both = pytest.mark.parametrize('gripper', [ROBOTIQ, FRANKA_HAND], ids=lambda gripper: gripper.polarity)


@both
def test_ends(gripper):
    assert gripper.to_normalized(gripper.open_position) == 0.0
    assert gripper.to_normalized(gripper.closed_position) == 1.0
    assert gripper.to_joint(0.0) == gripper.open_position
    assert gripper.to_joint(1.0) == gripper.closed_position


@both
@settings(deadline=None)
@given(x=st.floats(0.0, 1.0))
def test_round_trip(gripper, x):
    assert gripper.to_normalized(gripper.to_joint(x)) == pytest.approx(x, abs=1e-12)


@both
@settings(deadline=None)
@given(x=st.floats(-1e6, 1e6), y=st.floats(-1e6, 1e6))
def test_monotonic_and_never_past_an_end(gripper, x, y):
    low, high = sorted((gripper.open_position, gripper.closed_position))
    assert 0.0 <= gripper.to_normalized(x) <= 1.0
    assert low - 1e-15 <= gripper.to_joint(x) <= high + 1e-15
    direction = 1.0 if gripper.polarity == 'closing_increases' else -1.0
    assert direction * (gripper.to_normalized(max(x, y)) - gripper.to_normalized(min(x, y))) >= 0.0


def test_hysteresis():
    decide = ROBOTIQ.decide
    assert not decide(0.5, closed=False, since_switch_s=9.0)
    assert decide(0.5, closed=True, since_switch_s=9.0)
    assert decide(0.6, closed=False, since_switch_s=9.0)
    assert not decide(0.4, closed=True, since_switch_s=9.0)


@settings(deadline=None)
@given(wish=st.floats(0.0, 1.0), closed=st.booleans(), since=st.floats(0.0, 10.0))
def test_dwell_and_stability(wish, closed, since):
    decided = ROBOTIQ.decide(wish, closed, since)
    if since < ROBOTIQ.min_dwell_s:
        assert decided == closed
    # The same wish never switches back.
    assert ROBOTIQ.decide(wish, decided, 10.0) == decided or since < ROBOTIQ.min_dwell_s


@settings(deadline=None)
@given(st.lists(st.floats(0.0, 1.0), min_size=50, max_size=50))
def test_chatter_switches_no_faster_than_the_dwell(wishes):
    closed, since, switches = False, 10.0, []
    for k, wish in enumerate(wishes):
        decided = ROBOTIQ.decide(wish, closed, since)
        if decided != closed:
            switches.append(0.02 * k)
            closed, since = decided, 0.0
        since += 0.02
    assert all(b - a >= ROBOTIQ.min_dwell_s - 1e-9 for a, b in pairwise(switches))


@pytest.mark.parametrize('wish', [float('nan')])
def test_nan_never_switches(wish):
    assert ROBOTIQ.decide(wish, True, 9.0) is True
    assert ROBOTIQ.decide(wish, False, 9.0) is False


@pytest.mark.parametrize(('change', 'text'), [
    ({'polarity': 'closing_decreases'}, 'contradict'),
    ({'polarity': 'inverted'}, 'closing_increases or closing_decreases'),
    ({'closed_position': 0.0}, 'both 0'),
    ({'threshold_open': 0.6}, 'open < close'),
    ({'threshold_close': 1.1}, 'open < close'),
    ({'min_dwell_s': -1.0}, 'min_dwell_s -1'),
])
def test_refuses_contradictions(change, text):
    with pytest.raises(robots.RobotError, match=text):
        replace(ROBOTIQ, **change)
