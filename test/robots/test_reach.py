"""Chunks that ask for what an arm cannot reach."""

import numpy as np
import pytest

from cosmos3_ros import robots


def test_a_reachable_chunk_has_no_violations(robot):
    assert robots.check_reachable(robot, np.tile(robot.home_rad, (32, 1))) == []
    edge = np.stack([robot.limits.lower_rad, robot.limits.upper_rad])
    assert robots.check_reachable(robot, edge) == []


def test_a_panda_chunk_on_an_fr3_is_reported_not_clamped(fr3, panda):
    chunk = np.tile(panda.home_rad, (8, 1))
    chunk[3:6, 5] = [0.4, 0.2, 0.3]     # a Panda's joint 6 starts at -0.0175, an FR3's at 0.5445 rad
    chunk[7, 3] = -0.10                 # a Panda's joint 4 ends at -0.0698, an FR3's at -0.1518 rad
    before = chunk.copy()
    assert robots.check_reachable(panda, chunk) == []
    worst, second = robots.check_reachable(fr3, chunk)
    np.testing.assert_array_equal(chunk, before)
    assert (worst.joint, worst.rows, worst.worst_rad) == ('fr3_joint6', (3, 4, 5), 0.2)
    assert (second.joint, second.rows, second.worst_rad) == ('fr3_joint4', (7,), -0.10)
    assert worst.lower_rad == pytest.approx(0.5445 + fr3.profile.position_margin_rad)
    assert 'fr3_joint6' in str(worst) and '0.2000' in str(worst) and '3..5 (3 rows)' in str(worst)
    assert 'row 7' in str(second)


def test_the_real_droid_episode_fits_a_panda(panda, droid_positions):
    assert robots.check_reachable(panda, droid_positions) == []


def test_refuses_what_is_no_chunk(panda):
    bad = ((np.zeros(7), 'shape'), (np.zeros((3, 6)), 'shape'), (np.full((2, 7), np.nan), 'finite'))
    for value, text in bad:
        with pytest.raises(robots.RobotError, match=text):
            robots.check_reachable(panda, value)
    assert robots.check_reachable(panda, np.zeros((0, 7))) == []
