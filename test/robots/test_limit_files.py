"""Limits from URDF and joint_limits.yaml: the tighter wins, and nothing odd passes in silence."""

import numpy as np
import pytest

from cosmos3_ros import robots

NAMES = tuple(f'panda_joint{i}' for i in range(1, 8))
FROM_FILES = ('lower_rad', 'upper_rad', 'velocity_rad_s', 'acceleration_rad_s2', 'jerk_rad_s3', 'effort_nm')


def _urdf(tmp_path, change=None, drop=None, extra='', kind='revolute'):
    """A URDF with the Panda's own figures, and one joint changed."""
    base = robots.load_robot('panda').hardware_limits
    lines = ['<robot name="x">', '<joint name="base" type="fixed"/>']
    for i, name in enumerate(NAMES):
        if name == drop:
            continue
        values = {'lower': base.lower_rad[i], 'upper': base.upper_rad[i], 'velocity': base.velocity_rad_s[i],
                  'effort': base.effort_nm[i]}
        inner = ''
        if name == 'panda_joint3':
            values.update(change or {})
            inner = extra
        limit = ' '.join(f'{k}="{v}"' for k, v in values.items() if v is not None)
        lines.append(f'<joint name="{name}" type="{kind if name == "panda_joint3" else "revolute"}">'
                     f'<limit {limit}/>{inner}</joint>')
    path = tmp_path / 'arm.urdf'
    path.write_text('\n'.join([*lines, '</robot>']))
    return path


def _yaml(tmp_path, text):
    path = tmp_path / 'joint_limits.yaml'
    path.write_text(text)
    return path


def test_the_same_figures_change_nothing(tmp_path):
    plain = robots.load_robot('panda', 'lab')
    merged = robots.load_robot('panda', 'lab', urdf=_urdf(tmp_path))
    for key in FROM_FILES:
        np.testing.assert_array_equal(getattr(merged.limits, key), getattr(plain.limits, key))


def test_the_tighter_wins_each_way(tmp_path):
    urdf = _urdf(tmp_path, {'lower': -1.0, 'upper': 9.0, 'velocity': 1.0, 'effort': 500.0})
    text = _yaml(tmp_path, '''
default_velocity_scaling_factor: 0.1
joint_limits:
  panda_joint3:
    has_velocity_limits: true
    max_velocity: 0.8
    has_acceleration_limits: true
    max_acceleration: 2.5
    has_jerk_limits: true
    max_jerk: 400
    has_position_limits: false
    min_position: 0.0
    max_position: 0.1
  panda_joint5:
    has_position_limits: true
    min_position: !degrees -90
    max_position: !radians 1.5
    has_acceleration_limits: true
    max_acceleration: 4.0
    has_deceleration_limits: true
    max_deceleration: 3.0
    has_effort_limits: true
    max_effort: 5
''')
    robot = robots.load_robot('panda', 'lab', urdf=urdf, joint_limits=text)
    hardware = robot.hardware_limits
    assert (hardware.lower_rad[2], hardware.upper_rad[2]) == (-1.0, 2.8973)
    assert (hardware.velocity_rad_s[2], hardware.acceleration_rad_s2[2]) == (0.8, 2.5)
    assert (hardware.jerk_rad_s3[2], hardware.effort_nm[2]) == (400.0, 87.0)
    assert hardware.lower_rad[4] == pytest.approx(-np.pi / 2) and hardware.upper_rad[4] == 1.5
    assert (hardware.acceleration_rad_s2[4], hardware.effort_nm[4]) == (3.0, 5.0)
    # The profile scales what is left, and the braking axiom holds for it too.
    limits = robot.limits
    assert limits.velocity_rad_s[2] == pytest.approx(0.4 * 0.8)
    v, a, j = limits.velocity_rad_s, limits.acceleration_rad_s2, limits.jerk_rad_s3
    assert (v / a + a / j <= 0.55 + 1e-9).all()


def test_frankas_own_envelope_in_a_urdf(tmp_path):
    # v <= sqrt(2 d (upper - q)) - offset: the form of libfranka's joint_velocity_limits.h.
    extra = '<position_based_velocity_limits deceleration_limit="3.0" velocity_offset="0.2"/>'
    limits = robots.load_robot('panda', urdf=_urdf(tmp_path, extra=extra)).hardware_limits
    q = np.zeros(7)
    q[2], q[3] = 2.5, -1.5
    lower, upper = limits.velocity_bounds(q)
    assert upper[2] == pytest.approx(np.sqrt(6.0 * (2.8973 - 2.5)) - 0.2)
    assert lower[2] == pytest.approx(-2.175)
    np.testing.assert_array_equal(np.delete(upper, 2), np.delete(limits.velocity_rad_s, 2))


def test_a_continuous_joint_keeps_the_robots_range(tmp_path):
    path = _urdf(tmp_path, {'lower': None, 'upper': None, 'velocity': 0.5}, kind='continuous')
    hardware = robots.load_robot('panda', urdf=path).hardware_limits
    assert hardware.upper_rad[2] == 2.8973 and hardware.velocity_rad_s[2] == 0.5


@pytest.mark.parametrize(('change', 'text'), [
    ({'lower': 1.0, 'upper': 0.5}, r"'panda_joint3': lower 1 is not below upper 0\.5"),
    ({'lower': 2.9, 'upper': 3.0}, r"'panda_joint3': 2\.9 to 3\.0 rad contradicts -2\.8973 to 2\.8973"),
    ({'lower': -166.0, 'upper': 166.0}, r"'panda_joint3': lower_rad -166 arrived.*degrees"),
    ({'velocity': 150.0}, r"'panda_joint3': velocity_rad_s 150 arrived.*degrees"),
    ({'velocity': 0.0}, r"'panda_joint3': velocity_rad_s 0 arrived, a positive"),
    ({'effort': -5.0}, r"'panda_joint3': effort_nm -5 arrived"),
    ({'effort': 'nan'}, 'finite'),
    ({'velocity': 'fast'}, r"velocity='fast' arrived, a number"),
    ({'velocity': None}, 'velocity=None'),
])
def test_bad_urdf_numbers_name_file_joint_and_value(tmp_path, change, text):
    with pytest.raises(robots.RobotError, match=rf'arm\.urdf: joint {text}' if text[0] == "'" else text):
        robots.load_robot('panda', urdf=_urdf(tmp_path, change))


@pytest.mark.parametrize(('content', 'text'), [
    ('<robot>', 'not valid XML'),
    ('<mujoco/>', 'top element is <mujoco>'),
    ('<robot name="x"/>', "'panda_joint1' is missing; the file has: none"),
    ('<robot name="x"><joint name="a" type="fixed"/><joint name="a" type="fixed"/></robot>',
     "'a' stands twice"),
])
def test_bad_urdf_files(tmp_path, content, text):
    path = tmp_path / 'bad.urdf'
    path.write_text(content)
    with pytest.raises(robots.RobotError, match=text):
        robots.load_robot('panda', urdf=path)


def test_bad_urdf_structure(tmp_path):
    text = "'panda_joint6' is missing; the file has: base, panda_joint1"
    with pytest.raises(robots.RobotError, match=text):
        robots.load_robot('panda', urdf=_urdf(tmp_path, drop='panda_joint6'))
    with pytest.raises(robots.RobotError, match="type 'prismatic' arrived"):
        robots.load_robot('panda', urdf=_urdf(tmp_path, kind='prismatic'))
    with pytest.raises(robots.RobotError, match='cannot be read'):
        robots.load_robot('panda', urdf=tmp_path / 'absent.urdf')
    extra = '<position_based_velocity_limits deceleration_limit="-3.0" velocity_offset="0.2"/>'
    with pytest.raises(robots.RobotError, match='deceleration_limit -3'):
        robots.load_robot('panda', urdf=_urdf(tmp_path, extra=extra))
    path = tmp_path / 'nolimit.urdf'
    path.write_text(_urdf(tmp_path).read_text().replace('<limit', '<nolimit'))
    with pytest.raises(robots.RobotError, match='needs <limit>'):
        robots.load_robot('panda', urdf=path)


def _entry(body, joint='panda_joint3'):
    return f'joint_limits:\n  {joint}:\n' + ''.join(f'    {line}\n' for line in body)


@pytest.mark.parametrize(('content', 'text'), [
    (_entry(['has_velocity_limits: true', 'max_velocity: 1'], 'fr3_joint3'),
     "'fr3_joint3' is unknown; this robot has: panda_joint1"),
    (_entry(['has_velocity_limits: true']), "'max_velocity' is missing"),
    (_entry(['has_velocity_limits: yes please', 'max_velocity: 1']), 'true or false'),
    (_entry(['has_velocity_limits: true', 'max_velocity: quick']), 'a finite number'),
    (_entry(['has_velocity_limits: true', 'max_velocity: 120']), r'panda_joint3.*120 arrived.*degrees'),
    (_entry(['has_velocity_limits: true', 'max_velocity: -1']), 'positive'),
    (_entry(['has_velocity_limit: true']), "unknown key 'has_velocity_limit'; known keys"),
    (_entry(['has_position_limits: true', 'min_position: 1', 'max_position: -1']),
     'lower 1 is not below upper -1'),
    (_entry(['has_position_limits: true', 'min_position: 2.9', 'max_position: 3']), 'no position is left'),
    (_entry(['max_velocity: 1', 'max_velocity: 2']), 'stands twice'),
    ('joint_limits: []', 'a mapping of keys'),
    ('limits: {}', "'joint_limits' is missing; found: limits"),
    ('joint_limits: {}\nspeed: 1', "unknown key 'speed'"),
    ('joint_limits: [', 'not valid YAML'),
    ('joint_limits: {panda_joint3: {max_velocity: !degrees fast}}', 'not valid YAML'),
    ('default_velocity_scaling_factor: 3\njoint_limits: {}', '0 to 1 is allowed'),
])
def test_bad_joint_limits(tmp_path, content, text):
    with pytest.raises(robots.RobotError, match=rf'(?s)joint_limits\.yaml.*{text}'):
        robots.load_robot('panda', joint_limits=_yaml(tmp_path, content))
