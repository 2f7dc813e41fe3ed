"""All towers export, agree with torch on ONNX Runtime, and compile for both architectures."""

from dataclasses import replace
from itertools import islice
import json
import shlex

from micro_engine import SHAPES
import numpy as np
import onnx
import pytest
import torch

from cosmos3_ros.cli.engine_build import make_request
from cosmos3_ros.cli.main import build_parser
from cosmos3_ros.engine.build import build, engine_key
from cosmos3_ros.engine.compiler import BuildOptions, Compiler
from cosmos3_ros.engine.decoding import LanguageChain
from cosmos3_ros.engine.errors import EngineError, EngineRefusedError
from cosmos3_ros.engine.estimate import estimate
from cosmos3_ros.engine.export import export_segment
from cosmos3_ros.engine.fidelity import measure, require_fidelity
from cosmos3_ros.engine.manifest import Manifest
from cosmos3_ros.engine.modules import make_module
from cosmos3_ros.engine.precision import PRECISIONS
from cosmos3_ros.engine.prompts import NEW_TOKENS, decisive_answer, draw_prompts
from cosmos3_ros.engine.quantization import quantise
from cosmos3_ros.engine.runners import OnnxRunner, TorchRunner
from cosmos3_ros.engine.segment_build import reference, vectors_path
from cosmos3_ros.engine.segments import cut_tower, usual_passes
from cosmos3_ros.engine.vectors import follow, load_vectors, seeded_inputs
from cosmos3_ros.engine.weights import SeededWeights

# The first test that needs them waits for all plans; on a busy machine that is minutes.
pytestmark = pytest.mark.timeout(900)


def test_every_tower_is_built_for_both_architectures(built, built_fp8):
    towers = {m.key.tower: m for _, m in built.result.engines}
    assert set(towers) == {'vision', 'language', 'generation'}
    assert {m.key.tower for _, m in built_fp8.result.engines} == set(towers)
    for directory, manifest in (*built.result.engines, *built_fp8.result.engines):
        assert manifest.key.targets == ('sm89', 'sm120')
        for plan in manifest.plans:
            assert (directory / plan.file).stat().st_size == plan.size_bytes > 10_000
        assert Manifest.read(directory) == manifest


def test_prefill_and_decode_share_one_plan_and_its_weights(built, checkpoint):
    segment, = cut_tower('language', checkpoint.dimensions, SHAPES)
    profile, = segment.profiles
    for sizes in usual_passes('language', SHAPES).values():
        assert all(profile.ranges[name][0] <= size <= profile.ranges[name][2] for name, size in sizes.items())
    assert len(built.engine('language')[1].plans) == 1


def test_onnx_runtime_says_what_torch_says(built):
    found = [
        f for _, manifest in built.result.engines for plan in manifest.plans for f in plan.fidelity
        if f['runner'] == 'onnxruntime/fp32']
    assert {f['case'] for f in found} == {'clip', 'prefill', 'decode', 'step'}
    assert min(f['cosine'] for f in found) >= 0.9999
    assert max(f['deviation'] for f in found) <= 1e-4


def test_onnx_runtime_answers_64_prompts_with_torchs_tokens(built):
    _, manifest = built.engine('language')
    assert len(manifest.prompts) == len(manifest.answers) == 64
    assert len(set(manifest.answers)) > 32  # the model does answer different prompts differently
    assert built.result.tokens_identical is True


def test_onnx_runtime_answers_any_64_prompts_with_torchs_tokens(built, checkpoint):
    """Not only decisive ones: in float32 there is next to no rounding to decide."""
    directory, _ = built.engine('language')
    segment, = cut_tower('language', checkpoint.dimensions, SHAPES)
    d = checkpoint.dimensions
    table = checkpoint.weights.tensor('embed_tokens.weight', (d.vocabulary, d.hidden))
    torchs, exported = (
        LanguageChain([segment], [runner], d, SHAPES, table)
        for runner in (TorchRunner(make_module(segment, d, SHAPES, checkpoint.weights), segment),
                       OnnxRunner(directory / f'{segment.name}.fp32.onnx', segment)))
    prompts = list(islice(draw_prompts(d, SHAPES, 1), 64))
    assert len(prompts) == 64
    for prompt in prompts:
        assert exported.greedy(prompt, NEW_TOKENS) == torchs.greedy(prompt, NEW_TOKENS)


def test_bfloat16_and_fp8_stay_within_their_bounds(built, built_fp8):
    assert 0.999 <= built.result.fidelity_cosine_min < 1.0 + 1e-9
    assert PRECISIONS['fp8'].cosine <= built_fp8.result.fidelity_cosine_min < 0.99999


def test_excluded_layers_are_listed(built_fp8):
    _, language = built_fp8.engine('language')
    assert language.excluded == ('lm_head.weight',)
    _, vision = built_fp8.engine('vision')
    assert {'blocks.0.attn.qkv.weight', 'blocks.2.mlp.linear_fc1.weight'} <= set(vision.excluded)
    _, generation = built_fp8.engine('generation')
    assert set(generation.excluded) == {
        'proj_in.weight', 'proj_out.weight', 'action_proj_in.weight', 'action_proj_out.weight'}


def test_stored_prompts_have_answers_that_no_rounding_changes(built, checkpoint):
    """Torch in float32 and in bfloat16 say the same to all of them; of random prompts they do not."""
    _, manifest = built.engine('language')
    segment, = cut_tower('language', checkpoint.dimensions, SHAPES)
    d = checkpoint.dimensions
    table = checkpoint.weights.tensor('embed_tokens.weight', (d.vocabulary, d.hidden))
    chains = [
        LanguageChain(
            [segment], [TorchRunner(make_module(segment, d, SHAPES, checkpoint.weights, dtype), segment)], d,
            SHAPES, table, dtype)
        for dtype in ('float32', 'bfloat16')]
    for prompt, answer in zip(manifest.prompts[:16], manifest.answers, strict=False):
        assert all(tuple(chain.greedy(prompt, NEW_TOKENS)) == answer for chain in chains)
        assert all(decisive_answer(chain, prompt) is not None for chain in chains[1:])
    drawn = islice(draw_prompts(d, SHAPES, 99), 64)
    assert any(decisive_answer(chains[1], prompt) is None for prompt in drawn)


def test_progress_names_segments_and_stages(built):
    stages = [p.stage for p in built.progress if p.segment == 'language-1-of-1']
    assert stages[:4] == ['weights', 'reference', 'check', 'export']
    assert {'parse', 'build', 'write'} <= set(stages)


def test_a_segment_in_the_middle_takes_only_what_all_take(checkpoint, tmp_path):
    """Neither vision features nor the picked token: the segment that Nano's first build stopped at."""
    dimensions = replace(checkpoint.dimensions, layers=3, deepstack=(0,))
    _, middle, _ = cut_tower('language', dimensions, SHAPES, 1)
    assert len(middle.inputs) == 6
    module = make_module(middle, dimensions, SHAPES, SeededWeights(0))
    export_segment(module, middle, tmp_path / 'middle.onnx', 'float32')
    cases = follow(
        seeded_inputs('language', dimensions, SHAPES, SeededWeights(0), 0),
        {case: {'states': torch.randn(tokens, dimensions.hidden, generator=torch.Generator().manual_seed(1))}
         for case, tokens in (('prefill', 24), ('decode', 1))}, middle)
    inputs, outputs = reference(module, middle, cases, {})
    require_fidelity(
        measure(middle, OnnxRunner(tmp_path / 'middle.onnx', middle), inputs, outputs, 'float32'),
        PRECISIONS['fp32'], 'again')


def test_a_second_build_keeps_what_is_finished(built):
    seen = []
    again = build(built.request, seen.append)
    assert [p.stage for p in seen] == ['kept'] * 3
    assert [m.plans for _, m in again.engines] == [m.plans for _, m in built.result.engines]


def test_a_perturbed_weight_does_not_pass_the_gate(built, checkpoint, tmp_path):
    directory, manifest = built.engine('language')
    segment, = cut_tower('language', checkpoint.dimensions, SHAPES)
    model = onnx.load(directory / f'{segment.name}.fp32.onnx')
    weight = next(t for t in model.graph.initializer if t.name == 'layers.1.mlp.down_proj.weight')
    values = onnx.numpy_helper.to_array(weight).copy()
    values[3, 5] += 0.5
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / 'perturbed.onnx')
    inputs, outputs = load_vectors(vectors_path(directory, segment))

    def gate(path):
        seen = measure(segment, OnnxRunner(path, segment), inputs, outputs, 'float32')
        require_fidelity(seen, PRECISIONS['fp32'], manifest.rebuild_command)

    gate(directory / f'{segment.name}.fp32.onnx')
    with pytest.raises(EngineRefusedError, match=r'stage language-1-of-1 drifted .*cosmos3 engine build'):
        gate(tmp_path / 'perturbed.onnx')


def test_fp8_scales_cover_the_calibration(checkpoint, built_fp8):
    """The FP8 graph that was exported is the one that torch fakes: no input of the vectors clips."""
    directory, _ = built_fp8.engine('generation')
    dimensions = built_fp8.request.dimensions
    segment, = cut_tower('generation', dimensions, SHAPES)
    module = make_module(segment, dimensions, SHAPES, checkpoint.weights)
    amax = {}
    inputs, _ = load_vectors(vectors_path(directory, segment))
    reference(module, segment, inputs, amax)
    assert len(amax) == 7
    quantise(module, PRECISIONS['fp8'], amax)
    for name, value in amax.items():
        part = module.get_submodule(name)
        assert float(part.input_scale) * 448 == pytest.approx(value, rel=1e-6)
        error = (part.weight.float() * part.weight_scale[:, None]
                 - checkpoint.weights.tensor(f'{name}.weight', tuple(part.weight.shape)).float()).abs()
        # Half a step of e4m3 at the top of its range, 16 of 448.
        assert float((error / (part.weight_scale[:, None] * 448)).max()) <= 0.04


def test_a_dry_run_says_what_it_takes(checkpoint, tmp_path):
    planned = estimate(checkpoint.request(tmp_path, segment_bytes=1))
    assert [s.name for s in planned.segments] == [
        'vision-1-of-1', 'language-1-of-2', 'language-2-of-2', 'generation-1-of-2', 'generation-2-of-2']
    assert planned.seconds > 0 and planned.peak_rss_bytes > 0 and planned.disk_bytes > 0
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(('changes', 'words'), [
    ({'precision': 'int4'}, 'one of fp32, bf16, fp8'),
    ({'precision': 'fp32'}, 'one of bf16, fp8, nvfp4 is allowed for plans'),
    ({'precision': 'nvfp4'}, 'target: sm89 arrived, the precision nvfp4 needs sm120 or newer'),
    ({'precision': 'fp8', 'options': BuildOptions(('sm86',))}, 'fp8 needs sm89 or newer'),
    ({'towers': ()}, 'at least one of vision'),
    ({'prompts': -1}, '0 or more'),
    ({'least_cosine': 1.0}, 'least cosine 1, most deviation 0.06 arrived'),
    ({'most_deviation': 0.0}, 'most deviation 0 arrived'),
])
def test_a_request_that_cannot_be_met_is_refused(checkpoint, tmp_path, changes, words):
    with pytest.raises(EngineError, match=words):
        checkpoint.request(tmp_path, **changes)


@pytest.mark.parametrize(('options', 'words'), [
    (BuildOptions(()), 'none arrived'),
    (BuildOptions(('sm90',)), r"'sm90' arrived, one of .*sm89.* is allowed"),
    (BuildOptions(('sm89',), refittable=True), 'this one has none'),
    (BuildOptions(('current',)), 'no GPU'),
])
def test_targets_that_cannot_be_built_are_refused(options, words):
    if torch.cuda.is_available():
        pytest.skip('says what a machine without a GPU says')
    with pytest.raises(EngineError, match=words):
        Compiler().check(options)


def test_a_graph_that_tensorrt_cannot_read_is_refused_with_its_words(checkpoint, tmp_path):
    segment, = cut_tower('vision', checkpoint.dimensions, SHAPES)
    path = tmp_path / 'broken.onnx'
    path.write_bytes(np.random.RandomState(0).bytes(500))
    with pytest.raises(EngineError, match='vision-1-of-1: TensorRT cannot read the graph'):
        Compiler().compile(path, segment, BuildOptions(('sm89',)), tmp_path / 'plan')
    assert not (tmp_path / 'plan').exists()


def test_the_manifest_is_plain_json(built):
    directory, manifest = built.engine('vision')
    content = json.loads((directory / 'manifest.json').read_text())
    assert content['rebuild'] == manifest.rebuild_command
    assert content['executed'] is False
    assert '--target sm89 --target sm120' in content['rebuild']
    assert '--frame-grid 4 6 --max-frames 2' in content['rebuild'] and '--cache 64' in content['rebuild']
    assert '--action-rows' not in content['rebuild']  # as usual


def test_the_command_to_rebuild_asks_for_the_same_plans(built, checkpoint):
    for _, manifest in built.result.engines:
        words = shlex.split(manifest.rebuild_command)
        request = make_request(build_parser().parse_args(words[1:]))
        assert engine_key(request, manifest.key.version, manifest.key.tower) == manifest.key


def test_another_precision_or_shape_is_another_directory(built, checkpoint):
    key = built.engine('language')[1].key
    others = [
        replace(key, precision='fp8'), replace(key, shapes=replace(SHAPES, max_prompt=47)),
        replace(key, version='1.8'), replace(key, targets=('sm89',)), replace(key, checkpoint='ffffffff'),
        replace(key, weight_streaming=True), replace(key, calibration='x')]
    assert len({k.directory for k in (key, *others)}) == len(others) + 1
