"""An episode ends once its task has been done for a while, in simulated time."""

from types import SimpleNamespace

import pytest

rclpy = pytest.importorskip('rclpy')

from cosmos3_ros.cli.episodes import HeldSuccess  # noqa: E402


def state(time_s: float, success: bool) -> SimpleNamespace:
    stamp = SimpleNamespace(sec=int(time_s), nanosec=round(time_s % 1.0 * 1e9))
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp), success=success)


def test_it_takes_its_time_and_then_stays() -> None:
    held = HeldSuccess(1.0)
    assert not held.update(None) and not held.update(state(3.0, False))
    assert not held.update(state(4.0, True)) and not held.update(state(4.999, True))
    assert held.update(state(5.0, True)) and held.is_reached
    assert held.update(state(6.0, False)) and held.is_reached


def test_a_break_begins_it_anew() -> None:
    held = HeldSuccess(1.0)
    for time_s, success in ((1.0, True), (1.9, True), (1.95, False), (2.0, True), (2.9, True)):
        assert not held.update(state(time_s, success))
    assert held.update(state(3.0, True))


def test_no_time_passes_where_no_state_comes() -> None:
    held, last = HeldSuccess(0.3), state(2.0, True)
    assert not any(held.update(last) for _ in range(100))
