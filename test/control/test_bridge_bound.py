"""The splice of chunks that disagree takes the time that the joints need."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import pytest

from cosmos3_ros.control.reference import Bridge, BridgeBound, ChunkSpline, Reference

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


@pytest.mark.parametrize('noise_rad', [0.001, 0.01])
def test_the_jitter_of_chunks_stays_jitter(noise_rad):
    """Splice after splice of one path under fresh noise: the reference stays as near as the rows are."""
    rng, row_s = np.random.default_rng(0), 1 / 15
    reference, errors = Reference.hold(np.zeros(2), 0.0, 0.2), []

    def path(t):
        return 0.1 * np.sin(1.3 * t)[:, None] * np.ones(2)

    for k in range(60):
        now_s = 0.5 * k
        t = now_s - 0.2 + row_s * np.arange(1, 33)
        rows = path(t) + rng.normal(0.0, noise_rad, (32, 2))
        reference, _ = reference.spliced(ChunkSpline.through(t[0], row_s, rows), now_s, 0.2, BOUND)
        soon = now_s + np.arange(0.0, 0.5, 0.01)
        errors.append(reference.evaluate(soon)[0] - path(soon))
    assert np.sqrt(np.mean(np.concatenate(errors[4:]) ** 2)) < 1.5 * noise_rad


def test_a_lasting_difference_in_speed_is_taken_away_slowly():
    times = np.arange(40) / 15
    fast = ChunkSpline.through(0.0, 1 / 15, times[:, None] * np.array([0.3, 0.0]))
    still = ChunkSpline.through(0.0, 1 / 15, np.repeat(fast.evaluate(np.array([1.0]))[0], 40, axis=0))
    moving = Reference(-np.inf, fast, (Bridge.of(0.0, 0.2, np.zeros((6, 2))),))
    reference, seam = moving.spliced(still, 1.0, 0.2, BOUND)
    acceleration = np.abs(reference.evaluate(np.linspace(1.0, 4.0, 600))[2]).max(axis=0)
    assert seam['gap_velocity'] > 0.25 and (acceleration <= 1.3 * ACCELERATION).all()
    fixed, _ = moving.spliced(still, 1.0, 0.2)
    assert np.abs(fixed.evaluate(np.linspace(1.0, 4.0, 600))[2]).max() > 4 * ACCELERATION[0]
