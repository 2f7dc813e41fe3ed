"""Decoded frames of a dataset, kept in memory up to a budget."""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation.lerobot_episode import FPS_TOLERANCE, EpisodeError, EpisodeVideo, decode_frames
from ..resources import require
from .lerobot_format import DatasetError

Frames = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """What a video file's header says."""

    fps: float
    width: int
    height: int
    codec: str
    pixel_format: str


class FrameStore:
    """Episodes' frames, decoded once and kept until the budget is used up, the least recent going first.

    :param budget_bytes: Memory for decoded frames. One episode is always kept, however large.
    :param width: Wider pictures are scaled down to it, as the composed view would scale them.
    """

    def __init__(self, budget_bytes: int, width: int | None = None) -> None:
        self._budget = budget_bytes
        self._width = width
        self._used = 0
        self._held: OrderedDict[tuple[Path, float], Frames] = OrderedDict()

    def frames(self, path: Path, start_s: float, count: int, fps: float) -> Frames:
        """Return ``count`` frames from ``start_s`` on, uint8 (count, H, W, 3) RGB, read-only.

        :raises DatasetError: The file cannot be decoded or is too short; the text names the frame.
        """
        key = (path, start_s)
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        try:
            decoded = np.stack([
                scale_down(frame, self._width) for frame in decode_frames(
                    EpisodeVideo(path, start_s, count, fps))])
        except EpisodeError as error:
            raise DatasetError(str(error)) from error
        decoded.setflags(write=False)
        self._held[key] = decoded
        self._used += decoded.nbytes
        while self._used > self._budget and len(self._held) > 1:
            _, dropped = self._held.popitem(last=False)
            self._used -= dropped.nbytes
        return decoded


def scale_down(picture: Frames, width: int | None) -> Frames:
    """Return the picture at ``width`` pixels, its aspect kept; a narrower one passes unchanged.

    Bilinear with antialiasing, as ``generator.composed_view.fit_with_black`` does it.
    """
    rows, columns = picture.shape[:2]
    if width is None or columns <= width:
        return picture
    pillow = require('PIL.Image', 'model')
    size = (width, max(1, int(rows / (columns / width))))
    return np.asarray(pillow.fromarray(picture).resize(size, resample=pillow.Resampling.BILINEAR))


def probe_video(path: Path, fps: float) -> VideoFacts:
    """Read a video's header and check its rate.

    :raises DatasetError: No readable video, or another rate than the dataset's.
    """
    av: Any = require('av', 'record')
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or 0.0)
            facts = VideoFacts(
                rate, stream.width, stream.height, stream.codec.canonical_name, str(stream.pix_fmt))
    except (av.FFmpegError, IndexError) as error:
        raise DatasetError(f'{path} is no readable video: {error}') from error
    if abs(facts.fps - fps) > FPS_TOLERANCE * fps:
        raise DatasetError(f'{path}: the video has {facts.fps:g} fps, info.json says {fps:g}')
    return facts
