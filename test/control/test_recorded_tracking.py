"""Chunks cut from a real DROID episode are followed to a milliradian where the recording keeps the limits."""

from pathlib import Path

from arm_double import STEP_NS, Arm, robot_of
from limit_witness import Witness
import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from cosmos3_ros.evaluation.lerobot_episode import read_episode
from cosmos3_ros.evaluation.limit_file import read_limits
from cosmos3_ros.evaluation.recorded_motion import find_exceedances, is_within

DROID = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'droid_lerobot_example'
BEGIN_S, LENGTH_S, SETTLE_S, LATENCY_S = 6.0, 8.0, 2.0, 0.2


@pytest.mark.skipif(not DROID.is_dir(), reason='the public DROID example episode is not on this machine')
def test_a_real_episode_is_tracked_where_it_keeps_the_limits():
    robot, episode = robot_of('panda', 'lab'), read_episode(DROID)
    curve = CubicSpline(episode.stamps_s, episode.joint_position)
    found = find_exceedances(episode.stamps_s, episode.joint_position, read_limits('panda', 'lab'))
    arm = Arm(robot, curve(BEGIN_S), Witness(robot, space=False)).armed()
    start_ns, seams = arm.now_ns, []
    while arm.now_ns < start_ns + LENGTH_S * 1e9:
        age_s = min(LATENCY_S, (arm.now_ns - start_ns) * 1e-9)
        stamp_s = BEGIN_S + (arm.now_ns - start_ns) * 1e-9 - age_s
        rows = curve(stamp_s + STEP_NS * 1e-9 * np.arange(1, 33))
        assert arm.submit(rows, age_s=age_s).accepted
        seams.append(arm.state().seam['velocity'])
        arm.run(0.5)
    t = BEGIN_S + np.array([c.stamp_ns - start_ns for c in arm.commands]) * 1e-9
    q = np.stack([c.position for c in arm.commands])
    # This part has both: stretches that keep the limits, and joint 5 at 8.8 s, which does not.
    within = (t > BEGIN_S + SETTLE_S) & is_within(t, found, 0.6)
    assert 0.3 < within.mean() < 0.8
    lags = np.arange(-0.03, 0.0301, 0.002)
    errors = [np.sqrt(np.mean((q[within] - curve(t[within] - lag)) ** 2)) for lag in lags]
    assert min(errors) <= 2e-3
    assert abs(lags[int(np.argmin(errors))]) <= 0.020
    assert max(seams) <= 1e-6 * robot.limits.velocity_rad_s.min()
    assert dict(arm.witness.violations) == {}, arm.witness.first
