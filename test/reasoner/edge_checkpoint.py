"""A random checkpoint of Cosmos3-Edge's classes, as small as they allow, in the published layout.

Weights of the language model lie under the names that diffusers' folder has, generator's tensors among
them; transformers renames the first and drops the second (``conversion_mapping.py``, ``cosmos3_edge``).
"""

import json
from pathlib import Path

import torch

from cosmos3_ros.model.tiny_tokenizer import build_tokenizer

_FLAT = (
    ('model.language_model.', ''), ('.q_proj.', '.to_q.'), ('.k_proj.', '.to_k.'), ('.v_proj.', '.to_v.'),
    ('.o_proj.', '.to_out.'), ('.fc1.', '.up_proj.'), ('.fc2.', '.down_proj.'))


def write_edge_checkpoint(directory: Path, seed: int = 0) -> Path:
    """Write it and return its directory."""
    from safetensors.torch import save_file
    import transformers

    tokenizer = build_tokenizer(512)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in (
        ('image_token_id', '<|image_pad|>'), ('video_token_id', '<|video_pad|>'),
        ('vision_start_token_id', '<|vision_start|>'), ('vision_end_token_id', '<|vision_end|>'))}
    config = transformers.Cosmos3EdgeConfig(
        text_config={
            'vocab_size': -(-len(tokenizer) // 64) * 64, 'hidden_size': 64, 'intermediate_size': 96,
            'num_hidden_layers': 3, 'num_attention_heads': 4, 'num_key_value_heads': 2, 'head_dim': 16,
            'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e8, 'mrope_section': [4, 2, 2]},
            'pad_token_id': tokenizer.pad_token_id, 'eos_token_id': tokenizer.eos_token_id},
        vision_config={
            'hidden_size': 32, 'intermediate_size': 48, 'num_hidden_layers': 2, 'num_attention_heads': 2,
            'num_patches': 16},
        projector_hidden_size=96, **ids)
    torch.manual_seed(seed)
    model = transformers.Cosmos3EdgeForConditionalGeneration(config)
    weights = {}
    for name, tensor in model.state_dict().items():
        # Larger than the classes draw them, so that answers vary.
        spread = tensor if 'norm' in name else tensor * 4.0
        weights[name] = spread.contiguous()
    files = {'transformer/diffusion_pytorch_model.safetensors': {}, 'vision_encoder/model.safetensors': {}}
    for name, tensor in weights.items():
        language = name.startswith('model.language_model.') or name.startswith('lm_head')
        file = list(files)[0 if language else 1]
        for old, new in _FLAT if language else ():
            name = name.replace(old, new)
        files[file][name] = tensor
    dropped = 'layers.0.mlp_moe_gen.up_proj.weight'
    files['transformer/diffusion_pytorch_model.safetensors'][dropped] = torch.zeros(96, 64)
    for file, tensors in files.items():
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, directory / file, metadata={'format': 'pt'})
    _write(directory / 'model.safetensors.index.json', {
        'metadata': {}, 'weight_map': {name: file for file, tensors in files.items() for name in tensors}})
    tokenizer.save_pretrained(directory)
    _write(directory / 'config.json', {
        **config.to_dict(), 'architectures': ['Cosmos3EdgeForConditionalGeneration']})
    _write(directory / 'generation_config.json', {
        'eos_token_id': tokenizer.eos_token_id, 'pad_token_id': tokenizer.pad_token_id, 'do_sample': False})
    shared = {'patch_size': 16, 'temporal_patch_size': 1, 'merge_size': 2, 'image_mean': [0.5] * 3,
              'image_std': [0.5] * 3, 'processor_class': 'Cosmos3EdgeProcessor'}
    _write(directory / 'preprocessor_config.json', {
        **shared, 'image_processor_type': 'Cosmos3EdgeImageProcessor',
        'size': {'shortest_edge': 4096, 'longest_edge': 262144}})
    _write(directory / 'video_preprocessor_config.json', {
        **shared, 'video_processor_type': 'Cosmos3EdgeVideoProcessor',
        'size': {'shortest_edge': 4096, 'longest_edge': 786432}})
    return directory


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2), encoding='utf-8')
