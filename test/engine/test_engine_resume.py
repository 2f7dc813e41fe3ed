"""A build goes on where it was, and does again what no longer serves: a refusal's command must help."""

from dataclasses import replace
import json
import shutil

import pytest

from cosmos3_ros.engine import build as building
from cosmos3_ros.engine import compiler
from cosmos3_ros.engine.build import build, engine_key
from cosmos3_ros.engine.cache import Machine, check_manifest
from cosmos3_ros.engine.compiler import BuildOptions, named_targets
from cosmos3_ros.engine.errors import EngineError, EngineRefusedError
from cosmos3_ros.engine.manifest import Manifest

# The first test that needs them waits for all plans; on a busy machine that is minutes.
pytestmark = pytest.mark.timeout(900)


class Again(Exception):
    """A segment is built."""


@pytest.fixture
def copied(built, tmp_path, monkeypatch):
    """A request for plans that are there, its tower's directory, and no time for building them again."""
    def refuse(job, _say):
        raise Again(job.tower)

    monkeypatch.setattr(building, 'build_segment', refuse)

    def copy(tower):
        directory, _ = built.engine(tower)
        return (replace(built.request, out=tmp_path, towers=(tower,)),
                shutil.copytree(directory, tmp_path / directory.name))

    return copy


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def damage(path):
    path.write_bytes(path.read_bytes()[:-1] + b'x')


def forget_vectors(content):
    content['plan'].update(vectors_sha256='', fidelity=[])


@pytest.mark.parametrize('spoil', [
    lambda d: damage(d / 'vision-1-of-1.plan'),
    lambda d: damage(d / 'vision-1-of-1.vectors.safetensors'),
    lambda d: (d / 'vision-1-of-1.vectors.safetensors').unlink(),
    lambda d: (d / 'vision-1-of-1.fp32.onnx').unlink(),
    lambda d: (d / 'vision-1-of-1.json').write_text('{'),
    lambda d: edit(d / 'vision-1-of-1.json', forget_vectors),
    lambda d: edit(d / 'vision-1-of-1.json', lambda c: c.update(layers=[0, 1])),
], ids=['plan', 'vectors', 'no vectors', 'no export', 'no result', 'built without vectors', 'cut otherwise'])
def test_what_no_longer_serves_is_built_again(copied, spoil):
    request, directory = copied('vision')
    build(request)
    spoil(directory)
    with pytest.raises(Again, match='vision'):
        build(request)


def test_what_nobody_asks_for_is_not_missed(copied):
    request, directory = copied('vision')
    (directory / 'vision-1-of-1.fp32.onnx').unlink()
    build(replace(request, keep_onnx=False))
    (directory / 'vision-1-of-1.vectors.safetensors').unlink()
    build(replace(request, keep_onnx=False, with_vectors=False))


def test_a_closer_bound_than_what_was_measured_builds_again(copied, built):
    request, _ = copied('vision')
    build(replace(request, least_cosine=0.99))
    with pytest.raises(Again):
        build(replace(request, least_cosine=1.0 - 1e-12))
    assert built.result.fidelity_cosine_min < 1.0 - 1e-12


def test_another_bound_and_other_prompts_come_into_the_manifest(copied, built):
    request, directory = copied('language')
    before = built.engine('language')[1]
    (_, again), = build(request).engines
    assert again == before
    (_, wider), = build(replace(request, least_cosine=0.99)).engines
    assert wider == replace(before, least_cosine=0.99) == Manifest.read(directory)
    result = build(replace(request, prompts=3))
    (_, fewer), = result.engines
    assert fewer.prompts == before.prompts[:3] and result.tokens_identical is True
    (_, kept), = build(replace(request, with_vectors=False)).engines
    assert kept.prompts == fewer.prompts


def test_an_edited_manifest_is_written_again(copied, built):
    request, directory = copied('vision')
    edit(directory / 'manifest.json', lambda c: c['key'].update(targets=['sm86']))
    with pytest.raises(EngineRefusedError, match='it was edited'):
        Manifest.read(directory)
    build(request)
    assert Manifest.read(directory) == built.engine('vision')[1]


def test_current_is_this_machines_gpu_and_no_other(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, 'current_target', lambda: 'sm89')
    assert named_targets(('current', 'sm120', 'sm89')) == ('sm89', 'sm120')
    request = checkpoint.request(tmp_path, options=BuildOptions(('current',)))
    key = engine_key(request, '1', 'vision')
    assert key == engine_key(replace(request, options=BuildOptions(('sm89',))), '1', 'vision')
    manifest = Manifest(key, 'somewhere', 'micro', 1, ())
    assert '--target sm89' in manifest.rebuild_command
    check_manifest(manifest, checkpoint.content_hash, Machine('rtx', '1', 'sm89'))
    with pytest.raises(EngineRefusedError, match=r'built for sm89, this GPU is sm120; .*--target sm120'):
        check_manifest(manifest, checkpoint.content_hash, Machine('rtx', '1', 'sm120'))
    classic = replace(manifest, key=replace(key, flavour='classic'))
    assert '--target current' in classic.rebuild_command
    with pytest.raises(EngineRefusedError, match=r'built for sm89, this GPU is sm90; .*--target current'):
        check_manifest(classic, checkpoint.content_hash, Machine('classic', '1', 'sm90'))
    monkeypatch.setattr(compiler, 'current_target', lambda: 'sm86')
    with pytest.raises(EngineError, match='sm86 arrived, the precision fp8 needs sm89'):
        checkpoint.request(tmp_path, precision='fp8', options=BuildOptions(('current',)))
