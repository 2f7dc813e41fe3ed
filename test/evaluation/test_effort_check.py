"""The independent efforts agree with the package's own, and broken limits are noticed."""

import numpy as np
import pytest

from cosmos3_ros.evaluation.effort_check import EffortSamples, check_efforts, joint_efforts
from cosmos3_ros.evaluation.limit_file import read_limits
from cosmos3_ros.evaluation.limit_report import LimitReport
from cosmos3_ros.robots import load_robot


@pytest.mark.parametrize('name', ['panda', 'fr3', 'ur5e'])
def test_newton_euler_and_homogeneous_matrices_agree(name):
    robot, limits = load_robot(name, 'lab'), read_limits(name, 'lab')
    np.testing.assert_allclose(limits.effort, robot.limits.effort_nm)
    np.testing.assert_allclose(limits.effort_rate, robot.limits.effort_rate_nm_s)
    states = np.random.default_rng(0).normal(size=(3, 40, len(robot.joint_names)))
    np.testing.assert_allclose(
        joint_efforts(limits, EffortSamples(*states)), robot.dynamics.effort(*states), atol=1e-9)


def record(scale):
    limits = read_limits('panda', 'lab')
    t = np.linspace(0.0, 1.0, 101)
    home = load_robot('panda', 'lab').home_rad
    swing = scale * np.sin(2 * np.pi * t)[:, None]
    states = EffortSamples(home + 0.0 * swing, 0.0 * swing + np.zeros(7), swing * np.ones(7))
    report = LimitReport()
    check_efforts(report, limits, states, t)
    return report


def test_limits_that_hold_and_limits_that_do_not():
    assert record(0.5).violations == {'effort': 0, 'effort_rate': 0}
    broken = record(60.0)
    assert broken.violations['effort'] > 0 and broken.worst['effort'].margin < 0.0
    assert record(2000.0).violations['effort_rate'] > 0
