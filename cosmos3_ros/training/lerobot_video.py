"""Videos of a LeRobot dataset: encode an episode, put episodes' videos behind each other."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..resources import require
from .lerobot_format import DatasetError

_SMALL_PICTURE = 320
_KEY_FRAME_EVERY = 8
# Encoder to its options; the first that this PyAV has is taken. One thread: the bytes depend on their number.
# x264's fastest preset: measured on 160-pixel pictures it takes a fifth of the time of "fast" (1.1 instead of
# 5.9 ms for three cameras, of some 20 in all), errs less at the same crf, and makes files twice as large.
_ENCODERS: dict[str, dict[str, str]] = {
    'libx264': {'crf': '10', 'preset': 'ultrafast', 'bf': '0', 'threads': '1'},
    'libsvtav1': {'crf': '20', 'preset': '8', 'svtav1-params': 'lp=1:pred-struct=1'},
    'libopenh264': {'b': '2M'},
    'mpeg4': {'qscale': '2', 'bf': '0', 'threads': '1'},
}


def choose_encoder() -> str:
    """Return the encoder to use here.

    :raises DatasetError: PyAV has none of those that are known.
    """
    av: Any = require('av', 'record')
    for name in _ENCODERS:
        if name in av.codecs_available:
            return name
    raise DatasetError(
        f'video: PyAV has no encoder of {", ".join(_ENCODERS)}; install its wheel (pip install av)')


def encode_video(path: Path, pictures: Sequence[NDArray[np.uint8]], fps: int,
                 encoder: str | None = None) -> None:
    """Write pictures as one video that begins with a key frame and has no reordered frames.

    Small pictures keep their full colour resolution (4:4:4): at 160 pixels a cube is a few pixels wide.

    :param pictures: uint8 (H, W, 3) RGB, all of one size, even height and width.
    :raises DatasetError: No picture, unequal or odd sizes.
    """
    av: Any = require('av', 'record')
    if not pictures or any(p.shape != pictures[0].shape for p in pictures):
        raise DatasetError(f'{path}: pictures of one size are needed, {len(pictures)} arrived')
    height, width = pictures[0].shape[:2]
    if height % 2 or width % 2:
        raise DatasetError(f'{path}: {width}x{height} arrived, even numbers of pixels are allowed')
    name = encoder or choose_encoder()
    with av.open(str(path), 'w', format='mp4') as container:
        stream = container.add_stream(name, rate=fps)
        stream.width, stream.height = width, height
        full_colour = name == 'libx264' and width < _SMALL_PICTURE
        stream.pix_fmt = 'yuv444p' if full_colour else 'yuv420p'
        stream.codec_context.gop_size = _KEY_FRAME_EVERY
        stream.options = dict(_ENCODERS[name])
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format='rgb24')))
        container.mux(stream.encode())


def join_videos(path: Path, parts: Sequence[Path], fps: int) -> list[float]:
    """Copy the packets of several videos behind each other and return when each begins, seconds.

    :param parts: Videos that :func:`encode_video` wrote with the same settings.
    :raises DatasetError: A part cannot be read.
    """
    av: Any = require('av', 'record')
    starts: list[float] = []
    frames = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), 'w', format='mp4') as output:
        stream: Any = None
        for part in parts:
            try:
                with av.open(str(part)) as source:
                    original = source.streams.video[0]
                    if stream is None:
                        stream = output.add_stream_from_template(original)
                        stream.time_base = original.time_base
                    tick = Fraction(1, fps) / original.time_base
                    starts.append(frames / fps)
                    offset = round(frames * tick)
                    for packet in source.demux(original):
                        if packet.dts is None:
                            continue
                        packet.stream = stream
                        packet.pts += offset
                        packet.dts += offset
                        frames += 1
                        output.mux(packet)
            except (av.FFmpegError, IndexError) as error:
                raise DatasetError(f'{part} is no readable video: {error}') from error
    return starts


def describe_video(path: Path) -> dict[str, Any]:
    """Return what LeRobot writes about a video feature into ``info.json``."""
    av: Any = require('av', 'record')
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return {
            'video.height': stream.height, 'video.width': stream.width,
            'video.codec': stream.codec.canonical_name, 'video.pix_fmt': str(stream.pix_fmt),
            'video.is_depth_map': False, 'video.fps': round(float(stream.base_rate)), 'video.channels': 3,
            'has_audio': False}
