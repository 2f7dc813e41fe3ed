"""The one command that a user runs: how far it comes without an RTX GPU, and all of it on ONNX Runtime."""

import json
import re
import shutil

import numpy as np
import onnx
import pytest
import torch

from cosmos3_ros.cli.main import main
from cosmos3_ros.engine.errors import EngineError, EngineRefusedError
from cosmos3_ros.engine.executors import OnnxExecutor, PlanExecutor
from cosmos3_ros.engine.loaded_tower import language_chain, open_tower
from cosmos3_ros.engine.manifest import Manifest
from cosmos3_ros.engine.sources import EngineSource
from cosmos3_ros.engine.verification import STEPS, find_sets, verify_set

# The first test that needs them waits for all plans; on a busy machine that is minutes.
pytestmark = pytest.mark.timeout(900)


def run(capsys, *arguments):
    status = main(['engine', 'verify', *map(str, arguments), '--json'])
    told = capsys.readouterr()
    return status, json.loads(told.out.strip().splitlines()[-1]), told.err


def rows_of(table):
    lines = [line for line in table.splitlines() if line.startswith('|')]
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]


@pytest.fixture
def damaged(built, tmp_path):
    """A copy of the language model's plans and exports that a test may damage."""
    source, _ = built.engine('language')
    return shutil.copytree(source, tmp_path / source.name)


def test_on_onnx_runtime_the_command_goes_all_the_way(built, capsys):
    status, line, words = run(capsys, built.request.out, '--runner', 'onnxruntime', '--repetitions', 2)
    assert status == 0 and line['passed'] is True and line['executed'] is False
    assert {one['tower'] for one in line['sets']} == {'vision', 'language', 'generation'}
    for one in line['sets']:
        assert one['passed'] and one['reached'] == 'timing' and one['cosine_min'] > 0.9999
        assert one['tokens_identical'] is (True if one['tower'] == 'language' else None)
        assert all(p['median_ms'] > 0.0 for p in one['passes'])
        assert f'{one["directory"]}: stored vectors' in words
    head, rule, *rows = rows_of(words)
    assert [row[9] for row in rows] == ['denoising step', 'prefill', 'decode', 'clip']
    assert all(len(row) == len(head) == len(rule) for row in rows)
    assert all(row[0].startswith('ONNX Runtime') and row[5] == 'passed' for row in rows)
    for _, manifest in built.result.engines:
        assert Manifest.read(built.request.out / manifest.key.directory).executed is False


def test_without_a_gpu_it_stops_there_and_says_so(built, capsys):
    if torch.cuda.is_available():
        pytest.skip('says what a machine without a GPU says')
    status, line, words = run(capsys, built.request.out, '--tower', 'vision')
    one, = line['sets']
    assert status == 1 and one['passed'] is False and one['reached'] == 'machine'
    assert line['executed'] is False
    assert 'this machine has no GPU; plans run only on one' in one['refusal']
    assert one['plan_bytes'] > 10_000
    row = rows_of(words)[-1]
    assert row[0] == 'no GPU' and row[5] == 'refused after: machine' and row[10] == '–'
    assert 'this machine has no GPU' in words.splitlines()[-1]


def test_a_changed_plan_is_found_before_a_gpu_is_asked_for(damaged):
    path = damaged / 'language-1-of-1.plan'
    path.write_bytes(path.read_bytes()[:-1] + b'x')
    found = verify_set(damaged, PlanExecutor)
    assert found.reached == 'manifest' and 'SHA-256 differs' in found.refusal


@pytest.mark.parametrize('name', ['layers.0.self_attn.to_q.weight', 'layers.1.mlp.down_proj.weight'])
def test_one_perturbed_weight_is_refused(damaged, checkpoint, name):
    """By a tenth of the largest one: the stage is named, and no node opens it."""
    path = damaged / 'language-1-of-1.fp32.onnx'
    model = onnx.load(path)
    weight = next(t for t in model.graph.initializer if t.name == name)
    values = onnx.numpy_helper.to_array(weight).copy()
    values[3, 5] += 0.1 * np.abs(values).max()
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    path.with_name(f'{path.name}.data').unlink()
    onnx.save(model, path)
    found = verify_set(damaged, lambda _flavour: OnnxExecutor(), repetitions=1)
    assert found.reached == 'loading'
    assert re.search(r'stage language-1-of-1 drifted .*build it again: cosmos3 engine build', found.refusal)
    source = EngineSource.open(str(checkpoint.directory))
    with pytest.raises(EngineRefusedError, match='stage language-1-of-1 drifted'):
        open_tower(damaged.parent, 'language', 'bf16', source, OnnxExecutor())


def test_another_answer_is_refused(damaged):
    content = json.loads((damaged / 'manifest.json').read_text())
    content['answers'][7][3] += 1
    (damaged / 'manifest.json').write_text(json.dumps(content))
    steps = []
    found = verify_set(damaged, lambda _flavour: OnnxExecutor(), repetitions=1, on_step=steps.append)
    assert found.reached == 'stored vectors' and found.tokens_identical is None
    assert 'stored prompt 7 differ from token 3 on' in found.refusal
    assert steps == list(STEPS[:6])


@pytest.mark.parametrize(('bound', 'value', 'words'), [
    ('least_cosine', 0.9999999999999999, 'at least 1), deviation'),
    ('most_deviation', 1e-9, '(at most 1e-09)')])
def test_the_builders_bound_is_the_gates(damaged, bound, value, words):
    content = json.loads((damaged / 'manifest.json').read_text())
    content[bound] = value
    (damaged / 'manifest.json').write_text(json.dumps(content))
    found = verify_set(damaged, lambda _flavour: OnnxExecutor(), repetitions=1)
    assert found.reached == 'loading' and words in found.refusal


def test_another_checkpoint_is_refused(damaged, tmp_path_factory):
    from cosmos3_ros.model.checkpoint_init import init_checkpoint
    other = init_checkpoint(tmp_path_factory.mktemp('other') / 'micro', 'micro', 1).directory
    found = verify_set(damaged, lambda _flavour: OnnxExecutor(), str(other))
    assert found.reached == 'machine' and 'the weights here are' in found.refusal


def test_exports_that_were_not_kept_are_asked_for(damaged):
    (damaged / 'language-1-of-1.fp32.onnx').unlink()
    found = verify_set(damaged, lambda _flavour: OnnxExecutor())
    assert found.reached == 'machine'
    assert 'lacks language-1-of-1.fp32.onnx; build with --keep-onnx' in found.refusal


def test_one_set_or_all_of_them_can_be_named(built, tmp_path):
    directory, _ = built.engine('vision')
    assert find_sets(directory) == (directory,)
    assert len(find_sets(built.request.out)) == 3
    assert find_sets(built.request.out, ('vision',), ('bf16',)) == (directory,)
    with pytest.raises(EngineRefusedError, match='no finished plans of vision, fp8'):
        find_sets(built.request.out, ('vision',), ('fp8',))
    with pytest.raises(EngineRefusedError, match='cosmos3 engine build --out'):
        find_sets(tmp_path)


def test_a_tower_opens_only_through_the_gate(built, checkpoint, damaged):
    source = EngineSource.open(str(checkpoint.directory))
    loaded = open_tower(built.request.out, 'language', 'bf16', source, OnnxExecutor())
    assert loaded.fidelity and language_chain(loaded, source, 'cpu').greedy(range(5), 3)
    content = (damaged / 'language-1-of-1.vectors.safetensors').read_bytes()
    (damaged / 'language-1-of-1.vectors.safetensors').write_bytes(content[:-400] + bytes(400))
    with pytest.raises(EngineRefusedError, match='stage language-1-of-1 drifted'):
        open_tower(damaged.parent, 'language', 'bf16', source, OnnxExecutor())
    vision = open_tower(built.request.out, 'vision', 'bf16', source, OnnxExecutor())
    with pytest.raises(EngineRefusedError, match='language is needed'):
        language_chain(vision, source, 'cpu')


def test_random_shapes_need_no_checkpoint():
    source = EngineSource.of_label('random:nano-layer', 'random:nano-layer-7')
    assert source.content_hash == 'random:nano-layer-7' and source.directory is None
    once, twice = (s.weights().tensor('norm_of.weight', (3,)) for s in (source, source))
    assert torch.equal(once, twice)
    with pytest.raises(EngineError, match='nowhere-at-all'):
        EngineSource.open('nowhere-at-all')
