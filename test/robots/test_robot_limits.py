"""Joint limits, velocity envelope, profiles, and merging."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from published_chains import ROBOTS
import pytest

from cosmos3_ros import robots
from cosmos3_ros.robots.limit_files import FileLimits
from cosmos3_ros.robots.merging import merge_limits

ARRAYS = ('lower_rad', 'upper_rad', 'velocity_rad_s', 'acceleration_rad_s2', 'jerk_rad_s3', 'effort_nm',
          'effort_rate_nm_s')


@pytest.mark.parametrize('name', ROBOTS)
@pytest.mark.parametrize('profile', ['commissioning', 'lab', 'hardware'])
def test_every_profile_stays_inside_the_hardware(name, profile):
    robot = robots.load_robot(name, profile)
    limits, hardware = robot.limits, robot.hardware_limits
    assert (limits.lower_rad > hardware.lower_rad).all() and (limits.upper_rad < hardware.upper_rad).all()
    for key in ARRAYS[2:]:
        assert (getattr(limits, key) < getattr(hardware, key)).all(), key
    assert (robot.home_rad > limits.lower_rad).all() and (robot.home_rad < limits.upper_rad).all()


@pytest.mark.parametrize('name', ROBOTS)
@pytest.mark.parametrize('profile', ['commissioning', 'lab', 'hardware'])
def test_every_joint_can_come_to_rest_within_a_plan(name, profile):
    # The braking axiom: from the velocity limit, with trapezoidal acceleration, within 0.55 of 0.6 s.
    limits = robots.load_robot(name, profile).limits
    v, a, j = limits.velocity_rad_s, limits.acceleration_rad_s2, limits.jerk_rad_s3
    assert (v / a + a / j <= 0.55 + 1e-9).all()


@pytest.mark.parametrize('name', ROBOTS)
@pytest.mark.parametrize('profile', ['commissioning', 'lab', 'hardware'])
def test_lowered_velocities_are_named(name, profile):
    robot = robots.load_robot(name, profile)
    wanted = robot.profile.velocity_scale * robot.hardware_limits.velocity_rad_s
    lowered = tuple(np.array(robot.joint_names)[robot.limits.velocity_rad_s < wanted - 1e-9])
    assert robot.velocity_lowered == lowered
    assert (robot.limits.velocity_rad_s <= wanted + 1e-9).all()


def test_commissioning_is_the_default_and_the_slowest():
    default = robots.load_robot('panda')
    assert default.profile.name == 'commissioning' and default.profile.tcp_speed_m_s <= 0.25
    speeds = [robots.load_robot('panda', p).profile.tcp_speed_m_s for p in robots.profile_names()]
    assert speeds == sorted(speeds) and len(set(speeds)) == 3


def test_profile_figures_of_the_brief():
    lab = robots.load_robot('panda', 'lab')
    np.testing.assert_allclose(lab.limits.velocity_rad_s, 0.4 * lab.hardware_limits.velocity_rad_s)
    np.testing.assert_allclose(lab.limits.acceleration_rad_s2, 0.25 * lab.hardware_limits.acceleration_rad_s2)
    np.testing.assert_allclose(lab.limits.jerk_rad_s3, 500.0)
    hardware = robots.load_robot('panda', 'hardware')
    for key in ARRAYS[2:]:
        np.testing.assert_allclose(
            getattr(hardware.limits, key), 0.95 * getattr(hardware.hardware_limits, key))


def test_fr3_envelope_is_libfrankas():
    # rate_limiting.h (FR3), evaluated by hand for joint 1 at 2.6 rad: sqrt(12 (2.7501 - 2.6)) - 0.30, less
    # the tolerance of three lost packets, 0.003 s times 10 rad/s^2.
    limits = robots.load_robot('fr3', 'hardware').hardware_limits
    q = np.array([2.6, 0.0, 0.0, -1.5, 0.0, 2.0, 0.0])
    lower, upper = limits.velocity_bounds(q)
    assert upper[0] == pytest.approx(np.sqrt(12.0 * (2.7501 - 2.6)) - 0.30 - 0.03, abs=1e-12)
    assert lower[0] == pytest.approx(-2.62)
    # Joint 6 downwards, near its lower end: 0.35 - sqrt(11 (q - 0.54092)).
    q[5] = 0.7
    expected = -(np.sqrt(11 * (0.7 - 0.54092)) - 0.38)
    assert limits.velocity_bounds(q)[0][5] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize('profile', ['commissioning', 'lab', 'hardware'])
def test_envelope_is_zero_at_the_stop_and_never_crosses_zero(profile):
    fr3 = robots.load_robot('fr3', profile)
    for limits in (fr3.limits, fr3.hardware_limits):
        np.testing.assert_array_equal(limits.velocity_bounds(limits.envelope.stop_upper)[1], 0.0)
        np.testing.assert_array_equal(limits.velocity_bounds(limits.envelope.stop_lower)[0], 0.0)
        q = np.linspace(limits.lower_rad, limits.upper_rad, 2001)
        lower, upper = limits.velocity_bounds(q)
        assert (upper >= 0.0).all() and (lower <= 0.0).all()
        assert (upper <= limits.velocity_rad_s).all() and (lower >= -limits.velocity_rad_s).all()
        # Nearer to a stop never allows more speed towards it, and mid-range keeps the full speed.
        assert (np.diff(upper, axis=0) <= 1e-12).all() and (np.diff(lower, axis=0) <= 1e-12).all()
        np.testing.assert_allclose(upper[1000], limits.velocity_rad_s)
        np.testing.assert_allclose(lower[1000], -limits.velocity_rad_s)


def test_fr3_may_move_everywhere_inside_its_profile():
    # Inside the margin some speed towards the end is left, otherwise those positions were unreachable.
    fr3 = robots.load_robot('fr3', 'commissioning')
    q = np.linspace(fr3.limits.lower_rad, fr3.limits.upper_rad, 501)
    lower, upper = fr3.limits.velocity_bounds(q)
    assert upper.min() > 0.0 and lower.max() < 0.0


def test_braking_at_the_envelopes_deceleration_stays_behind_the_stop():
    # v^2 = c (stop - q) is braking at c / 2; the envelope lies below it everywhere.
    limits = robots.load_robot('fr3', 'hardware').hardware_limits
    q = np.linspace(limits.lower_rad, limits.upper_rad, 501)
    _, upper = limits.velocity_bounds(q)
    assert (q + upper ** 2 / limits.envelope.curvature_upper <= limits.envelope.stop_upper + 1e-9).all()


def test_bounds_of_a_batch_and_without_envelope(robot):
    n = len(robot.joint_names)
    q = np.broadcast_to(robot.home_rad, (4, 5, n))
    lower, upper = robot.limits.velocity_bounds(q)
    assert lower.shape == upper.shape == (4, 5, n)
    assert (lower < 0).all() and (upper > 0).all()


PANDA = robots.load_robot('panda').hardware_limits
positive = st.floats(0.01, 40.0, allow_nan=False)
entry = st.builds(
    FileLimits, source=st.just('file'), joint=st.sampled_from([f'panda_joint{i}' for i in range(1, 8)]),
    lower_rad=st.none() | st.floats(-4.0, -1.6), upper_rad=st.none() | st.floats(-1.5, 4.0),
    velocity_rad_s=st.none() | positive, acceleration_rad_s2=st.none() | positive,
    jerk_rad_s3=st.none() | positive, effort_nm=st.none() | positive)
# Joints whose range overlaps whatever the entries above say.
FREE = ('panda_joint1', 'panda_joint2', 'panda_joint3', 'panda_joint5', 'panda_joint7')


@settings(max_examples=150, deadline=None)
@given(st.lists(entry.filter(lambda e: e.joint in FREE), max_size=6), st.randoms(use_true_random=False))
def test_merging_only_tightens_in_any_order(entries, random):
    base = PANDA
    merged = merge_limits(base, entries)
    shuffled = list(entries)
    random.shuffle(shuffled)
    again = merge_limits(base, shuffled)
    twice = merge_limits(merged, entries)
    for key in ARRAYS:
        found = getattr(merged, key)
        np.testing.assert_array_equal(found, getattr(again, key))
        np.testing.assert_array_equal(found, getattr(twice, key))
        if key == 'lower_rad':
            assert (found >= base.lower_rad).all()
        else:
            assert (found <= getattr(base, key)).all()
        for e in entries:
            value = getattr(e, key, None)
            if value is not None:
                joint = base.names.index(e.joint)
                assert found[joint] >= value if key == 'lower_rad' else found[joint] <= value


def test_a_merged_envelope_lies_below_both():
    fr3 = robots.load_robot('fr3').hardware_limits
    panda = robots.load_robot('panda').hardware_limits
    curve = ((0.4, 9.0, 2.6), (0.1, 20.0, -2.7))
    for base in (fr3, panda):
        merged = merge_limits(base, [FileLimits('file', base.names[0], envelope=curve)])
        q = np.linspace(base.lower_rad, base.upper_rad, 801)
        lower, upper = merged.velocity_bounds(q)
        base_lower, base_upper = base.velocity_bounds(q)
        assert (upper <= base_upper + 1e-12).all() and (lower >= base_lower - 1e-12).all()
        np.testing.assert_array_equal(upper[:, 1:], base_upper[:, 1:])
        x = q[:, 0]
        assert (upper[:, 0] <= np.maximum(np.sqrt(np.maximum(9.0 * (2.6 - x), 0)) - 0.4, 0) + 1e-12).all()
        assert (lower[:, 0] >= -np.maximum(np.sqrt(np.maximum(20.0 * (x + 2.7), 0)) - 0.1, 0) - 1e-12).all()


def test_contradictions_name_everything():
    base = robots.load_robot('panda').hardware_limits
    text = r"my\.urdf: joint 'panda_joint4': 0\.1 to 0\.5 rad contradicts"
    with pytest.raises(robots.RobotError, match=text):
        merge_limits(base, [FileLimits('my.urdf', 'panda_joint4', 0.1, 0.5)])
    with pytest.raises(robots.RobotError, match=r"elbow.*panda_joint1, panda_joint2"):
        merge_limits(base, [FileLimits('my.urdf', 'elbow', -1.0, 1.0)])


@pytest.mark.parametrize(('change', 'text'), [
    ({'lower_rad': np.full(7, 3.0)}, 'not below'),
    ({'velocity_rad_s': np.array([1.0, 0, 1, 1, 1, 1, 1])}, 'panda_joint2: velocity_rad_s 0'),
    ({'effort_nm': np.array([-1.0, 1, 1, 1, 1, 1, 1])}, 'panda_joint1: effort_nm -1'),
    ({'jerk_rad_s3': np.ones(6)}, r'shape \(6,\)'),
    ({'upper_rad': np.full(7, np.nan)}, 'finite'),
    ({'names': ('a',) * 7}, 'once'),
])
def test_refuses_impossible_limits(change, text):
    base = robots.load_robot('panda').hardware_limits
    with pytest.raises(ValueError, match=text):
        replace(base, **change)


def test_refuses_impossible_envelopes():
    base = robots.load_robot('fr3').hardware_limits
    for change, text in (
        ({'curvature_upper': np.zeros(7)}, 'curvature'), ({'offset_lower': -np.ones(7)}, 'offset'),
        ({'stop_lower': np.full(7, 5.0)}, 'stop'), ({'scale': 0.0}, 'scale'), ({'scale': 1.5}, 'scale'),
    ):
        with pytest.raises(robots.RobotError, match=text):
            replace(base.envelope, **change)
    with pytest.raises(robots.RobotError, match='7 joints arrived, 6'):
        robots.JointLimits(base.names[:6], *(getattr(base, key)[:6] for key in ARRAYS), base.envelope)


def test_a_profile_that_cannot_brake_is_refused():
    panda = robots.load_robot('panda')
    slow = replace(panda.profile, jerk_rad_s3=1.0)
    with pytest.raises(robots.RobotError, match='acceleration_scale'):
        robots.scale_limits(panda.hardware_limits, slow)
    with pytest.raises(robots.RobotError, match='not below'):
        robots.scale_limits(panda.hardware_limits, replace(panda.profile, position_margin_rad=3.0))


@pytest.mark.parametrize(('change', 'text'), [
    ({'velocity_scale': 1.2}, 'at most 1'), ({'velocity_scale': 0.0}, 'positive'),
    ({'tcp_speed_m_s': -0.1}, 'tcp_speed_m_s'), ({'table_distance_m': -0.1}, 'table_distance_m'),
])
def test_refuses_impossible_profiles(panda, change, text):
    with pytest.raises(robots.RobotError, match=text):
        replace(panda.profile, **change)
