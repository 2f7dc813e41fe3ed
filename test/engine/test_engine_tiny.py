"""``cosmos3 engine build`` as a user types it, on an untrained cosmos3-tiny, a process for each segment."""

import json

import pytest

from cosmos3_ros.cli.main import main
from cosmos3_ros.engine.manifest import Manifest

# Some minutes on one core of a busy machine: exporting takes as long as there are layers.
pytestmark = pytest.mark.timeout(1800)

TOWERS = ('vision', 'language', 'generation')
FIELDS = {'plans', 'bytes', 'seconds', 'peak_rss_gb', 'fidelity_cosine_min', 'tokens_identical'}
# Smaller clips than a robot's, the weights and the number of layers are cosmos3-tiny's.
SHAPES = ('--frame-grid', '8', '10', '--max-frames', '2', '--max-prompt', '96', '--cache', '128')


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    directory = tmp_path_factory.mktemp('tiny') / 'tiny'
    assert main(['checkpoint', 'init', str(directory), '--preset', 'tiny']) == 0
    return directory


def run(capsys, *arguments):
    capsys.readouterr()
    status = main(['engine', *map(str, arguments), '--json'])
    told = capsys.readouterr()
    assert len(told.out.strip().splitlines()) == 1  # words go to stderr
    return status, json.loads(told.out), told.err


def build(capsys, tiny, out, precision, *more):
    return run(
        capsys, 'build', '--checkpoint', tiny, '--target', 'sm89', '--target', 'sm120',
        '--precision', precision, '--out', out, *SHAPES, *more)


def check_plans(line, out, precision):
    assert set(line) == FIELDS
    assert line['bytes'] > 10_000_000 * (0.5 if precision == 'fp8' else 1.0)
    assert line['seconds'] > 0.0 and 0.1 < line['peak_rss_gb'] < 20.0
    found = out.glob(f'*-{precision}-*/manifest.json')
    manifests = {path.parent: Manifest.read(path.parent) for path in found}
    assert sorted(line['plans']) == sorted(
        str(directory / plan.file) for directory, m in manifests.items() for plan in m.plans)
    assert {m.key.tower for m in manifests.values()} == set(TOWERS)
    for manifest in manifests.values():
        assert manifest.key.targets == ('sm89', 'sm120') and manifest.key.precision == precision
    return manifests


def test_bf16_is_built_and_gated(tiny, tmp_path, capsys):
    status, line, words = build(capsys, tiny, tmp_path, 'bf16', '--keep-onnx')
    assert status == 0 and line['tokens_identical'] is True and 0.999 <= line['fidelity_cosine_min'] < 1.0
    manifests = check_plans(line, tmp_path, 'bf16')
    for tower in TOWERS:
        assert f'{tower}-1-of-1: build' in words
    exported = [f for m in manifests.values() for plan in m.plans for f in plan.fidelity
                if f['runner'] == 'onnxruntime/fp32']
    assert {f['case'] for f in exported} == {'clip', 'prefill', 'decode', 'step'}
    assert min(f['cosine'] for f in exported) >= 0.9999 and max(f['deviation'] for f in exported) <= 1e-4
    language = next(m for m in manifests.values() if m.key.tower == 'language')
    assert len(language.answers) == 64
    status, line, words = run(capsys, 'verify', tmp_path, '--runner', 'onnxruntime', '--repetitions', 1)
    assert status == 0 and line['passed'] and len(line['sets']) == 3
    assert '| language | bf16 |' in words and '| identical | prefill |' in words


def test_fp8_is_built(tiny, tmp_path, capsys):
    status, line, _ = build(capsys, tiny, tmp_path, 'fp8', '--no-onnx-check', '--prompts', '2')
    assert status == 0 and line['tokens_identical'] is None and 0.98 <= line['fidelity_cosine_min'] < 1.0
    manifests = check_plans(line, tmp_path, 'fp8')
    assert all(m.excluded for m in manifests.values())
    assert sorted(len(m.answers) for m in manifests.values()) == [0, 0, 2]


def test_a_dry_run_builds_nothing(tiny, tmp_path, capsys):
    status, line, _ = build(capsys, tiny, tmp_path / 'out', 'bf16', '--dry-run')
    assert status == 0 and line['dry_run'] is True and not (tmp_path / 'out').exists()
    assert line['seconds'] > 0 and line['peak_rss_gb'] > 0 and line['disk_gb'] >= 0
    assert line['segments'] == [f'{tower}-1-of-1' for tower in TOWERS]
