"""Crops of a clip's pictures, and of the boxes in its report: so that boxes cannot be learnt by heart.

From 600 episodes, whose cubes mostly lie still, 4200 steps taught a reasoner the boxes of each scene (89 % of
the second digits right in training, 52 % in new scenes). Cropped anew each time, they have to be looked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
import json
from typing import Any

import numpy as np

from ..model.device_transfer import send
from ..resources import require
from .settings import TrainingError

torch = require('torch', 'model')

_WHOLE_SHARE = 0.2
_LEAST_SEEN = 0.3
"""Objects of which less is left are not named any more."""


@dataclass(frozen=True, slots=True)
class Crop:
    """A window of a picture, in shares of its width and height.

    :param left: 0..1, of the width.
    :param top: 0..1, of the height.
    :param size: 0..1, of both: the window has the picture's form.
    """

    left: float = 0.0
    top: float = 0.0
    size: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what reaches beyond the picture.

        :raises TrainingError: It does.
        """
        if not (0.0 < self.size <= 1.0 and min(self.left, self.top) >= 0.0
                and max(self.left, self.top) + self.size <= 1.0 + 1e-9):
            raise TrainingError(
                f'crop: left {self.left:g}, top {self.top:g}, size {self.size:g} arrived; a window inside '
                'the picture, 0 to 1, is allowed')


def draw_crop(smallest: float, rng: np.random.Generator) -> Crop:
    """Draw a window; one in five is the whole picture, as perception shows it.

    :param smallest: Least size, 0..1.
    """
    if rng.random() < _WHOLE_SHARE:
        return Crop()
    size = float(rng.uniform(smallest, 1.0))
    left, top = rng.uniform(0.0, 1.0 - size, 2)
    return Crop(float(left), float(top), size)


def crop_report(text: str, crop: Crop) -> str:
    """Return a report about the cropped picture, JSON as :func:`scene_facts_report.report_json` writes it.

    Boxes of other cameras than the first stay as they are.
    """
    report = json.loads(text)
    report['objects'] = [
        *crop_objects([thing for thing in report['objects'] if 'camera' not in thing], crop),
        *(thing for thing in report['objects'] if 'camera' in thing)]
    return json.dumps(report)


def crop_objects(things: Sequence[dict[str, Any]], crop: Crop) -> list[dict[str, Any]]:
    """Return what a window leaves of things, their boxes (``bbox_2d``) in the window's own scale."""
    return [moved for thing in things if (moved := _crop_object(thing, crop)) is not None]


def crop_frames(frames: Any, crops: Sequence[Crop]) -> Any:
    """Return windows of clips at the clips' own size, float32 of the same shape, 0..255.

    :param frames: uint8 (clips, T, H, W, 3).
    :param crops: One per clip.
    :raises TrainingError: Not as many windows as clips.
    """
    clips, count, height, width = frames.shape[:4]
    if len(crops) != clips:
        raise TrainingError(f'crops: {len(crops)} windows for {clips} clips arrived, one each is needed')
    windows = send(torch.tensor([[c.left, c.top, c.size] for c in crops]), frames.device)
    # grid_sample without aligned corners: -1 and 1 are the picture's edges.
    across = (torch.arange(width, device=frames.device) + 0.5) / width
    down = (torch.arange(height, device=frames.device) + 0.5) / height
    x = 2.0 * (windows[:, :1] + windows[:, 2:] * across) - 1.0
    y = 2.0 * (windows[:, 1:2] + windows[:, 2:] * down) - 1.0
    grid = torch.stack([
        x[:, None, :].expand(clips, height, width), y[:, :, None].expand(clips, height, width)], dim=-1)
    planes = frames.permute(0, 1, 4, 2, 3).flatten(1, 2).float()
    with torch.autocast(frames.device.type, enabled=False):
        sampled = torch.nn.functional.grid_sample(
            planes, grid, mode='bilinear', padding_mode='border', align_corners=False)
    return sampled.unflatten(1, (count, 3)).permute(0, 1, 3, 4, 2)


def _crop_object(thing: dict[str, Any], crop: Crop) -> dict[str, Any] | None:
    box = np.array(thing['bbox_2d'], dtype=np.float64)
    origin = 1000.0 * np.array([crop.left, crop.top] * 2)
    moved = ((box - origin) / crop.size).clip(0.0, 1000.0).round().astype(int)
    sides, whole = moved[2:] - moved[:2], (box[2:] - box[:2]) / crop.size
    if sides.min() < 1 or sides.prod() < _LEAST_SEEN * whole.prod():
        return None
    return {**thing, 'bbox_2d': moved.tolist()}
