"""``cosmos3 engine``: what can be said without building."""

import json

import pytest

from cosmos3_ros.cli.main import main
from cosmos3_ros.model.checkpoint_init import init_checkpoint


@pytest.fixture(scope='module')
def micro(tmp_path_factory):
    directory = tmp_path_factory.mktemp('engine_command') / 'micro'
    init_checkpoint(directory, 'micro', 0)
    return directory


def run(capsys, *arguments):
    status = main(['engine', *map(str, arguments), '--json'])
    out = capsys.readouterr().out.strip().splitlines()
    return status, json.loads(out[-1])


def test_a_dry_run_ends_with_one_line(capsys, tmp_path):
    status, line = run(
        capsys, 'build', '--checkpoint', 'random:nano', '--target', 'sm89', '--dry-run', '--out', tmp_path)
    assert status == 0 and line['dry_run'] is True
    assert len(line['segments']) == 14
    assert 5 < line['peak_rss_gb'] < 20 and line['disk_gb'] > 30
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(('arguments', 'words'), [
    (('--target', 'sm90'), "target: 'sm90' arrived, one of"),
    ((), 'target: none arrived'),
    (('--target', 'sm89', '--precision', 'nvfp4'), 'nvfp4 needs sm120'),
    (('--target', 'sm89', '--frame-grid', '3', '4'), 'even numbers'),
    (('--target', 'sm89', '--cache', '10'), 'more than max_prompt'),
])
def test_bad_requests_say_what_is_allowed(capsys, micro, tmp_path, arguments, words):
    status, line = run(capsys, 'build', '--checkpoint', micro, '--out', tmp_path, *arguments)
    assert status == 1 and words in line['error']


def test_nothing_to_verify_is_said(capsys, tmp_path):
    status, line = run(capsys, 'verify', tmp_path)
    assert status == 1 and 'holds no finished plans of any tower; build them with' in line['error']
    status, line = run(capsys, 'verify', tmp_path, '--tower', 'vision', '--precision', 'fp8')
    assert status == 1 and 'no finished plans of vision, fp8' in line['error']


def test_a_missing_checkpoint_is_said(capsys, tmp_path):
    status, line = run(
        capsys, 'build', '--checkpoint', tmp_path / 'nowhere', '--out', tmp_path, '--target', 'sm89')
    assert status == 1 and 'nowhere' in line['error']
    status, line = run(capsys, 'calibrate', '--checkpoint', tmp_path / 'nowhere', '--data', tmp_path)
    assert status == 1 and 'nowhere' in line['error']


@pytest.mark.parametrize('text', ['', '[]', '{"format": 9}', '{"format": 1}'])
def test_a_file_that_holds_no_scales_is_said(capsys, micro, tmp_path, text):
    (tmp_path / 'scales.json').write_text(text)
    status, line = run(
        capsys, 'build', '--checkpoint', micro, '--out', tmp_path, '--target', 'sm89', '--precision', 'fp8',
        '--calibration', tmp_path / 'scales.json', '--dry-run')
    assert status == 1 and 'holds no scales' in line['error'] and 'cosmos3 engine calibrate' in line['error']
