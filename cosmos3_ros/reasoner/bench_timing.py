"""Time the reasoner's stages: medians, with CUDA events on a GPU."""

from collections.abc import Callable
from dataclasses import dataclass
import statistics
import time
from typing import Any

from ..model.tiny import Preset, text_config, vision_config
from ..resources import require
from .compiled_backend import create_math
from .decoder_state import DecoderInput
from .language_weights import LanguageWeights, take_weights
from .plain_math import PlainMath
from .static_decoder import StaticDecoder
from .video_prompt import VIDEO_TYPE, VideoPrompt
from .vision_tower import VisionTower

NANO = Preset(
    vocabulary=151936, hidden=4096, intermediate=12288, layers=36, heads=32, kv_heads=8,
    rope_sections=(24, 20, 20), vision_hidden=1152, vision_layers=27, vision_heads=16, vision_positions=2304,
    vae_base=160, view=(540, 640))
"""Cosmos3-Nano (configs of ``nvidia/Cosmos3-Nano``); see :func:`random_model` for the vision tower's rest."""

NANO_VISION = {'intermediate_size': 4304, 'deepstack_visual_indexes': [8, 16, 24]}

REPORT_TOKENS = 60
"""Tokens of a usual SceneReport."""

PAUSE_S = 0.2
"""Idle time before each timed clip on a GPU.

A robot's perception asks every ``period_s`` (2 s by default), never back to back. Without pauses a GPU works
at its power limit, more slowly, and the host that starts an eager model's kernels stays warm.
"""


@dataclass(frozen=True, slots=True)
class Timing:
    """Medians in milliseconds, peak memory in GB (10^9 bytes; 0 on a CPU).

    :param ttft_ms: From a prompt whose patches lie on the device to its first token on the device,
        :data:`PAUSE_S` after the one before; ``vision_ms``, ``prefill_ms`` and ``report_ms`` likewise.
    :param back_to_back_ttft_ms: The same without pauses; on a CPU there are none.
    :param vision_ms: Its share in the vision tower; ``prefill_ms`` the language model's.
    :param decode_ms: Per further token.
    :param report_ms: A report of :data:`REPORT_TOKENS` tokens, each seen by the host (of transformers:
        computed from the two).
    """

    ttft_ms: float
    back_to_back_ttft_ms: float
    vision_ms: float
    prefill_ms: float
    decode_ms: float
    report_ms: float
    peak_memory_gb: float


def random_model(preset: Preset, device: str, dtype: Any, vision: dict[str, Any] | None = None) -> Any:
    """Return an untrained ``Cosmos3OmniForConditionalGeneration`` of some shape.

    :param vision: What the vision tower's config has otherwise than ``preset`` says.
    """
    torch, transformers = require('torch', 'model'), require('transformers', 'model')
    vocabulary = preset.vocabulary
    config = transformers.Cosmos3OmniConfig(
        text_config=text_config(preset, vocabulary),
        vision_config={**vision_config(preset), **(vision or {})},
        image_token_id=vocabulary - 4, video_token_id=vocabulary - 3,
        vision_start_token_id=vocabulary - 2,
        vision_end_token_id=vocabulary - 1, tie_word_embeddings=False)
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.Cosmos3OmniForConditionalGeneration._from_config(config, dtype=dtype)
    model.generation_config.eos_token_id = None
    return model.eval().requires_grad_(False)


def random_prompt(model: Any, grid: tuple[int, int, int], tokens: int, seed: int = 0) -> VideoPrompt:
    """Return a prompt of ``tokens`` tokens around one video: nine tokens of time stamps per temporal patch.

    :param grid: Patches in time, height and width.
    """
    torch = require('torch', 'model')
    draw = torch.Generator().manual_seed(seed)
    config = model.config
    frames, height, width = grid
    each = height * width // config.vision_config.spatial_merge_size ** 2
    most = config.text_config.vocab_size - 8

    def words(count: int) -> Any:
        return torch.randint(0, most, (count,), generator=draw)

    rest = tokens - frames * (each + 9)
    if rest < 4:
        raise ValueError(f'tokens: {tokens} arrived, at least {frames * (each + 9) + 4} hold this video')
    pieces = [words(rest // 4)]
    for _ in range(frames):
        pieces += [words(7), torch.tensor([config.vision_start_token_id]),
                   torch.full((each,), config.video_token_id), torch.tensor([config.vision_end_token_id])]
    pieces.append(words(rest - rest // 4))
    ids = torch.cat(pieces)[None]
    patch = config.vision_config.in_channels * 2 * config.vision_config.patch_size ** 2
    pixels = torch.rand((frames * height * width, patch), generator=draw) * 2 - 1
    return VideoPrompt(
        ids, (ids == config.video_token_id).long() * VIDEO_TYPE, pixels, torch.tensor([grid]))


def reference_inputs(model: Any, prompt: VideoPrompt) -> dict[str, Any]:
    """Return what ``transformers`` takes, on the model's device."""
    torch, device = require('torch', 'model'), model.device
    ids = prompt.input_ids.to(device)
    return {
        'input_ids': ids, 'attention_mask': torch.ones_like(ids),
        'mm_token_type_ids': prompt.mm_token_type_ids.to(device),
        'pixel_values_videos': prompt.pixel_values_videos.to(device, model.dtype),
        'video_grid_thw': prompt.video_grid_thw.to(device)}


def median_ms(
    work: Callable[[], Any], repeats: int, device: Any, warm: int = 3, pause_s: float = 0.0,
) -> float:
    """Return the median time of ``work``: with CUDA events on a GPU, by the clock elsewhere.

    :param pause_s: On a GPU: idle time before each.
    """
    torch = require('torch', 'model')
    for _ in range(warm):
        work()
    times = []
    for _ in range(repeats):
        if device.type == 'cuda':
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            time.sleep(pause_s)
            begin.record()
            work()
            end.record()
            end.synchronize()
            times.append(float(begin.elapsed_time(end)))
        else:
            begin_s = time.perf_counter()
            work()
            times.append((time.perf_counter() - begin_s) * 1e3)
    return statistics.median(times)


def first_token_ms(work: Callable[[], Any], repeats: int, device: Any) -> tuple[float, float]:
    """Return the median times of a first token: after pauses, and back to back."""
    paced = median_ms(work, repeats, device, pause_s=PAUSE_S)
    return paced, paced if device.type == 'cpu' else median_ms(work, repeats, device)


def time_reference(model: Any, prompt: VideoPrompt, repeats: int, tokens: int = 8) -> Timing:
    """Time ``transformers.generate``, greedy: one token for the first, several for the others.

    ``prefill_ms`` is its bare forward without the vision tower's share, without ``generate`` around it.
    """
    inputs, device = reference_inputs(model, prompt), model.device
    reset_peak(device)

    def generate(count: int) -> Any:
        return model.generate(
            **inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0)

    features = {'pixel_values': inputs['pixel_values_videos'], 'image_grid_thw': inputs['video_grid_thw']}
    vision = median_ms(
        lambda: model.model.get_image_features(**features), repeats, device, pause_s=PAUSE_S)
    forward = median_ms(
        lambda: model(**inputs, use_cache=True, logits_to_keep=1), repeats, device, pause_s=PAUSE_S)
    ttft, busy = first_token_ms(lambda: generate(1), repeats, device)
    more = median_ms(lambda: generate(1 + tokens), max(3, repeats // tokens), device, warm=1)
    decode = (more - busy) / tokens
    report = ttft + (REPORT_TOKENS - 1) * decode
    return Timing(ttft, busy, vision, forward - vision, decode, report, peak_gb(device))


def time_compiled(decoder: StaticDecoder, given: DecoderInput, repeats: int, device: Any) -> Timing:
    """Time the compiled reasoner; ``given`` with its pixels on the device."""
    reset_peak(device)
    cache = decoder.begin(given, REPORT_TOKENS)
    vision = decoder.see(given)
    ttft, busy = first_token_ms(lambda: decoder.begin(given, REPORT_TOKENS), repeats, device)
    see = median_ms(lambda: decoder.see(given), repeats, device, pause_s=PAUSE_S)
    read = median_ms(
        lambda: decoder.read(given, vision, cache, REPORT_TOKENS), repeats, device, pause_s=PAUSE_S)
    report = median_ms(
        lambda: list(decoder.write(given, REPORT_TOKENS)), repeats, device, warm=1, pause_s=PAUSE_S)
    if device.type == 'cuda':
        decoder.read(given, vision, cache, REPORT_TOKENS)
        decode = median_ms(decoder.record_step(cache).replay, min(repeats, REPORT_TOKENS - 5), device)
    else:
        decode = (report - ttft) / (REPORT_TOKENS - 1)
    return Timing(ttft, busy, see, read, decode, report, peak_gb(device))


def compiled_decoders(
    model: Any, rates: tuple[float, ...], weights: str = 'dtype',
    math: Callable[[LanguageWeights], PlainMath] = create_math,
) -> list[StaticDecoder]:
    """Return one decoder per pruning rate, all on the same weights."""
    taken = take_weights(model, weights)
    made = math(taken)
    return [StaticDecoder(taken, VisionTower(model, made.name == 'fused'), made, rate) for rate in rates]


def on_device(given: DecoderInput, device: Any, dtype: Any) -> DecoderInput:
    """Return the same input with its pixels where the vision tower is, in its precision."""
    return DecoderInput(given.ids, given.positions, given.visual, given.pixels.to(device, dtype), given.grids)


def reset_peak(device: Any) -> None:
    """Forget the highest memory use so far."""
    if device.type == 'cuda':
        require('torch', 'model').cuda.reset_peak_memory_stats(device)


def peak_gb(device: Any) -> float:
    """Return the highest memory use since :func:`reset_peak`."""
    if device.type != 'cuda':
        return 0.0
    return float(require('torch', 'model').cuda.max_memory_allocated(device)) / 1e9
