"""A written checkpoint is complete, small, the same every time, and loads with every published class."""

import json
import subprocess
import sys

import pytest
import torch

from cosmos3_ros.model.checkpoint import missing_files
from cosmos3_ros.model.checkpoint_init import CheckpointInitError, init_checkpoint
from cosmos3_ros.model.random_weights import draw


def test_tiny_fits_in_the_package(tmp_path):
    summary = init_checkpoint(tmp_path / 'tiny')
    files = [path for path in summary.directory.rglob('*') if path.is_file()]
    assert summary.size_bytes == sum(path.stat().st_size for path in files) <= 25_000_000
    assert missing_files(summary.directory) == ()
    assert 5e6 < sum(summary.parameters.values()) < 13e6


def test_another_process_writes_the_same_bytes(micro_directory, tmp_path):
    code = (
        'import sys; from cosmos3_ros.model.checkpoint_init import init_checkpoint; '
        'init_checkpoint(sys.argv[1], "micro", seed=3)')
    subprocess.run([sys.executable, '-c', code, str(tmp_path / 'again')], check=True)
    first, second = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob('*') if path.is_file()}
        for root in (micro_directory, tmp_path / 'again'))
    assert first == second


def test_the_seed_changes_the_weights():
    assert (draw('a.weight', (8, 8), 0) != draw('a.weight', (8, 8), 1)).all()
    assert (draw('a.weight', (8, 8), 0) != draw('b.weight', (8, 8), 0)).all()


def test_the_pipeline_loads(pipeline):
    assert type(pipeline.transformer).__name__ == 'Cosmos3OmniTransformer'
    assert type(pipeline.vae).__name__ == 'AutoencoderKLWan'
    assert type(pipeline.scheduler).__name__ == 'UniPCMultistepScheduler'
    assert pipeline.config.use_native_flow_schedule and not pipeline.config.default_use_system_prompt
    assert (pipeline.vae_scale_factor_spatial, pipeline.vae_scale_factor_temporal) == (16, 4)


def test_the_reasoner_is_the_understanding_tower(micro_directory, transformer):
    import transformers

    reasoner, report = transformers.Cosmos3OmniForConditionalGeneration.from_pretrained(
        micro_directory, dtype=torch.float32, output_loading_info=True)
    assert not any(report.values()), report
    theirs, ours = reasoner.state_dict(), transformer.state_dict()
    shared = {
        'model.language_model.embed_tokens.weight': 'embed_tokens.weight',
        'model.language_model.norm.weight': 'norm.weight', 'lm_head.weight': 'lm_head.weight',
        'model.language_model.layers.1.self_attn.o_proj.weight': 'layers.1.self_attn.to_out.weight',
        'model.language_model.layers.0.self_attn.k_norm.weight': 'layers.0.self_attn.norm_k.weight',
        'model.language_model.layers.1.mlp.down_proj.weight': 'layers.1.mlp.down_proj.weight',
    }
    assert all(torch.equal(theirs[a], ours[b]) for a, b in shared.items())
    # And the towers compute the same: hidden states of the language model against the stack here.
    ids = torch.arange(11)
    with torch.inference_mode():
        expected = reasoner.model.language_model(input_ids=ids[None]).last_hidden_state[0]
        from cosmos3_ros.model.understanding_tower import UnderstandingTower
        from cosmos3_ros.model.weight_source import ModuleWeights
        context = UnderstandingTower(
            ModuleWeights(transformer), 'cpu', torch.float32, 'x').contexts([ids.tolist()])[0]
        cache = reasoner.model.language_model(input_ids=ids[None], use_cache=True).past_key_values
    assert expected.shape == (11, 32)
    for i, (key, value) in enumerate(zip(context.keys, context.values, strict=True)):
        torch.testing.assert_close(cache.layers[i].keys[0].transpose(0, 1), key, atol=1e-5, rtol=0)
        torch.testing.assert_close(cache.layers[i].values[0].transpose(0, 1), value, atol=1e-5, rtol=0)


def test_the_vision_encoder_loads_alone(micro_directory):
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

    _, report = Qwen3VLVisionModel.from_pretrained(
        micro_directory / 'vision_encoder', output_loading_info=True)
    assert not any(report.values()), report


def test_token_ids_in_the_config_are_the_tokenizers(micro_directory):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(micro_directory)
    config = json.loads((micro_directory / 'config.json').read_text())
    for field, token in (
        ('image_token_id', '<|image_pad|>'), ('video_token_id', '<|video_pad|>'),
        ('vision_start_token_id', '<|vision_start|>'), ('vision_end_token_id', '<|vision_end|>'),
    ):
        assert config[field] == tokenizer.convert_tokens_to_ids(token)
    assert config['text_config']['vocab_size'] >= len(tokenizer)


def test_it_says_that_it_is_not_trained(micro):
    assert not micro.trained and micro.contract == 'droid_joint' and micro.name == 'cosmos3-micro'


@pytest.mark.parametrize('change, message', [
    ({'preset': 'nano'}, "preset: 'nano' arrived, one of tiny, micro"),
    ({'seed': -1}, 'seed: -1 arrived'),
    ({'seed': 2**32}, 'seed: 4294967296 arrived'),
])
def test_bad_settings_are_refused(tmp_path, change, message):
    with pytest.raises(CheckpointInitError, match=message):
        init_checkpoint(tmp_path / 'x', **change)


def test_a_directory_in_use_is_left_alone(tmp_path):
    (tmp_path / 'mine').write_text('keep')
    with pytest.raises(CheckpointInitError, match='is not empty'):
        init_checkpoint(tmp_path, 'micro')
    assert [p.name for p in tmp_path.iterdir()] == ['mine']
