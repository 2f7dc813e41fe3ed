"""Camera frames in, clips out: a bounded ring per camera, frames chosen by time."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
import math
import threading

import numpy as np
from numpy.typing import NDArray

from ..contracts import Clip, ContractError
from ..resources import require
from .video_grid import FRAME_MULTIPLE, bounded_size

Frame = NDArray[np.uint8]

_EARLY = 0.75


@dataclass(frozen=True, slots=True)
class ClipRefused:
    """Why there is no clip now.

    :param reason: One sentence with the numbers and the parameter to change.
    :param camera: The camera slot at fault, or an empty string.
    """

    reason: str
    camera: str = ''


@dataclass(slots=True)
class ClipCounts:
    """What a buffer did with what it was given; read it for diagnostics."""

    frames_kept: int = 0
    frames_thinned: int = 0
    """Frames closer in time than the buffer's rate needs: left out on purpose."""
    frames_late: int = 0
    """Frames not newer than one that is already there."""
    clock_resets: int = 0
    """Times that the clock went back and everything was cleared."""
    size_changes: int = 0
    """Times that a camera changed its image size and its ring was cleared."""
    clips_taken: int = 0
    clips_refused: int = 0


@dataclass(slots=True)
class _Ring:
    frames: deque[tuple[int, Frame]]
    source_size: tuple[int, int] = (0, 0)
    counts: dict[str, int] = field(default_factory=dict)


class ClipBuffer:
    """Rings of recent frames, one per camera, from which a clip is cut by time.

    Memory is bounded by construction: every camera holds at most
    ``ceil(horizon_s * rate_hz / 0.75) + 1`` frames of at most ``max_frame_pixels`` pixels. Safe to use from
    several threads.

    :param cameras: Camera slots; the order of the clips that :meth:`take` returns.
    :param horizon_s: Seconds of history to keep.
    :param rate_hz: Frames per second to keep; a faster camera is thinned to it.
    :param max_frame_pixels: Larger frames are scaled down as they arrive, sides to multiples of 32.
    :param max_clip_pixels: Largest frames x height x width of one clip; scaled down further to fit.
    :param max_age_s: A camera whose newest frame is older has no clip.
    :param clock_jump_s: A stamp this far before the newest one means that the clock went back
        (a simulation reset, a bag that starts over); less is a frame that came late.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        *,
        horizon_s: float = 4.0,
        rate_hz: float = 15.0,
        max_frame_pixels: int = 640 * 384,
        max_clip_pixels: int = 8 * 640 * 384,
        max_age_s: float = 1.0,
        clock_jump_s: float = 0.5,
    ) -> None:
        if not cameras or len(set(cameras)) != len(cameras) or not all(cameras):
            raise ContractError(f'cameras: {tuple(cameras)!r} arrived, distinct non-empty names are needed')
        for name, value in (('horizon_s', horizon_s), ('rate_hz', rate_hz), ('max_age_s', max_age_s),
                            ('clock_jump_s', clock_jump_s)):
            if not (math.isfinite(value) and value > 0):
                raise ContractError(f'{name}: {value} arrived, a positive number is needed')
        smallest = FRAME_MULTIPLE * FRAME_MULTIPLE
        if max_frame_pixels < smallest or max_clip_pixels < 2 * smallest:
            raise ContractError(
                f'max_frame_pixels / max_clip_pixels: {max_frame_pixels} / {max_clip_pixels} arrived, at '
                f'least {smallest} / {2 * smallest} is needed')
        self._horizon_s, self._rate_hz = horizon_s, rate_hz
        # A camera's own jitter must not halve its rate, so frames up to a quarter period early count.
        self._spacing_ns = int(_EARLY * 1e9 / rate_hz)
        self._capacity = math.ceil(horizon_s * rate_hz / _EARLY) + 1
        self._max_frame_pixels, self._max_clip_pixels = max_frame_pixels, max_clip_pixels
        self._max_age_ns, self._jump_ns = int(max_age_s * 1e9), int(clock_jump_s * 1e9)
        self._rings = {camera: _Ring(deque(maxlen=self._capacity)) for camera in cameras}
        self._lock = threading.Lock()
        self.counts = ClipCounts()

    @property
    def cameras(self) -> tuple[str, ...]:
        """Camera slots, in the order of the clips."""
        return tuple(self._rings)

    def source_sizes(self) -> dict[str, tuple[int, int]]:
        """Return height and width of each camera's images as they arrived, before scaling."""
        with self._lock:
            return {name: ring.source_size for name, ring in self._rings.items() if ring.source_size[0]}

    def memory_bytes(self) -> int:
        """Return the bytes that the stored frames take."""
        with self._lock:
            return sum(frame.nbytes for ring in self._rings.values() for _, frame in ring.frames)

    def add(self, camera: str, stamp_ns: int, frame: Frame) -> None:
        """Store one frame, or leave it out and count why.

        :param frame: uint8 RGB, shape (H, W, 3). It is copied or scaled; the caller keeps its buffer.
        :raises ContractError: Unknown camera, or not such an image.
        """
        ring = self._rings.get(camera)
        if ring is None:
            raise ContractError(f"camera: '{camera}' arrived, one of {list(self._rings)} is allowed")
        frame = np.asarray(frame)
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise ContractError(
                f'{camera}: {frame.dtype} of shape {frame.shape} arrived, '
                'uint8 (height, width, 3) is allowed')
        height, width = int(frame.shape[0]), int(frame.shape[1])
        with self._lock:
            if ring.frames:
                newest = ring.frames[-1][0]
                if stamp_ns < newest - self._jump_ns:
                    self._clear(clock=True)
                elif stamp_ns <= newest:
                    self.counts.frames_late += 1
                    return
                elif stamp_ns - newest < self._spacing_ns:
                    self.counts.frames_thinned += 1
                    return
            if ring.frames and ring.source_size != (height, width):
                ring.frames.clear()
                self.counts.size_changes += 1
            ring.source_size = (height, width)
            ring.frames.append((stamp_ns, scale_frame(frame, self._kept_size(height, width))))
            self.counts.frames_kept += 1

    def take(
        self, fps: float, frames: int, now_ns: int, cameras: Sequence[str] | None = None,
    ) -> tuple[Clip, ...] | ClipRefused:
        """Cut the newest clip of every camera.

        Ends at the camera's newest frame and steps back 1 / ``fps``; at each step the nearest frame
        within half a step is taken. A camera too slow, or started too recently, gives a shorter
        clip; the count is always even, because the vision tower pairs frames.

        :param fps: Frames per second, at most the buffer's ``rate_hz``.
        :param frames: Frames wanted, even and at least 2.
        :param now_ns: The node's clock.
        :param cameras: Only these; None is all.
        :raises ContractError: ``fps`` or ``frames`` that this buffer can never serve, or an unknown camera.
        """
        unknown = sorted(set(cameras or ()) - set(self._rings))
        if unknown:
            raise ContractError(
                f'camera: {", ".join(unknown)} arrived, one of {list(self._rings)} is allowed')
        if frames < 2 or frames % 2:
            raise ContractError(f'frames: {frames} arrived, an even number of at least 2 is allowed')
        if not 0 < fps <= self._rate_hz:
            raise ContractError(
                f'fps: {fps} arrived, more than 0 and at most rate_hz ({self._rate_hz:g}) is allowed')
        if (frames - 1) / fps > self._horizon_s:
            raise ContractError(
                f'frames / fps: {frames} at {fps:g} Hz span {(frames - 1) / fps:.2f} s, at most horizon_s '
                f'({self._horizon_s:g} s) is allowed')
        with self._lock:
            newest = max((ring.frames[-1][0] for ring in self._rings.values() if ring.frames), default=now_ns)
            if newest > now_ns + self._jump_ns:
                self._clear(clock=True)
            chosen: dict[str, list[tuple[int, Frame]]] = {}
            for camera in self._rings if cameras is None else cameras:
                ring = self._rings[camera]
                picked = self._pick(camera, ring, fps, frames, now_ns)
                if isinstance(picked, ClipRefused):
                    self.counts.clips_refused += 1
                    return picked
                chosen[camera] = picked
            self.counts.clips_taken += 1
        return tuple(self._build(camera, picked) for camera, picked in chosen.items())

    def _pick(
        self, camera: str, ring: _Ring, fps: float, frames: int, now_ns: int,
    ) -> list[tuple[int, Frame]] | ClipRefused:
        if not ring.frames:
            return ClipRefused(f'{camera}: no frame has arrived; is its image topic published?', camera)
        end = ring.frames[-1][0]
        if now_ns - end > self._max_age_ns:
            return ClipRefused(
                f'{camera}: the newest frame is {(now_ns - end) / 1e9:.2f} s old, at most max_age_s '
                f'({self._max_age_ns / 1e9:g} s) is allowed', camera)
        stamps = np.array([stamp for stamp, _ in ring.frames], dtype=np.int64)
        targets = end - np.round(np.arange(frames - 1, -1, -1) * (1e9 / fps)).astype(np.int64)
        nearest = np.abs(stamps[:, None] - targets[None, :]).argmin(axis=0)
        close = np.abs(stamps[nearest] - targets) <= 0.5e9 / fps
        index = np.unique(nearest[close])
        index = index[len(index) % 2:]
        if len(index) < 2:
            return ClipRefused(
                f'{camera}: {len(stamps)} frames are there, 2 at {fps:g} Hz are needed; '
                'wait, or lower fps', camera)
        return [ring.frames[int(i)] for i in index]

    def _build(self, camera: str, picked: list[tuple[int, Frame]]) -> Clip:
        height, width = picked[0][1].shape[:2]
        size = self._clip_size(len(picked), height, width)
        stacked = np.stack([scale_frame(frame, size, copy=False) for _, frame in picked])
        stacked.setflags(write=False)
        return Clip(camera, stacked, np.array([stamp for stamp, _ in picked], dtype=np.int64))

    def _kept_size(self, height: int, width: int) -> tuple[int, int]:
        if height * width <= self._max_frame_pixels:
            return height, width
        return bounded_size(1, height, width, max_pixels=2 * self._max_frame_pixels)

    def _clip_size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        if frames * height * width <= self._max_clip_pixels:
            return height, width
        return bounded_size(frames, height, width, max_pixels=self._max_clip_pixels)

    def grey_clip(self, camera: str, size: tuple[int, int], fps: float, frames: int) -> Clip:
        """Return a clip of the shape that images of ``size`` (height, width) will give: to prepare for it."""
        size = self._clip_size(frames, *self._kept_size(*size))
        stamps = np.round(np.arange(frames) * (1e9 / fps)).astype(np.int64)
        return Clip(camera, np.full((frames, *size, 3), 128, np.uint8), stamps)

    def _clear(self, *, clock: bool) -> None:
        for ring in self._rings.values():
            ring.frames.clear()
        if clock:
            self.counts.clock_resets += 1

    def clear(self) -> None:
        """Forget every frame."""
        with self._lock:
            self._clear(clock=False)


def scale_frame(frame: Frame, size: tuple[int, int], *, copy: bool = True) -> Frame:
    """Return ``frame`` scaled to (height, width); area averaging downwards, cubic upwards.

    :param copy: Copy also when the size already fits.
    """
    if frame.shape[:2] == size:
        return np.array(frame, order='C') if copy else frame
    cv2 = require('cv2', 'record')
    smaller = size[0] * size[1] < frame.shape[0] * frame.shape[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    scaled = cv2.resize(np.ascontiguousarray(frame), (size[1], size[0]), interpolation=method)
    return np.asarray(scaled, dtype=np.uint8)
