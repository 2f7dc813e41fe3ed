"""Training windows as the generator sees them: latents of 33 frames (or of the first alone), and rows 0..32.

The VAE is causal, so the latents of a window depend on its first frame: every window is encoded by
itself, once, before training, and kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..generator.composed_view import View
from ..generator.droid_joint import ROWS
from ..model.picture_encoder import BYTE_VALUES
from ..resources import require
from .device_frames import DeviceFrames
from .recording import Recording

torch = require('torch', 'model')

FRAMES_PER_LATENT = 4
ENCODE_BATCH_PIXELS = 33 * 64 * 144 * 160
"""Frames x height x width that are encoded together: 64 windows of the tiny view."""


_TENSORS = ('latents', 'rows', 'past', 'unknown', 'unseen')


@dataclass(frozen=True, slots=True, eq=False)
class LatentWindows:
    """Encoded windows of one recording.

    :param latents: (N, 48, 9, h, w) float16, normalised per channel; (N, 48, 1, h, w) without the future.
    :param rows: float32 (N, 33, 8).
    :param past: bool (N, 33), rows past the demonstration's end.
    :param unknown: bool (N, 33), those of them that nobody demonstrated: the arm was led astray.
    :param unseen: bool (N, 9), latents with pictures of such a time; (N, 1) without the future.
    :param text_index: int64 (N,), index into ``texts``.
    """

    latents: Any
    rows: Any
    past: Any
    unknown: Any
    unseen: Any
    text_index: NDArray[np.int64]
    texts: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.rows)

    def save(self, path: Path) -> None:
        """Write the windows; the file appears only once it is complete."""
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix('.part')
        torch.save({
            **{name: getattr(self, name).cpu() for name in _TENSORS},
            'text_index': torch.from_numpy(self.text_index), 'texts': list(self.texts)}, scratch)
        scratch.replace(path)

    @classmethod
    def load(cls, path: Path, keep: Any) -> 'LatentWindows':
        """Read what :meth:`save` wrote.

        :param keep: Device on which latents and rows stay.
        """
        held = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
        return cls(
            text_index=held['text_index'].numpy().copy(), texts=tuple(held['texts']),
            **{name: held[name].to(keep) for name in _TENSORS})


class ClipEncoder:
    """Pictures to latents, whole clips at a time.

    :param vae: ``diffusers.AutoencoderKLWan``.
    :param view: Of the pictures.
    :param device: Where to encode.
    """

    def __init__(self, vae: Any, view: View, device: Any) -> None:
        self._vae, self._view, self._device = vae, view, torch.device(device)
        rest = (view.canvas_height - view.height, view.canvas_width - view.width)
        mirror = rest[0] < view.height and rest[1] < view.width
        self._places = [
            torch.from_numpy(np.pad(
                np.arange(size), (0, more), mode='reflect' if mirror else 'edge')).to(self._device)
            for size, more in zip((view.height, view.width), rest, strict=True)]
        self._values = torch.from_numpy(BYTE_VALUES).to(self._device)
        shape = (1, -1, 1, 1, 1)
        self._mean = torch.tensor(vae.config.latents_mean, device=self._device).view(shape)
        self._std = torch.tensor(vae.config.latents_std, device=self._device).view(shape)

    def canvas(self, clips: Any) -> Any:
        """Return the VAE's input, float32 (N, 3, T, canvas height, canvas width), -1..1.

        :param clips: uint8 (N, T, H, W, 3), a tensor on the device.
        """
        placed = clips.index_select(2, self._places[0]).index_select(3, self._places[1])
        return self._values[placed.permute(0, 4, 1, 2, 3).int()]

    def distribution(self, clips: Any, looks: Any = None) -> Any:
        """Return the VAE's posterior of clips, unnormalised.

        :param looks: See :func:`change_look`; None leaves the pictures alone.
        """
        canvas = self.canvas(clips)
        if looks is not None:
            canvas = change_look(canvas, looks)
        return self._vae.encode(canvas.to(self._vae.dtype)).latent_dist

    def encode(self, clips: Any, looks: Any = None) -> Any:
        """Return normalised float32 latents (N, 48, 1 + (T - 1) / 4, h, w) of uint8 clips."""
        with torch.no_grad():
            raw = self.distribution(clips, looks).mode().float()
        return ((raw - self._mean) / self._std)[
            ..., :self._view.latent_height, :self._view.latent_width].contiguous()


def luminance(pictures: Any) -> Any:
    """Return the luminance of pictures (N, 3, ...) as (N, 1, ...), ITU-R BT.601."""
    red, green, blue = (pictures[:, i:i + 1] for i in range(3))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def change_look(canvas: Any, looks: Any) -> Any:
    """Return pictures (N, 3, ...) in -1..1 with another brightness, contrast and saturation, clipped.

    Brightness scales all values, contrast their distance from the clip's mean, saturation that from a
    pixel's :func:`luminance`.

    :param looks: (N, 3), the three factors of each clip.
    """
    shape = (-1, *(1,) * (canvas.ndim - 1))
    brightness, contrast, saturation = (looks[:, i].view(shape) for i in range(3))
    values = (canvas + 1.0) * 0.5 * brightness
    mean = values.flatten(1).mean(dim=1).view(shape)
    values = mean + contrast * (values - mean)
    grey = luminance(values)
    values = grey + saturation * (values - grey)
    return values.clamp(0.0, 1.0) * 2.0 - 1.0


def draw_looks(count: int, jitter: float, seed: int) -> NDArray[np.float32]:
    """Return factors for :func:`change_look`, float32 (count, 3), uniform in 1 +- ``jitter``."""
    random = np.random.default_rng([0x100C, seed])
    return (1.0 + jitter * random.uniform(-1.0, 1.0, (count, 3))).astype(np.float32)


def encode_windows(
    recording: Recording, starts: NDArray[np.int64], encoder: ClipEncoder, view: View, device: Any,
    keep: Any, report: Callable[[int, int], None] | None = None, *, jitter: float = 0.0, seed: int = 0,
    frames: int = ROWS, alternatives: NDArray[np.int64] | None = None,
) -> LatentWindows:
    """Encode the windows that start at ``starts``, and after them those of some alternatives.

    :param alternatives: Their numbers; they have no frames but the first.
    :param keep: Device on which latents and rows stay.
    :param jitter: Each window gets a look of its own, see :func:`draw_looks`.
    :param report: Takes windows done and windows in all.
    :param frames: Of each window, from its start on.
    """
    rows, past = recording.action_rows(starts)
    text_index, texts = recording.text_index[starts], recording.texts
    # Row i is the command of frame i - 1; row 0, the state, is always known, as is frame 0.
    unknown = recording.unknown(starts, ROWS, -1)
    if alternatives is not None and recording.alternatives is not None:
        if frames != 1:
            raise ValueError(f'frames: {frames} arrived, 1 is allowed with alternatives')
        others = recording.alternatives
        begins = others.start[alternatives]
        starts = np.concatenate([starts, begins])
        rows = np.concatenate([rows, np.concatenate([
            recording.state[begins][:, None], others.action[alternatives]], axis=1)])
        nothing = np.zeros((len(alternatives), ROWS), bool)
        past, unknown = np.concatenate([past, nothing]), np.concatenate([unknown, nothing])
        text_index = np.concatenate([text_index, len(texts) + others.text_index[alternatives]])
        texts = texts + others.texts
    shown, pictures = recording.frame_rows(starts, frames), DeviceFrames(recording.pictures, device)
    pixels = frames * view.canvas_height * view.canvas_width
    size = max(1, ENCODE_BATCH_PIXELS // pixels)
    looks = torch.from_numpy(draw_looks(len(starts), jitter, seed)).to(device) if jitter > 0.0 else None
    found = []
    for first in range(0, len(starts), size):
        part = shown[first:first + size]
        look = None if looks is None else looks[first:first + size]
        found.append(encoder.encode(pictures.take(part), look).half().to(keep))
        if report is not None:
            report(min(first + size, len(starts)), len(starts))
    later = recording.unknown(starts, frames - 1, 1).reshape(
        len(starts), (frames - 1) // FRAMES_PER_LATENT, FRAMES_PER_LATENT)
    unseen = np.concatenate([np.zeros((len(starts), 1), bool), later.any(axis=2)], axis=1)
    return LatentWindows(
        latents=torch.cat(found), text_index=text_index, texts=texts,
        **{name: torch.from_numpy(array).to(keep) for name, array in {
            'rows': rows, 'past': past, 'unknown': unknown, 'unseen': unseen}.items()})
