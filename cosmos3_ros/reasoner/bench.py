"""``cosmos3 bench reasoner``: every number about the compiled reasoner that a machine can give."""

from dataclasses import asdict
import logging
from pathlib import Path
import statistics
import tempfile
import time
from typing import Any

import numpy as np

from ..contracts import Clip
from ..model.checkpoint import Checkpoint
from ..model.loading import check_device
from ..resources import MissingDependencyError, require
from .bench_parity import SHAPES, context_difference, count_matches
from .bench_timing import (
    NANO,
    NANO_VISION,
    PAUSE_S,
    Timing,
    compiled_decoders,
    median_ms,
    on_device,
    random_model,
    random_prompt,
    time_compiled,
    time_reference,
)
from .compiled_backend import decoder_input
from .device_graph import inference_on
from .model_loading import load_model
from .questions import PromptBook
from .video_prompt import VideoPrompt, VideoSettings, build_prompt, patch_clip

logger = logging.getLogger(__name__)

RANDOM_NANO = 'nano-random'
"""Random weights at Cosmos3-Nano's shape, made on the device."""

FRAMES, HEIGHT, WIDTH, PROMPT_TOKENS = 8, 360, 640, 970
MAX_CLIP_PIXELS = 8 * 640 * 384
PRUNING_RATE = 0.3
GIGA = 1e9


def run_bench(
    checkpoint: str, device: str = 'cpu', *, repeats: int = 30, prompts: int = 8, tokens: int = 32,
) -> dict[str, Any]:
    """Measure a reasoner with a clip of 8 frames of 640 x 360 and the structured prompt.

    :param checkpoint: Directory, packaged name, Hub id or :data:`RANDOM_NANO`.
    :param repeats: Timed runs per number; medians are reported.
    :param prompts: Prompts per shape of the token comparison with transformers, float32.
    :param tokens: Tokens per prompt of that comparison.
    """
    torch = require('torch', 'model')
    check_device(device)
    clip = Clip(
        'exterior_1', np.random.RandomState(0).randint(0, 255, (FRAMES, HEIGHT, WIDTH, 3)).astype(np.uint8),
        np.arange(FRAMES, dtype=np.int64) * 250_000_000)
    begin_s = time.perf_counter()
    with inference_on(torch.device(device)):
        model, prompt, settings = _subject(checkpoint, device, clip)
        place = model.device
        logger.info('model ready after %.0f s', time.perf_counter() - begin_s)
        rows = {'transformers': time_reference(model, prompt, repeats)}
        given = on_device(decoder_input(model, prompt), place, model.dtype)
        prepare_ms = _prepare_ms(model, clip, prompt, settings, repeats)
        full, pruned = compiled_decoders(model, (0.0, PRUNING_RATE))
        weight_bytes = full.weight_bytes
        rows['compiled'] = time_compiled(full, given, repeats, place)
        rows['compiled evs0.3'] = time_compiled(pruned, given, repeats, place)
        del full, pruned
        eight, eight_pruned = compiled_decoders(model, (0.0, PRUNING_RATE), 'fp8')
        eight_bytes = eight.weight_bytes
        rows['compiled fp8'] = time_compiled(eight, given, repeats, place)
        rows['compiled fp8 evs0.3'] = time_compiled(eight_pruned, given, repeats, place)
        bandwidth, rate = _ceilings(place)
        work = _operations(model, prompt)
        del model, eight, eight_pruned, given
        compared = {name: count_matches(name, device, prompts, tokens) for name in SHAPES}
    difference = _context_difference(checkpoint)
    own, reference = rows['compiled'], rows['transformers']
    return {
        'checkpoint': checkpoint, 'device': _device_name(device), 'torch': torch.__version__,
        'prompt_tokens': int(prompt.input_ids.shape[1]), 'repeats': repeats,
        'pause_s': 0.0 if place.type == 'cpu' else PAUSE_S,
        'rows': {name: _rounded(row) for name, row in rows.items()},
        'prepare_ms': round(prepare_ms, 2),
        'floors': {
            'bandwidth_gb_s': round(bandwidth, 1), 'rate_tflop_s': round(rate, 1),
            'prompt_tflop': round(work, 3), 'ttft_ms': round(work / rate * 1e3, 2),
            'decode_ms': round(weight_bytes / bandwidth / GIGA * 1e3, 2),
            'decode_fp8_ms': round(eight_bytes / bandwidth / GIGA * 1e3, 2)},
        'evs_prefill_speedup': round(own.prefill_ms / rows['compiled evs0.3'].prefill_ms, 3),
        'tokens_compared': {name: both[0] for name, both in compared.items()},
        'tokens_equal': {name: both[1] for name, both in compared.items()},
        'ttft_ms': round(own.ttft_ms, 2), 'decode_ms': round(own.decode_ms, 3),
        'report_ms': round(own.report_ms, 1),
        'speedup_vs_transformers': round(reference.ttft_ms / own.ttft_ms, 2),
        'speedup_back_to_back': round(reference.back_to_back_ttft_ms / own.back_to_back_ttft_ms, 2),
        'tokens_identical': all(both[0] == both[1] for both in compared.values()),
        'context_max_diff': difference, 'peak_memory_gb': round(own.peak_memory_gb, 2)}


def _subject(checkpoint: str, device: str, clip: Clip) -> tuple[Any, VideoPrompt, VideoSettings]:
    torch = require('torch', 'model')
    if checkpoint == RANDOM_NANO:
        dtype = torch.float32 if device == 'cpu' else torch.bfloat16
        settings = VideoSettings(max_clip_pixels=MAX_CLIP_PIXELS)
        model = random_model(NANO, device, dtype, NANO_VISION)
        _, grid = patch_clip(clip, settings)
        return model, random_prompt(model, grid, PROMPT_TOKENS), settings
    opened = Checkpoint.open(checkpoint, parts=('reasoner',))
    place = torch.device(device)
    dtype = torch.float32 if place.type == 'cpu' else torch.bfloat16
    model, tokenizer = load_model(opened.directory, dtype, place)
    settings = VideoSettings.load(opened.directory, MAX_CLIP_PIXELS)
    question = PromptBook.load().ask('scene_report', None, instruction='lift the cube', cameras=clip.camera)
    return model, build_prompt(tokenizer, [clip], question, settings), settings


def _prepare_ms(
    model: Any, clip: Clip, prompt: VideoPrompt, settings: VideoSettings, repeats: int,
) -> float:
    """Return the host's share that no stage above holds: the copy, scaling, patches, positions."""
    torch = require('torch', 'model')
    times = []
    for _ in range(max(3, repeats // 3)):
        begin_s = time.perf_counter()
        patch_clip(clip, settings, model.device)
        decoder_input(model, prompt)
        if model.device.type == 'cuda':
            torch.cuda.synchronize()
        times.append((time.perf_counter() - begin_s) * 1e3)
    return statistics.median(times)


def _ceilings(device: Any) -> tuple[float, float]:
    """Return what this device moves (GB/s, read plus written) and multiplies (TFLOP/s, 16 bit or float32)."""
    torch = require('torch', 'model')
    gpu = device.type == 'cuda'
    side, length = (8192, 1 << 30) if gpu else (512, 1 << 26)
    kind = torch.bfloat16 if gpu else torch.float32
    source = torch.zeros(length, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    copy_ms = median_ms(lambda: target.copy_(source), 10, device)
    product_ms = median_ms(lambda: a @ b, 10, device)
    return 2 * length / copy_ms / 1e6, 2 * side ** 3 / product_ms / 1e9


def _operations(model: Any, prompt: VideoPrompt) -> float:
    """Return the least arithmetic of a prompt, in 10^12: both towers' matrices, and attention."""
    text, vision = model.config.text_config, model.config.vision_config
    n, patches = int(prompt.input_ids.shape[1]), int(prompt.pixel_values_videos.shape[0])
    width, head = text.hidden_size, text.head_dim
    heads, kv = text.num_attention_heads, text.num_key_value_heads
    layer = width * head * (2 * heads + 2 * kv) + 3 * width * text.intermediate_size
    language = 2 * n * text.num_hidden_layers * layer + 2 * n * n * heads * head * text.num_hidden_layers
    seen, inner = vision.hidden_size, vision.intermediate_size
    frame = patches // int(prompt.video_grid_thw[:, 0].sum())
    tower = vision.depth * (2 * patches * (4 * seen ** 2 + 2 * seen * inner) + 4 * patches * frame * seen)
    merged = seen * vision.spatial_merge_size ** 2
    mergers = (1 + len(vision.deepstack_visual_indexes)) * 2 * (patches // 4) * (merged ** 2 + merged * width)
    return float(language + tower + mergers + 2 * width * text.vocab_size) / 1e12


def _context_difference(checkpoint: str) -> float | None:
    """Compare contexts on the checkpoint, for random Nano on a small one; None if diffusers is missing."""
    ids = [(7 * i) % 300 for i in range(37)]
    try:
        require('diffusers', 'model')
        from ..model.checkpoint_init import init_checkpoint

        with tempfile.TemporaryDirectory() as folder:
            if checkpoint == RANDOM_NANO:
                directory = init_checkpoint(Path(folder) / 'micro', preset='micro', seed=3).directory
            else:
                directory = Checkpoint.open(checkpoint, parts=('reasoner',)).directory
            return context_difference(directory, ids)
    except MissingDependencyError as error:
        logger.warning('contexts were not compared: %s', error)
        return None


def _device_name(device: str) -> str:
    torch = require('torch', 'model')
    if device.startswith('cuda'):
        return str(torch.cuda.get_device_name(device))
    return f'cpu, {torch.get_num_threads()} threads'


def _rounded(timing: Timing) -> dict[str, float]:
    return {name: round(float(value), 3) for name, value in asdict(timing).items()}
