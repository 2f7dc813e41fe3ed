"""The splice of chunks that disagree takes the time that the joints need."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np

from cosmos3_ros.control.reference import Bridge, BridgeBound

VELOCITY = np.array([0.4, 0.9])
ACCELERATION = np.array([0.8, 2.0])
BOUND = BridgeBound(VELOCITY, ACCELERATION, 1e3)
SHORTEST_S = 0.05

disagreements = hnp.arrays(float, 2, elements=st.floats(-0.5, 0.5))


def peaks(offset, duration_s):
    times = np.linspace(0.0, duration_s, 400, endpoint=False)
    _, velocity, acceleration, _ = Bridge.away(0.0, duration_s, offset).evaluate(times)
    return np.abs(velocity).max(axis=0), np.abs(acceleration).max(axis=0)


@settings(deadline=None)
@given(disagreements)
def test_an_offset_is_taken_away_within_the_share(position):
    offset = np.stack([position, np.zeros(2), np.zeros(2)])
    velocity, acceleration = peaks(offset, max(BOUND.duration_s(offset), SHORTEST_S))
    assert (velocity <= VELOCITY + 1e-9).all()
    assert (acceleration <= ACCELERATION * 1.001).all()


@settings(deadline=None)
@given(disagreements)
def test_a_velocity_is_taken_away_within_the_share(velocity):
    offset = np.stack([np.zeros(2), velocity, np.zeros(2)])
    _, acceleration = peaks(offset, max(BOUND.duration_s(offset), SHORTEST_S))
    assert (acceleration <= ACCELERATION * 1.001).all()


def test_agreement_takes_no_time_and_nothing_takes_longer_than_the_longest():
    assert BOUND.duration_s(np.zeros((3, 2))) == 0.0
    assert BridgeBound(VELOCITY, ACCELERATION, 2.0).duration_s(np.full((3, 2), 50.0)) == 2.0
