"""Clips and a question as the language model reads them: token ids and patches.

Does what transformers' ``Qwen3VLProcessor`` and ``Qwen3VLVideoProcessor`` (5.23) do for videos that
are already sampled, and a test holds it to them token by token. It is our own because that video
processor exists only where torchvision does, which a robot's perception needs for nothing else.

The chat template wraps a video into ``<|vision_start|>...<|vision_end|>`` and transformers since
5.10 keeps that wrapper around the per-patch ones, as this module does; older stacks drop it, and so does
Cosmos3-Edge's processor, for whose checkpoints this module does too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

from ..contracts import Clip
from ..resources import require
from .backend import BackendError
from .questions import Question
from .video_grid import bounded_size

EDGE_PROCESSOR = 'Cosmos3EdgeVideoProcessor'

_CONFIG_FILES = (('video_preprocessor_config.json', None), ('processor_config.json', 'video_processor'))


@dataclass(frozen=True, slots=True)
class VideoSettings:
    """How frames become patches; field names and defaults as in Qwen3-VL's video processor.

    :param min_clip_pixels: Smallest frames x height x width; ``size.shortest_edge``.
    :param max_clip_pixels: Largest frames x height x width; ``size.longest_edge``.
    :param edge: As Cosmos3-Edge has it: colours are the last axis of a patch, and the chat template's wrapper
        around a video goes (``Cosmos3EdgeVideoProcessor.patchify`` and
        ``Cosmos3EdgeProcessor.get_text_with_replacements`` of transformers 5.23).
    """

    patch_size: int = 16
    temporal_patch_size: int = 2
    merge_size: int = 2
    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: tuple[float, ...] = (0.5, 0.5, 0.5)
    min_clip_pixels: int = 4096
    max_clip_pixels: int = 25165824
    edge: bool = False

    @classmethod
    def load(cls, directory: Path, max_clip_pixels: int | None = None) -> 'VideoSettings':
        """Read a checkpoint's video processor.

        :param max_clip_pixels: Instead of the checkpoint's budget, which is made for long videos.
        :raises BackendError: No such file, or not as expected.
        """
        for name, section in _CONFIG_FILES:
            file = directory / name
            if not file.is_file():
                continue
            try:
                config = json.loads(file.read_text(encoding='utf-8'))
                config = config[section] if section else config
                size = config['size']
                edge = config.get('video_processor_type') == EDGE_PROCESSOR
                settings = cls(
                    int(config.get('patch_size', 16)),
                    int(config.get('temporal_patch_size', 1 if edge else 2)),
                    int(config.get('merge_size', 2)),
                    tuple(map(float, config['image_mean'])), tuple(map(float, config['image_std'])),
                    int(size['shortest_edge']), int(max_clip_pixels or size['longest_edge']), edge)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise BackendError(f'checkpoint: {file} cannot be used: {error!r}') from error
            if settings.min_clip_pixels > settings.max_clip_pixels:
                raise BackendError(
                    f'max_clip_pixels: {settings.max_clip_pixels} arrived, at least '
                    f'{settings.min_clip_pixels} (size.shortest_edge of {file}) is allowed')
            return settings
        raise BackendError(f'checkpoint: {directory} has none of {[name for name, _ in _CONFIG_FILES]}')


@dataclass(frozen=True, slots=True, eq=False)
class VideoPrompt:
    """What the model takes, torch tensors; the patches may lie on another device than the CPU.

    :param input_ids: int64 (1, N).
    :param mm_token_type_ids: int64 (1, N), 2 where a vision token stands, else 0.
    :param pixel_values_videos: float32 (patches, 3 * 2 * 16 * 16), all clips one after another.
    :param video_grid_thw: int64 (clips, 3), patches in time, height and width.
    """

    input_ids: Any
    mm_token_type_ids: Any
    pixel_values_videos: Any
    video_grid_thw: Any


def patch_clip(
    clip: Clip, settings: VideoSettings, device: Any = 'cpu',
) -> tuple[Any, tuple[int, int, int]]:
    """Return a clip's patches (t * h * w, 3 * 2 * 16 * 16) and its grid (t, h, w).

    Frames are scaled to the pixel budget (bicubic, antialiased), to multiples of 32.

    :param device: Where to do it; off the CPU, scaled pixels may differ by one level of 255, because
        only the CPU has the fixed-point arithmetic that transformers' processor uses there.
    """
    torch = require('torch', 'model')
    pair, patch, merge = settings.temporal_patch_size, settings.patch_size, settings.merge_size
    # A copy: torch refuses to promise anything about read-only memory.
    frames = torch.from_numpy(clip.frames.copy()).to(device).permute(0, 3, 1, 2)
    odd = -frames.shape[0] % pair
    if odd:
        frames = torch.cat((frames, frames[-1:].expand(odd, -1, -1, -1)))
    size = bounded_size(
        len(frames), *clip.size, max_pixels=settings.max_clip_pixels, min_pixels=settings.min_clip_pixels,
        multiple=patch * merge, temporal=pair)
    if clip.size != size:
        frames = _scale(frames, size)
    t, h, w = len(frames) // pair, size[0] // patch, size[1] // patch
    blocks = frames.reshape(t, pair, 3, h // merge, merge, patch, w // merge, merge, patch)
    order = (0, 3, 6, 4, 7, 5, 8, 2, 1) if settings.edge else (0, 3, 6, 4, 7, 2, 1, 5, 8)
    # Bytes are put in order before they become floats: a quarter of the memory to move.
    values = blocks.permute(order).contiguous().float()
    channels = [3 if axis == 2 else 1 for axis in order]
    mean, std = (torch.tensor(each, device=device).view(channels) * 255.0
                 for each in (settings.image_mean, settings.image_std))
    return values.sub_(mean).div_(std).view(t * h * w, -1), (t, h, w)


def patch_times_s(clip: Clip, pair: int = 2) -> tuple[float, ...]:
    """Return the time of each temporal patch in seconds since the clip's first frame.

    It is the mean of the patch's first and last frame.
    """
    seconds = [(int(stamp) - int(clip.stamps_ns[0])) / 1e9 for stamp in clip.stamps_ns]
    seconds += [seconds[-1]] * (-len(seconds) % pair)
    return tuple((seconds[i] + seconds[i + pair - 1]) / 2 for i in range(0, len(seconds), pair))


def _scale(frames: Any, size: tuple[int, int]) -> Any:
    """Scale (frames, 3, height, width) of bytes."""
    interpolate = require('torch.nn.functional', 'model').interpolate
    if frames.device.type == 'cpu':
        return interpolate(frames, size=size, mode='bicubic', antialias=True)
    # The CPU scales width first and keeps bytes between the two, which shows where edges overshoot.
    scaled = frames.float()
    for pass_size in ((frames.shape[2], size[1]), size):
        scaled = interpolate(scaled, size=pass_size, mode='bicubic', antialias=True).round().clamp(0, 255)
    return scaled


def build_messages(clips: Sequence[Clip], question: Question) -> list[dict[str, Any]]:
    """Return the conversation: system message, then media first and text last.

    With several cameras each video is announced by its name.
    """
    content: list[dict[str, Any]] = []
    for clip in clips:
        if len(clips) > 1:
            content.append({'type': 'text', 'text': f'{clip.camera}: '})
        content.append({'type': 'video'})
    content.append({'type': 'text', 'text': question.text})
    system = [{'role': 'system', 'content': question.system}] if question.system else []
    return [*system, {'role': 'user', 'content': content}]


def build_prompt(
    tokenizer: Any, clips: Sequence[Clip], question: Question, settings: VideoSettings, device: Any = 'cpu',
) -> VideoPrompt:
    """Return everything that the model takes for ``question`` about ``clips``.

    :param device: Where patches are made and stay.
    :param tokenizer: The checkpoint's, with its chat template.
    :raises BackendError: The tokenizer's chat template does not place the videos.
    """
    torch = require('torch', 'model')
    patched = [patch_clip(clip, settings, device) for clip in clips]
    text = tokenizer.apply_chat_template(
        build_messages(clips, question), tokenize=False, add_generation_prompt=True)
    if settings.edge:
        text = text.replace(VISION_START + VIDEO_TOKEN + VISION_END, VIDEO_TOKEN)
    pieces = text.split(VIDEO_TOKEN)
    if len(pieces) != len(clips) + 1:
        raise BackendError(
            f'checkpoint: its chat template wrote {len(pieces) - 1} videos for {len(clips)} clips; '
            'is chat_template.jinja the one of this model?')
    merged = settings.merge_size ** 2
    rendered = pieces[0]
    for clip, (_, (_, h, w)), piece in zip(clips, patched, pieces[1:], strict=True):
        for seconds in patch_times_s(clip, settings.temporal_patch_size):
            rendered += f'<{seconds:.1f} seconds>{VISION_START}{VIDEO_TOKEN * (h * w // merged)}{VISION_END}'
        rendered += piece
    ids = torch.tensor([tokenizer(rendered, add_special_tokens=False)['input_ids']])
    return VideoPrompt(
        ids, (ids == tokenizer.convert_tokens_to_ids(VIDEO_TOKEN)).long() * VIDEO_TYPE,
        torch.cat([patches for patches, _ in patched]), torch.tensor([grid for _, grid in patched]))


VIDEO_TOKEN, VISION_START, VISION_END = '<|video_pad|>', '<|vision_start|>', '<|vision_end|>'
VIDEO_TYPE = 2
"""transformers marks text 0, image 1, video 2."""
