"""The shipped descriptions, and every way to get one wrong."""

import re

import numpy as np
from published_chains import ROBOTS
import pytest
import yaml

from cosmos3_ros import robots
from cosmos3_ros.resources import shared_file
from cosmos3_ros.robots.profile import read_profiles

CAMERAS = ('wrist', 'exterior_1', 'exterior_2')


def _content(name='panda'):
    return yaml.safe_load(shared_file('config', 'robots', f'{name}.yaml').read_text(encoding='utf-8'))


def _load(tmp_path, content):
    path = tmp_path / 'mine.yaml'
    path.write_text(yaml.safe_dump(content))
    return robots.load_robot(str(path), 'lab')


def test_names():
    assert set(robots.robot_names()) == set(ROBOTS)
    assert robots.profile_names() == ('commissioning', 'lab', 'hardware')


def test_parts_fit_together(robot):
    n = len(robot.joint_names)
    assert robot.limits.names == robot.hardware_limits.names == robot.joint_names
    assert robot.kinematics.joint_count == robot.home_rad.size == n
    assert tuple(camera.name for camera in robot.cameras) == CAMERAS
    assert robot.kinematics.point_names == ('tool', 'elbow')
    assert 'table' in robot.workspace.names
    assert robot.dynamics is not None
    assert not robot.home_rad.flags.writeable and not robot.limits.upper_rad.flags.writeable


def test_droid_policies_are_for_seven_joint_frankas():
    accepts = {name: 'droid_joint' in robots.load_robot(name).action_contracts for name in ROBOTS}
    assert accepts == {'panda': True, 'fr3': True, 'ur5e': False}


def test_cameras_look_where_they_should(robot):
    # Optical axes: exterior cameras at the table before the base, the wrist camera along the fingers.
    from cosmos3_ros.robots.kinematics import rotation_rpy
    for camera in robot.cameras:
        forward = rotation_rpy(camera.mount.rpy_rad)[:, 2]
        down = rotation_rpy(camera.mount.rpy_rad)[:, 1]
        if camera.name == 'wrist':
            assert camera.mount.parent == 'tool' and forward[2] > 0.9
            # The tool's x axis is the camera's side and up in its image: it looks back at the fingers.
            assert forward[0] < 0 < camera.mount.xyz_m[0] and down[0] < -0.9
        else:
            assert camera.mount.parent == 'base' and down[2] < 0
            reach = -camera.mount.xyz_m[2] / forward[2]
            target = camera.mount.xyz_m + reach * forward
            assert 0.2 < target[0] < 0.6 and abs(target[1]) < 0.5


@pytest.mark.parametrize('name', ROBOTS)
def test_every_limit_names_its_source(name):
    text = shared_file('config', 'robots', f'{name}.yaml').read_text(encoding='utf-8')
    keys = (r'position_rad|velocity_rad_s|acceleration_rad_s2|jerk_rad_s3|effort_nm|effort_rate_nm_s|'
            r'xyz_m|rpy_rad|upper|lower')
    joints = text.split('tool:')[0].splitlines()
    lines = [line for line in joints if re.match(rf'\s+({keys}):', line)]
    assert len(lines) >= 8 * len(_content(name)['joints'])
    for line in lines:
        assert re.search(r'# \S+', line), line


def test_every_profile_number_has_its_reason():
    text = shared_file('config', 'profiles.yaml').read_text(encoding='utf-8')
    for line in text.splitlines():
        if re.match(r'  \w+: ', line) and 'description' not in line:
            assert re.search(r'# \S+', line), line


def test_a_copy_of_a_description_is_a_robot(tmp_path, panda):
    copy = _load(tmp_path, _content())
    np.testing.assert_array_equal(copy.limits.velocity_rad_s, panda.limits.velocity_rad_s)
    q = panda.home_rad[None]
    np.testing.assert_array_equal(copy.collision.distances(q), panda.collision.distances(q))


def test_dynamics_may_be_unknown(tmp_path):
    content = _content()
    content['dynamics'] = None
    assert _load(tmp_path, content).dynamics is None


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(robots.RobotError, match="'pandas' arrived, fr3, panda, ur5e or the path"):
        robots.load_robot('pandas')
    with pytest.raises(robots.RobotError, match="'fast' arrived, commissioning, lab, hardware are allowed"):
        robots.load_robot('panda', 'fast')
    with pytest.raises(robots.RobotError, match='there is no file'):
        robots.load_robot('absent.yaml')


def _set(path, value):
    def change(content):
        *parents, last = path
        for key in parents:
            content = content[key]
        content[last] = value
    return change


def _drop(*path):
    def change(content):
        *parents, last = path
        for key in parents:
            content = content[key]
        del content[last]
    return change


BAD = [
    (_drop('home_rad'), "key 'home_rad' is missing"),
    (_drop('joints', 2, 'jerk_rad_s3'), r"joints\[2\]: the key 'jerk_rad_s3' is missing"),
    (_drop('dynamics'), "key 'dynamics' is missing"),
    (_set(['colour'], 'white'), "unknown key 'colour'; known keys: "),
    (_set(['joints', 0, 'speed'], 1.0), r"joints\[0\]: unknown key 'speed'"),
    (_set(['gripper', 'force'], 1.0), "gripper: unknown key 'force'"),
    (_set(['home_rad'], [0.0] * 6), r'home_rad: shape \(6,\) arrived, \(7\) is allowed'),
    (_set(['home_rad'], ['a'] * 7), '7 numbers are needed'),
    (_set(['home_rad'], 3.0), 'a list is needed'),
    (_set(['home_rad', 1], 1.76), 'home_rad of panda_joint2 is 1.76, but the limits'),
    (_set(['joints', 1, 'position_rad'], [1.0, -1.0]), 'not below'),
    (_set(['joints', 1, 'position_rad'], [1.0]), 'position_rad: shape'),
    (_set(['joints', 1, 'velocity_rad_s'], 0), 'a positive number'),
    (_set(['joints', 1, 'velocity_rad_s'], 'fast'), 'a finite number'),
    (_set(['joints', 1, 'velocity_rad_s'], True), 'a finite number'),
    (_set(['joints', 1, 'velocity_rad_s'], float('nan')), 'a finite number'),
    (_set(['joints', 1, 'name'], 'panda_joint1'), 'each name may stand once'),
    (_set(['joints'], []), 'non-empty'),
    (_set(['joints'], {'a': 1}), 'a list is needed'),
    (_set(['joints', 0], 'x'), r'joints\[0\].*a mapping'),
    (_set(['joints', 3, 'envelope'], {
        'upper': [0.3, 8, 0.1], 'lower': [0.3, 8, -3.1], 'tolerance_rad_s': 0.0}), 'all or none'),
    (_set(['name'], ''), 'a text is needed'),
    (_set(['name'], 7), 'a text is needed'),
    (_set(['command_interfaces'], ['telepathy']), 'joint_trajectory, position'),
    (_set(['command_interfaces'], []), 'joint_trajectory, position'),
    (_set(['command_interfaces'], [1]), 'texts are needed'),
    (_set(['speed_points', 0, 'link'], 9), '0 to 7 is allowed'),
    (_set(['speed_points', 0, 'name'], 'tool'), 'each name may stand once'),
    (_set(['collision', 'capsules', 1, 'radius_m'], -0.1), 'a positive number'),
    (_set(['collision', 'capsules', 1, 'link'], 1.5), 'a whole number'),
    (_set(['collision', 'capsules', 1, 'name'], 'link0'), 'distinct'),
    (_set(['collision', 'excluded', 0, 'pairs'], [['link0', 'tail']]), 'not two of link0'),
    (_set(['collision', 'excluded', 0, 'pairs'], ['link0']), 'two capsule names'),
    (_drop('collision', 'excluded', 0, 'reason'), "'reason' is missing"),
    (_set(['workspace', 'upper_m'], [-2.0, 0.0, 0.0]), 'empty'),
    (_set(['workspace', 'planes', 0, 'normal'], [0.0, 0.0, 2.0]), 'length one'),
    (_set(['gripper', 'polarity'], 'closing_decreases'), 'contradict'),
    (_set(['cameras', 0, 'name'], 'left'), 'wrist, exterior_1, exterior_2'),
    (_set(['cameras', 0, 'width'], 0), 'a whole number'),
    (_set(['cameras', 0, 'mount', 'parent'], 'moon'), 'base or tool'),
    (_set(['dynamics', 'bodies', 0, 'mass_kg'], 0.0), 'a positive number'),
    (_set(['dynamics', 'bodies', 0, 'inertia_kg_m2'], [1.0] * 5), 'shape'),
    (_set(['dynamics', 'bodies', 0, 'inertia_kg_m2'], [-1.0, 1, 1, 0, 0, 0]), 'principal moments'),
]


@pytest.mark.parametrize(('change', 'text'), BAD)
def test_bad_descriptions_say_what_to_change(tmp_path, change, text):
    content = _content()
    change(content)
    with pytest.raises(robots.RobotError, match=r'(?s)mine\.yaml|home_rad') as error:
        _load(tmp_path, content)
    assert re.search(text, str(error.value)), str(error.value)


@pytest.mark.parametrize(('text', 'message'), [
    ('[1, 2', 'not valid YAML'), ('- 1\n- 2\n', 'a mapping'), ('', 'a mapping'),
    ('name: a\nname: b\n', 'stands twice'),
    ('\xff\xfe', 'cannot be read'),
])
def test_files_that_are_no_description(tmp_path, text, message):
    path = tmp_path / 'mine.yaml'
    path.write_text(text, encoding='latin-1')
    with pytest.raises(robots.RobotError, match=message):
        robots.load_robot(str(path))


@pytest.mark.parametrize(('old', 'new', 'message'), [
    ('velocity_scale: 0.40', 'velocity_scale: 1.40', 'at most 1'),
    ('velocity_scale: 0.40', 'velocity_scale: fast', 'a finite number'),
    ('tcp_speed_m_s: 0.5 ', 'tcp_speed: 0.5 ', "'tcp_speed_m_s' is missing"),
    ('tcp_speed_m_s: 0.5 ', 'tcp_speed_m_s: 0.5\n  vmax: 0.5 ', "unknown key 'vmax'"),
    ('hardware:', 'lab:', 'stands twice'),
])
def test_bad_profiles(tmp_path, old, new, message):
    text = shared_file('config', 'profiles.yaml').read_text(encoding='utf-8')
    assert old in text
    path = tmp_path / 'profiles.yaml'
    path.write_text(text.replace(old, new))
    with pytest.raises(robots.RobotError, match=message):
        read_profiles(path)


def test_no_profiles_at_all(tmp_path):
    path = tmp_path / 'profiles.yaml'
    path.write_text('{}')
    with pytest.raises(robots.RobotError, match='at least one'):
        read_profiles(path)
