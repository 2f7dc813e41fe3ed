"""Real-time chunking in closed form: weights, guidance and what a step does."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from cosmos3_ros.contracts import ContractError
from cosmos3_ros.control.realtime_chunking import (
    align_previous,
    blend_clean,
    correct_velocity,
    guidance_weight,
    weigh_prefix,
)

SCHEDULES = ('LINEAR', 'EXP', 'ONES', 'ZEROS')


@given(st.integers(1, 64), st.data(), st.sampled_from(SCHEDULES))
def test_weights_are_one_then_fall_then_zero(horizon, data, schedule):
    delay = data.draw(st.integers(0, horizon // 2))
    execution = data.draw(st.integers(delay, horizon - delay))
    w = weigh_prefix(horizon, delay, execution, schedule)
    assert w.shape == (horizon,)
    assert (w[:delay] == 1.0).all() and (w[execution:] == 0.0).all()
    assert (np.diff(w) <= 0.0).all() and (w >= 0.0).all() and (w <= 1.0).all()


def test_linear_weights_fall_in_equal_steps():
    np.testing.assert_allclose(weigh_prefix(10, 2, 6), [1, 1, 0.8, 0.6, 0.4, 0.2, 0, 0, 0, 0])


def test_exponential_weights_follow_their_formula():
    linear = weigh_prefix(12, 3, 8)
    expected = linear * np.expm1(linear) / (np.e - 1)
    np.testing.assert_allclose(weigh_prefix(12, 3, 8, 'EXP'), expected)


@pytest.mark.parametrize(('delay', 'execution'), [(-1, 4), (5, 4), (4, 7), (17, 17)])
def test_no_overlap_is_refused_with_the_numbers(delay, execution):
    with pytest.raises(ContractError, match=str(execution)):
        weigh_prefix(10, delay, execution)


def test_an_unknown_schedule_lists_the_known_ones():
    with pytest.raises(ContractError, match='LINEAR, EXP, ONES, ZEROS'):
        weigh_prefix(10, 1, 5, 'COSINE')


@given(st.floats(0.0, 1.0))
def test_guidance_is_capped_and_positive(time):
    assert 0.0 <= guidance_weight(time, 10.0) <= 10.0


def test_guidance_at_half_time_by_hand():
    # tau = 0.5: c = 1, r = (0.25 + 0.25) / 0.25 = 2.
    assert guidance_weight(0.5) == pytest.approx(2.0)


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 1.0))
def test_correction_pulls_the_clean_estimate_towards_the_previous_chunk(seed, time):
    rng = np.random.default_rng(seed)
    x, v, previous = rng.normal(size=(3, 8, 4))
    w = weigh_prefix(8, 2, 5)
    guided = correct_velocity(v, x, previous, w, time, maximum=1.0 / time)
    clean, new = x - time * v, x - time * guided
    # With a gain of at most 1 / t the estimate comes nearer and does not pass.
    assert (np.abs(previous - new) <= np.abs(previous - clean) + 1e-9).all()
    np.testing.assert_array_equal(guided[5:], v[5:])


def test_an_agreeing_chunk_is_left_alone():
    rng = np.random.default_rng(0)
    x, v = rng.normal(size=(2, 8, 4))
    w = weigh_prefix(8, 2, 5)
    np.testing.assert_allclose(correct_velocity(v, x, x - 0.4 * v, w, 0.4), v)
    np.testing.assert_allclose(blend_clean(x, x, w, 0.4), x)


def test_blend_never_passes_the_previous_chunk():
    rng = np.random.default_rng(1)
    clean, previous = rng.normal(size=(2, 8, 4))
    w = weigh_prefix(8, 2, 5)
    for time in (0.01, 0.3, 0.9, 1.0):
        blended = blend_clean(clean, previous, w, time)
        assert (np.abs(previous - blended) <= np.abs(previous - clean) + 1e-12).all()


def test_previous_rows_are_shifted_and_padded():
    rows = np.arange(8.0).reshape(4, 2)
    np.testing.assert_array_equal(align_previous(rows, 3), [[6, 7], [0, 0], [0, 0], [0, 0]])
    np.testing.assert_array_equal(align_previous(rows, 9), np.zeros((4, 2)))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ContractError, match=r'\(H, D\)'):
        correct_velocity(np.zeros((4, 2)), np.zeros((4, 2)), np.zeros((3, 2)), np.zeros(4), 0.5)
