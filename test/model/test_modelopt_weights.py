"""A checkpoint that ModelOpt quantised: read as it is, labelled right, refused where it cannot be."""

import json

import diffusers
import numpy as np
import pytest
import torch

from cosmos3_ros.model.checkpoint import Checkpoint, CheckpointError
from cosmos3_ros.model.checkpoint_init import init_checkpoint
from cosmos3_ros.model.generation_tower import GenerationTower
from cosmos3_ros.model.modelopt_weights import ModelOptWeights, open_weights, tower_of
from cosmos3_ros.model.understanding_tower import UnderstandingTower
from cosmos3_ros.model.weight_source import CheckpointWeights

FP8 = torch.float8_e4m3fn


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """Layer matrices of both towers in float8 with one scale each, as ModelOpt's W8A8 writes them."""
    from safetensors.torch import load_file, save_file

    directory = init_checkpoint(tmp_path_factory.mktemp('modelopt') / 'micro', 'micro', seed=7).directory
    path = directory / 'transformer/diffusion_pytorch_model.safetensors'
    tensors = load_file(path)
    for name in [n for n in tensors if n.endswith('.weight') and tower_of(n)]:
        wide = tensors[name].float()
        scale = wide.abs().max() / 448.0
        tensors[name] = (wide / scale).to(FP8)
        tensors[f'{name}_scale'] = scale
        tensors[name.replace('weight', 'input_scale')] = torch.tensor(0.01)
    save_file(tensors, path)
    config = directory / 'transformer/config.json'
    config.write_text(json.dumps(json.loads(config.read_text()) | {
        'quantization_config': {'quant_method': 'modelopt', 'quant_algo': 'FP8'}}))
    return Checkpoint.open(directory, parts=('generator',))


def test_float8_matrices_are_taken_as_they_are(checkpoint):
    source = open_weights(checkpoint)
    assert isinstance(source, ModelOptWeights)
    tower = GenerationTower(source, 'cpu', torch.bfloat16, 8, 8, float8=True)
    raw = CheckpointWeights(checkpoint)
    parts = [f'layers.1.self_attn.add_{x}_proj.weight' for x in 'qkv']
    query, *rest = (raw.get(p).view(torch.uint8) for p in parts)
    heads = query.split(tower.shape.head_dim)  # those of one key/value head stand apart, see the tower
    groups = tower.shape.heads // tower.shape.kv_heads
    query = torch.cat([h for g in range(groups) for h in heads[g::groups]])
    assert torch.equal(tower.layers[1].qkv.view(torch.uint8), torch.cat([query, *rest]))
    want = torch.cat([raw.get(f'{p}_scale').expand(len(raw.get(p))) for p in parts])
    assert torch.equal(tower.layers[1].qkv_scale, want[None]), "each part keeps its own scale"


def test_without_float8_they_are_multiplied_out(checkpoint):
    source, raw = open_weights(checkpoint), CheckpointWeights(checkpoint)
    name = 'layers.0.mlp.up_proj.weight'
    want = raw.get(name).float() * raw.get(f'{name}_scale')
    assert torch.equal(source.get(name), want.bfloat16()) and want.abs().max() > 0.01
    assert source.get('norm_moe_gen.weight').dtype != FP8
    GenerationTower(source, 'cpu', torch.float32, 8, 8)
    context = UnderstandingTower(source, 'cpu', torch.float32, 'w').contexts([(1, 2, 3)])[0]
    assert torch.isfinite(context.keys[1]).all()
    # Read without the scales the tower would be another one altogether.
    wrong = UnderstandingTower(raw, 'cpu', torch.float32, 'w').contexts([(1, 2, 3)])[0]
    assert (wrong.values[0] - context.values[0]).abs().max() > 1.0


def test_a_whole_policy_runs_on_it(checkpoint):
    from cosmos3_ros.generator.compiled_backend import CompiledBackend
    from cosmos3_ros.generator.denoise import Request
    from cosmos3_ros.generator.guidance import Guidance
    from cosmos3_ros.generator.sampler import schedule

    asked = Request(torch.randn(1, 48, 1, 3, 4), torch.zeros(8).numpy(), 9, 64, 0)
    rows = [
        CompiledBackend(
            open_weights(checkpoint), 'cpu', torch.bfloat16, 'w', schedule(2, 5.0), Guidance(1.0),
            float8=float8).denoise((1, 2), (3,), asked) for float8 in (True, False)]
    drift = abs(rows[0] - rows[1])[1:]
    assert 0.0 < drift.mean() < 0.2 * abs(rows[1][1:]).mean()


def test_labels_follow_what_the_attention_does():
    """By perturbing each matrix: which answers move when it does."""
    model = diffusers.Cosmos3OmniTransformer(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, vocab_size=64, rope_scaling={'mrope_section': [4, 2, 2]},
        action_gen=True, action_dim=64)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name.startswith('layers.0.'):
            label = tower_of(name)
            assert label is not None, name
            with torch.no_grad():
                keys = [p.clone() for p in (module.weight,)]
                before = text_after(model)
                module.weight.add_(1.0)
                moved = not torch.equal(text_after(model), before)
                module.weight.copy_(keys[0])
            assert moved == (label == 'understanding'), name
    assert tower_of('proj_in') is None and tower_of('action_proj_in.fc') is None


def text_after(model):
    """Hidden states of the text after both layers."""
    torch.manual_seed(0)
    und, gen = torch.randn(5, 32), torch.randn(7, 32)
    cos = torch.ones(5, 16), torch.zeros(5, 16), torch.ones(7, 16), torch.zeros(7, 16)
    with torch.no_grad():
        return model._run_decoder_stack(und, gen, cos)[0]


@pytest.mark.parametrize('scale', [torch.tensor([1.0, 2.0]), torch.tensor(0.0), torch.tensor(float('nan'))])
def test_bad_scales(scale):
    class Source:
        config: dict[str, object] = {}

        def get(self, name):
            return scale if name.endswith('_scale') else torch.zeros(3, 4).to(FP8)

        def rows(self, name, indices):
            return self.get(name)[list(indices)]

    with pytest.raises(CheckpointError, match='w_scale has'):
        ModelOptWeights(Source()).get('w')
    with pytest.raises(CheckpointError, match='embeddings and heads must not be'):
        ModelOptWeights(Source()).rows('table', [0])


def test_another_quantisation_is_refused(checkpoint, tmp_path):
    import shutil

    copy = shutil.copytree(checkpoint.directory, tmp_path / 'other')
    config = copy / 'transformer/config.json'
    config.write_text(json.dumps(json.loads(config.read_text()) | {
        'quantization_config': {'quant_method': 'bitsandbytes'}}))
    with pytest.raises(CheckpointError, match="quantised by 'bitsandbytes', modelopt is known"):
        open_weights(Checkpoint.open(copy, parts=('generator',)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason='this needs an NVIDIA GPU')
def test_chunks_on_a_gpu_are_near_those_of_the_cpu(checkpoint):
    from cosmos3_ros.generator.compiled_backend import CompiledBackend
    from cosmos3_ros.generator.denoise import Request
    from cosmos3_ros.generator.guidance import Guidance
    from cosmos3_ros.generator.sampler import schedule

    torch.manual_seed(0)
    asked = Request(torch.randn(1, 48, 1, 3, 4), torch.randn(8).numpy(), 9, 64, 3)
    answers = {}
    for device, dtype, float8 in (
            ('cpu', torch.float32, False), ('cuda', torch.bfloat16, False), ('cuda', torch.bfloat16, True)):
        backend = CompiledBackend(
            open_weights(checkpoint), device, dtype, 'w', schedule(4, 5.0), Guidance(3.0), float8=float8)
        answers[device, float8] = backend.denoise((1, 2, 3), (3, 1), asked)
    exact = answers['cpu', False]
    for key, bound in ((('cuda', False), 0.05), (('cuda', True), 0.2)):
        assert 0.0 < np.abs(answers[key] - exact).mean() < bound * np.abs(exact).mean()
