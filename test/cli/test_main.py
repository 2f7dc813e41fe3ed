"""The command's contract: one line of JSON, exit codes, errors that name what is allowed."""

import json
from pathlib import Path

import pytest

from cosmos3_ros.cli.console import CommandError, Output
from cosmos3_ros.cli.domain import choose_domain
from cosmos3_ros.cli.environment import (
    ExecutableNotFoundError,
    child_environment,
    executable_command,
    fast_dds_variable,
)
from cosmos3_ros.cli.graph import parse_settings
from cosmos3_ros.cli.main import main


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, object]]:
    code = main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1, lines
    return code, json.loads(lines[0])


def test_doctor_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, values = run_json(capsys, 'doctor', '--json')
    assert values['ok'] is (code == 0)
    names = [finding['name'] for finding in values['findings']]  # type: ignore[attr-defined]
    assert {'ros', 'messages', 'shared memory', 'simulation'} <= set(names)


def test_checkpoint_is_made_and_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = str(tmp_path / 'tiny')
    code, made = run_json(capsys, 'checkpoint', 'init', directory, '--seed', '3', '--json')
    assert (code, made['trained'], made['seed']) == (0, False, 3)
    code, info = run_json(capsys, 'checkpoint', 'info', directory, '--json')
    assert (code, info['trained'], info['contract']) == (0, False, 'droid_joint')
    code, error = run_json(capsys, 'checkpoint', 'init', directory, '--json')
    assert code == 1 and 'is not empty' in str(error['error'])


def test_incomplete_checkpoint_is_an_error_with_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    code, error = run_json(capsys, 'checkpoint', 'info', str(tmp_path / 'nothing'), '--json')
    assert code == 1 and 'nothing' in str(error['error'])


@pytest.mark.parametrize(('arguments', 'allowed'), [
    (('demo', '--task', 'juggle'), 'pick_place'),
    (('demo', '--policy', 'magic'), 'oracle'),
    (('up', '--sim', '--source', 'lerobot:x'), 'not allowed with'),
    (('demo', '--timeout', '-1'), 'a positive number is allowed'),
    (('fly',), 'demo'),
])
def test_wrong_arguments_name_what_is_allowed(
    arguments: tuple[str, ...], allowed: str, capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert allowed in capsys.readouterr().err


@pytest.mark.parametrize(('arguments', 'reason'), [
    (('demo', '--robot', 'kuka', '--json'), "robot 'kuka' is unknown; allowed: fr3, panda"),
    (('demo', '--profile', 'ludicrous', '--json'), "profile 'ludicrous' is unknown; allowed: commissioning"),
    (('demo', '--episodes', '0', '--json'), '--episodes: 0 arrived, at least 1'),
    (('up', '--policy', 'oracle', '--json'), '--policy oracle needs --sim'),
    (('up', '--source', 'bag:x', '--json'), 'lerobot:DIR is allowed'),
    (('up', '--source', 'lerobot:/does/not/exist', '--json'), 'info.json does not exist'),
])
def test_impossible_requests_fail_before_anything_starts(
    arguments: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, values = run_json(capsys, *arguments)
    assert code == 1 and reason in str(values['error'])
    assert list(tmp_path.iterdir()) == []


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    Output(True).result({'rate': float('nan'), 'deep': [{'x': float('inf')}], 'path': Path('a')})
    assert json.loads(capsys.readouterr().out) == {'rate': None, 'deep': [{'x': None}], 'path': 'a'}


def test_settings_are_read_as_yaml() -> None:
    settings = parse_settings(['controller.tracker=pid', 'controller.rt_priority=80', 'generator.seed=7'])
    assert settings == {'controller': {'tracker': 'pid', 'rt_priority': 80}, 'generator': {'seed': 7}}
    with pytest.raises(CommandError, match=r'NODE\.PARAMETER=VALUE is allowed'):
        parse_settings(['tracker=pid'])


def test_environment_fills_gaps_and_keeps_what_the_user_set() -> None:
    filled = child_environment({'ROS_DISTRO': 'kilted'}, domain_id=7)
    assert Path(filled['FASTDDS_DEFAULT_PROFILES_FILE']).name == 'fastdds_shm.xml'
    assert (filled['ROS_AUTOMATIC_DISCOVERY_RANGE'], filled['ROS_DOMAIN_ID']) == ('LOCALHOST', '7')
    mine = {'AMENT_PREFIX_PATH': '/opt/x', 'FASTDDS_DEFAULT_PROFILES_FILE': '/my.xml',
            'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET', 'OMP_NUM_THREADS': '4'}
    assert mine.items() <= child_environment(mine).items()
    assert fast_dds_variable({'ROS_DISTRO': 'jazzy'}) == 'FASTRTPS_DEFAULT_PROFILES_FILE'
    assert fast_dds_variable({'ROS_DISTRO': 'kilted'}) == 'FASTDDS_DEFAULT_PROFILES_FILE'


def test_every_listed_executable_is_found() -> None:
    for name in ('controller', 'generator', 'perception', 'replay', 'simulator', 'simulator_cameras'):
        assert executable_command(name)
    with pytest.raises(ExecutableNotFoundError, match="'spaceship' of cosmos3_ros was not found; searched"):
        executable_command('spaceship')


def test_a_given_domain_is_kept_and_a_chosen_one_is_free() -> None:
    assert choose_domain({'ROS_DOMAIN_ID': '42'}) == 42
    assert 1 <= choose_domain({}) <= 100
