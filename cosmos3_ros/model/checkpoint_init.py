"""Write a randomly initialised checkpoint in the layout of ``nvidia/Cosmos3-Nano``.

The layout stores every weight once: the reasoner's language model *is* the understanding tower
in ``transformer/``, and ``model.safetensors.index.json`` at the root points transformers there
(format: conversion script and published index of ``nvidia/Cosmos3-Nano``; transformers'
``conversion_mapping.py``, entry ``cosmos3_omni``).
"""

from dataclasses import asdict, dataclass
import json
import logging
from pathlib import Path
from typing import Any

from cosmos3_ros.resources import require

from .random_weights import random_state
from .tiny import (
    PRESETS,
    Preset,
    processor_configs,
    scheduler_config,
    text_config,
    transformer_config,
    vae_config,
    vision_config,
)
from .tiny_tokenizer import build_tokenizer

logger = logging.getLogger(__name__)

TRANSFORMER_FILE = 'transformer/diffusion_pytorch_model.safetensors'
VISION_FILE = 'vision_encoder/model.safetensors'
VAE_FILE = 'vae/diffusion_pytorch_model.safetensors'
METADATA_FILE = 'cosmos3_ros.json'


class CheckpointInitError(ValueError):
    """The checkpoint cannot be written. The text says what arrived and what is allowed."""


@dataclass(frozen=True, slots=True)
class InitSummary:
    """What was written.

    :param parameters: Weights per part.
    :param size_bytes: All files together.
    """

    directory: Path
    preset: str
    seed: int
    parameters: dict[str, int]
    size_bytes: int


def init_checkpoint(directory: str | Path, preset: str = 'tiny', seed: int = 0) -> InitSummary:
    """Write a complete, untrained checkpoint; the same arguments give the same bytes.

    :param directory: New or empty directory.
    :param preset: One of :data:`tiny.PRESETS`.
    :param seed: Seed of the weights, 0..2**32-1.
    :raises CheckpointInitError: Unknown preset, or the directory holds files already.
    :raises resources.MissingDependencyError: The extra ``model`` is not installed.
    """
    if preset not in PRESETS:
        raise CheckpointInitError(f'preset: {preset!r} arrived, one of {", ".join(PRESETS)} is allowed')
    if not 0 <= seed < 2**32:
        raise CheckpointInitError(f'seed: {seed} arrived, 0 to {2**32 - 1} is allowed')
    target = Path(directory)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointInitError(f'directory: {target} exists and is not empty; name a new one')
    target.mkdir(parents=True, exist_ok=True)
    shape = PRESETS[preset]
    tokenizer = build_tokenizer(shape.vocabulary)
    # Models round the vocabulary up, as Nano does (151643 + 26 used of 151936).
    vocabulary = -(-len(tokenizer) // 64) * 64
    parameters = {
        'transformer': _write_transformer(target, shape, vocabulary, seed),
        'vision_encoder': _write_vision_encoder(target, shape, seed),
        'vae': _write_vae(target, shape, seed),
    }
    _write_index(target)
    _write_configs(target, shape, vocabulary, tokenizer)
    write_json(target / METADATA_FILE, {
        'format': 1, 'name': f'cosmos3-{preset}', 'contract': 'droid_joint', 'trained': False,
        'preset': preset, 'seed': seed, 'prompt_variant': 'json', 'view': list(shape.view),
        'shape': asdict(shape),
    })
    size = sum(path.stat().st_size for path in target.rglob('*') if path.is_file())
    logger.info('wrote %s: %.1f MB, %s', target, size / 1e6, parameters)
    return InitSummary(target, preset, seed, parameters, size)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` with sorted keys, so that equal content is equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + '\n', encoding='utf-8')


def _write_weights(path: Path, model: Any, seed: int) -> int:
    """Fill the shapes of ``model`` (on the meta device) with random weights and save them."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    require('safetensors.torch', 'model').save_file(
        random_state(shapes, seed), path, metadata={'format': 'pt'})
    path.chmod(0o644)  # safetensors writes for the owner only; others' nodes read these files too
    return sum(tensor.numel() for tensor in model.state_dict().values())


def _write_transformer(target: Path, shape: Preset, vocabulary: int, seed: int) -> int:
    torch = require('torch', 'model')
    with torch.device('meta'):
        model = require('diffusers', 'model').Cosmos3OmniTransformer(**transformer_config(shape, vocabulary))
    model.save_config(target / 'transformer')
    return _write_weights(target / TRANSFORMER_FILE, model, seed)


def _write_vae(target: Path, shape: Preset, seed: int) -> int:
    torch = require('torch', 'model')
    with torch.device('meta'):
        model = require('diffusers', 'model').AutoencoderKLWan(**vae_config(shape))
    model.save_config(target / 'vae')
    return _write_weights(target / VAE_FILE, model, seed)


def _write_vision_encoder(target: Path, shape: Preset, seed: int) -> int:
    torch = require('torch', 'model')
    modeling = require('transformers.models.qwen3_vl.modeling_qwen3_vl', 'model')
    config = require('transformers', 'model').Qwen3VLVisionConfig(**vision_config(shape))
    with torch.device('meta'):
        model = modeling.Qwen3VLVisionModel(config)
    write_json(target / 'vision_encoder' / 'config.json', {
        **vision_config(shape), 'architectures': ['Qwen3VLVisionModel'], 'dtype': 'bfloat16'})
    return _write_weights(target / VISION_FILE, model, seed)


def _write_index(target: Path) -> None:
    """Point transformers to the weights that diffusers' folders hold."""
    safe_open = require('safetensors', 'model').safe_open
    weights: dict[str, str] = {}
    for name in (TRANSFORMER_FILE, VISION_FILE):
        with safe_open(target / name, framework='pt') as file:
            weights.update(dict.fromkeys(file.keys(), name))
    size = sum((target / name).stat().st_size for name in (TRANSFORMER_FILE, VISION_FILE))
    write_json(target / 'model.safetensors.index.json', {
        'metadata': {'total_size': size}, 'weight_map': weights})


def _write_configs(target: Path, shape: Preset, vocabulary: int, tokenizer: Any) -> None:
    diffusers = require('diffusers', 'model')
    diffusers.UniPCMultistepScheduler(**scheduler_config()).save_config(target / 'scheduler')
    for folder in (target, target / 'text_tokenizer'):
        tokenizer.save_pretrained(folder)
    for name, content in processor_configs().items():
        write_json(target / name, content)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in (
        ('image_token_id', '<|image_pad|>'), ('video_token_id', '<|video_pad|>'),
        ('vision_start_token_id', '<|vision_start|>'), ('vision_end_token_id', '<|vision_end|>'))}
    write_json(target / 'config.json', {
        'architectures': ['Cosmos3OmniForConditionalGeneration'], 'model_type': 'cosmos3_omni',
        'allow_patterns_overrides': ['*/*.safetensors'], 'dtype': 'bfloat16', 'tie_word_embeddings': False,
        'text_config': text_config(shape, vocabulary), 'vision_config': vision_config(shape), **ids})
    write_json(target / 'generation_config.json', {
        'bos_token_id': tokenizer.convert_tokens_to_ids('<|endoftext|>'),
        'eos_token_id': [tokenizer.eos_token_id, tokenizer.pad_token_id],
        'pad_token_id': tokenizer.pad_token_id, 'do_sample': False})
    write_json(target / 'model_index.json', {
        '_class_name': 'Cosmos3OmniPipeline', '_diffusers_version': diffusers.__version__,
        'default_use_system_prompt': False, 'enable_safety_checker': False,
        'use_native_flow_schedule': True, 'safety_checker': [None, None], 'sound_tokenizer': [None, None],
        'scheduler': ['diffusers', 'UniPCMultistepScheduler'],
        'text_tokenizer': ['transformers', 'Qwen2Tokenizer'],
        'transformer': ['diffusers', 'Cosmos3OmniTransformer'], 'vae': ['diffusers', 'AutoencoderKLWan']})
