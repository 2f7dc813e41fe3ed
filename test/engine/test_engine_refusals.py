"""Plans that are not for this machine, or are not what was built, are refused with the right words."""

from dataclasses import replace
import json
import shutil

import pytest

from cosmos3_ros.engine.cache import Machine, check_manifest, find_engine, read_plan
from cosmos3_ros.engine.errors import EngineRefusedError
from cosmos3_ros.engine.manifest import Manifest

# The first test that needs them waits for all plans; on a busy machine that is minutes.
pytestmark = pytest.mark.timeout(900)

REBUILD = 'cosmos3 engine build --checkpoint'


@pytest.fixture
def engine(built, tmp_path):
    """A copy of the vision tower's plans that a test may damage."""
    source, manifest = built.engine('vision')
    directory = tmp_path / source.name
    shutil.copytree(source, directory)
    return directory, manifest


@pytest.fixture
def machine(built):
    key = built.engine('vision')[1].key
    return Machine(key.flavour, key.version, 'sm89')


def test_plans_for_this_machine_are_found(engine, machine, checkpoint):
    directory, manifest = find_engine(engine[0].parent, 'vision', 'bf16', checkpoint.content_hash, machine)
    assert manifest == engine[1]
    for plan in manifest.plans:
        assert len(read_plan(directory, plan, manifest)) == plan.size_bytes
    find_engine(engine[0].parent, 'vision', 'bf16', checkpoint.content_hash, replace(machine, target='sm120'))


@pytest.mark.parametrize(('change', 'words'), [
    ({'target': 'sm86'}, r'built for sm89, sm120, this GPU is sm86; .*--target sm86'),
    ({'target': None}, 'this machine has no GPU'),
    ({'version': '1.8.0.1'}, r'built by TensorRT 1\.\S+, version 1\.8\.0\.1 is installed here'),
    ({'flavour': 'classic'}, r'flavour rtx, classic is in use here; .*--flavour classic'),
])
def test_another_machine_is_refused(engine, machine, checkpoint, change, words):
    with pytest.raises(EngineRefusedError, match=words) as refusal:
        check_manifest(engine[1], checkpoint.content_hash, replace(machine, **change))
    assert REBUILD in str(refusal.value) or 'no GPU' in str(refusal.value)


def test_another_checkpoint_is_refused(engine, machine):
    with pytest.raises(EngineRefusedError, match='the weights here are 0badc0de; build again') as refusal:
        check_manifest(engine[1], '0badc0de', machine)
    assert REBUILD in str(refusal.value)


def test_a_flipped_bit_is_refused(engine):
    directory, manifest = engine
    path = directory / manifest.plans[0].file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(EngineRefusedError, match='SHA-256 differs.*' + REBUILD):
        read_plan(directory, manifest.plans[0], manifest)


@pytest.mark.parametrize('change', [-1, 1])
def test_another_size_is_refused_before_it_is_read(engine, change):
    directory, manifest = engine
    path = directory / manifest.plans[0].file
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + b'x')
    with pytest.raises(EngineRefusedError, match=f'has {len(content) + change} bytes, {len(content)} were'):
        read_plan(directory, manifest.plans[0], manifest)


def test_a_plan_that_everybody_may_write_is_refused(engine):
    directory, manifest = engine
    path = directory / manifest.plans[0].file
    path.chmod(0o666)
    with pytest.raises(EngineRefusedError, match='a plan is code'):
        read_plan(directory, manifest.plans[0], manifest)


def test_a_missing_plan_is_refused(engine):
    directory, manifest = engine
    (directory / manifest.plans[0].file).unlink()
    with pytest.raises(EngineRefusedError, match='cannot be read'):
        read_plan(directory, manifest.plans[0], manifest)


@pytest.mark.parametrize(('edit', 'words'), [
    (lambda c: c['key'].update(targets=['sm86']), 'it was edited'),
    (lambda c: c['key'].update(tower='engine'), 'no manifest of plans'),
    (lambda c: c.update(format=99), 'format 99 arrived, 1 is allowed'),
    (lambda c: c.pop('plans'), 'no manifest of plans'),
    (lambda c: c['plans'][0].update(file='../../etc/passwd'), 'lies elsewhere'),
    (lambda c: c['key']['shapes'].update(cache=0), 'positive integers'),
    (lambda c: c['key']['shapes'].update(colour=3), 'no manifest of plans'),
])
def test_an_edited_manifest_is_refused(engine, edit, words):
    path = engine[0] / 'manifest.json'
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    with pytest.raises(EngineRefusedError, match=words):
        Manifest.read(engine[0])


@pytest.mark.parametrize('text', ['', '[]', 'null', '{', '\x00' * 100, '5'])
def test_what_is_no_manifest_is_refused(engine, text):
    (engine[0] / 'manifest.json').write_text(text)
    with pytest.raises(EngineRefusedError, match='no manifest of plans'):
        Manifest.read(engine[0])


def test_a_huge_manifest_is_not_parsed(engine):
    (engine[0] / 'manifest.json').write_text(' ' * 5_000_000)
    with pytest.raises(EngineRefusedError, match='at most'):
        Manifest.read(engine[0])


def test_nothing_built_and_half_built_are_told_apart(engine, machine, checkpoint, tmp_path):
    with pytest.raises(EngineRefusedError, match='holds no plans of the tower vision in bf16'):
        find_engine(tmp_path / 'empty', 'vision', 'bf16', checkpoint.content_hash, machine)
    (engine[0] / 'manifest.json').unlink()
    with pytest.raises(EngineRefusedError, match='not finished'):
        find_engine(engine[0].parent, 'vision', 'bf16', checkpoint.content_hash, machine)


def test_all_reasons_are_given(engine, machine, checkpoint):
    with pytest.raises(EngineRefusedError, match=r'vision-bf16-\w+: engine: built for sm89'):
        find_engine(
            engine[0].parent, 'vision', 'bf16', checkpoint.content_hash, replace(machine, target='sm75'))
