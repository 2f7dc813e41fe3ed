"""A second lesson for the vision tower: where each thing is, asked of its features directly.

A report tells the vision tower where a cube is through the digits of its box, some tokens in two hundred,
read by a language model that has to learn reading at the same time. Here every feature of a picture is
asked whether it shows the middle of a thing, and the one that does for the thing's box. The head is used in
training only and is not kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..resources import require
from .scene_facts import OBJECT_LABELS

torch = require('torch', 'model')

_BOX_WEIGHT = 10.0
"""Of a box's mean absolute error (shares of a picture) beside the cross entropy of where it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Where things are in the pictures of a batch, L labels (:data:`scene_facts.OBJECT_LABELS`).

    :param cells: int64 (clips, L): the feature that a thing's middle lies in, row by row; the number of
        features for things that are not shown.
    :param boxes: float32 (clips, L, 4): x1, y1, x2, y2 as shares of the picture, 0 where not shown.
    """

    cells: Any
    boxes: Any

    @classmethod
    def of(cls, things: Sequence[Sequence[Mapping[str, Any]]], rows: int, columns: int) -> 'Targets':
        """Read what is where; of things of one label the first counts.

        :param things: Of each picture: ``label`` and ``bbox_2d``, 0 to 1000.
        :param rows: Features of a picture, top to bottom.
        :param columns: Likewise, left to right.
        """
        # Lists, not tensors: a batch has a thousand things.
        cells = [[rows * columns] * len(OBJECT_LABELS) for _ in things]
        boxes = [[[0.0] * 4 for _ in OBJECT_LABELS] for _ in things]
        for i, shown in enumerate(things):
            for thing in reversed(shown):
                if thing['label'] not in OBJECT_LABELS:
                    continue
                label = OBJECT_LABELS.index(thing['label'])
                x1, y1, x2, y2 = boxes[i][label] = [value / 1000.0 for value in thing['bbox_2d']]
                row = min(int((y1 + y2) / 2.0 * rows), rows - 1)
                cells[i][label] = row * columns + min(int((x1 + x2) / 2.0 * columns), columns - 1)
        return cls(torch.tensor(cells), torch.tensor(boxes))


class GroundingHead(torch.nn.Module):  # type: ignore[misc, name-defined]
    """See the module.

    :param width: Of a feature.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(width)
        self.answer = torch.nn.Linear(width, len(OBJECT_LABELS) * 5)
        self.absent = torch.nn.Parameter(torch.zeros(len(OBJECT_LABELS)))

    def forward(self, features: Any, targets: Targets) -> dict[str, Any]:
        """Return ``grounding_loss``, and how many of the things shown are found, with which overlap.

        :param features: (clips, features, width).
        """
        clips, count, _ = features.shape
        # bfloat16 tells shares near 1 apart by 0.004, a pixel.
        with torch.autocast(features.device.type, enabled=False):
            answers = self.answer(self.norm(features.float()))
        answers = answers.view(clips, count, len(OBJECT_LABELS), 5)
        absent = self.absent.expand(clips, 1, -1)
        scores = torch.cat([answers[..., 0], absent], dim=1).transpose(1, 2)
        place = torch.nn.functional.cross_entropy(scores.flatten(0, 1), targets.cells.flatten())
        shown = (targets.cells < count).float()
        number = shown.sum().clamp(min=1.0)

        def boxes_at(cells: Any) -> Any:
            chosen = cells.clamp(max=count - 1)[:, None, :, None].expand(-1, 1, -1, 4)
            return answers[..., 1:].gather(1, chosen)[:, 0]

        error = (boxes_at(targets.cells) - targets.boxes).abs().mean(dim=-1)
        loss = place + _BOX_WEIGHT * (error * shown).sum() / number
        with torch.no_grad():
            best = scores.argmax(dim=-1)
            overlap = overlaps(boxes_at(best), targets.boxes) * (best < count)
        return {
            'grounding_loss': loss, 'grounding_found': ((best == targets.cells) * shown).sum() / number,
            'grounding_iou': (overlap * shown).sum() / number}


def overlaps(one: Any, other: Any) -> Any:
    """Return the intersection over union of boxes, (..., 4) each; 0 where either is empty."""
    low, high = torch.maximum(one[..., :2], other[..., :2]), torch.minimum(one[..., 2:], other[..., 2:])
    shared = (high - low).clamp(min=0.0).prod(dim=-1)
    areas = sum((box[..., 2:] - box[..., :2]).clamp(min=0.0).prod(dim=-1) for box in (one, other))
    return shared / (areas - shared).clamp(min=1e-9)
