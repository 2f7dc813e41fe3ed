"""How two precisions of the same towers differ on real frames: words, boxes, joints, velocities."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
import html
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Box = tuple[float, float, float, float]

_STYLE = (
    'body{font:15px sans-serif;margin:2em;max-width:70em}table{border-collapse:collapse}'
    'td,th{border:1px solid #bbb;padding:.3em .6em;text-align:right}th{background:#eee}')


@dataclass(frozen=True, slots=True)
class MomentDrift:
    """Differences at one moment of the data.

    :param time_s: Since the episode began.
    :param token_agreement: Share of answer tokens that agree, place by place.
    :param box_iou: Mean overlap of the boxes in both answers; None if neither answer has boxes.
    :param joint_max_rad: Largest difference per joint over the chunk; ``joint_rms_rad`` alike.
    :param gripper_flips: Rows where one closes and the other opens.
    :param velocity_cosine: Per denoising step, on the same input.
    """

    time_s: float
    token_agreement: float
    box_iou: float | None
    joint_max_rad: tuple[float, ...]
    joint_rms_rad: tuple[float, ...]
    gripper_flips: int
    velocity_cosine: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class DriftReport:
    """A comparison of ``a`` (the reference) with ``b``.

    :param notes: What a reader must know, e.g. that the weights are random.
    """

    a: str
    b: str
    checkpoint: str
    data: str
    moments: tuple[MomentDrift, ...]
    notes: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Return the worst of every measure."""
        overlaps = [m.box_iou for m in self.moments if m.box_iou is not None]
        return {
            'a': self.a, 'b': self.b, 'checkpoint': self.checkpoint, 'moments': len(self.moments),
            'token_agreement_min': min(m.token_agreement for m in self.moments),
            'box_iou_min': min(overlaps, default=None),
            'joint_max_rad': max(max(m.joint_max_rad) for m in self.moments),
            'gripper_flips': sum(m.gripper_flips for m in self.moments),
            'velocity_cosine_min': min(min(m.velocity_cosine) for m in self.moments)}

    def write(self, directory: Path) -> None:
        """Write ``drift.json`` and ``drift.html``."""
        directory.mkdir(parents=True, exist_ok=True)
        content = {**asdict(self), 'summary': self.summary()}
        (directory / 'drift.json').write_text(
            json.dumps(content, indent=2, sort_keys=True) + '\n', encoding='utf-8')
        (directory / 'drift.html').write_text(self._html(), encoding='utf-8')

    def _html(self) -> str:
        title = html.escape(f'{self.b} against {self.a}')
        heads = ('time s', 'tokens agree', 'box IoU', 'joint max rad', 'joint RMS rad', 'gripper flips',
                 'velocity cosine per step')
        rows = ''.join(
            '<tr>' + ''.join(f'<td>{html.escape(cell)}</td>' for cell in _cells(m)) + '</tr>'
            for m in self.moments)
        notes = ''.join(f'<li>{html.escape(note)}</li>' for note in self.notes)
        summary = ''.join(
            f'<tr><th>{html.escape(k)}</th><td>{html.escape(str(v))}</td></tr>'
            for k, v in self.summary().items())
        head = ''.join(f'<th>{name}</th>' for name in heads)
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f'<style>{_STYLE}</style></head><body><h1>{title}</h1><p>{html.escape(self.checkpoint)} on '
            f'{html.escape(self.data)}</p><ul>{notes}</ul><table>{summary}</table>'
            f'<h2>Moments</h2><table><tr>{head}</tr>{rows}</table></body></html>\n')


def token_agreement(a: Sequence[int], b: Sequence[int]) -> float:
    """Return the share of places at which two answers have the same token; 1 for two empty ones."""
    longest = max(len(a), len(b))
    return sum(x == y for x, y in zip(a, b, strict=False)) / longest if longest else 1.0


def box_overlap(a: Sequence[Box], b: Sequence[Box]) -> float | None:
    """Return the mean overlap of boxes paired best first; what has no partner counts zero.

    :param a: Boxes (left, top, right, bottom).
    :return: None if both are empty.
    """
    if not a and not b:
        return None
    pairs = sorted(
        ((_iou(x, y), i, j) for i, x in enumerate(a) for j, y in enumerate(b)), reverse=True)
    used_a: set[int] = set()
    used_b: set[int] = set()
    total = 0.0
    for overlap, i, j in pairs:
        if i not in used_a and j not in used_b:
            used_a.add(i)
            used_b.add(j)
            total += overlap
    return total / max(len(a), len(b))


def compare_moment(
    time_s: float, tokens: tuple[Sequence[int], Sequence[int]], boxes: tuple[Sequence[Box], Sequence[Box]],
    rows: tuple[Array, Array], velocities: Sequence[tuple[Array, Array]],
) -> MomentDrift:
    """Return the differences of one moment.

    :param rows: Chunks (steps, joints + 1), radians, the gripper last.
    :param velocities: Per denoising step, the two velocities on the same input.
    """
    difference = np.abs(rows[0] - rows[1])[:, :-1]
    closed = [part[:, -1] > 0.5 for part in rows]
    return MomentDrift(
        time_s, token_agreement(*tokens), box_overlap(*boxes), tuple(map(float, difference.max(0))),
        tuple(map(float, np.sqrt((difference ** 2).mean(0)))), int((closed[0] != closed[1]).sum()),
        tuple(_cosine(a, b) for a, b in velocities))


def _iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - shared
    return shared / union if union > 0.0 else 0.0


def _cosine(a: Array, b: Array) -> float:
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.vdot(a, b)) / scale if scale > 0.0 else float('nan')


def _cells(moment: MomentDrift) -> tuple[str, ...]:
    def several(values: Sequence[float], digits: int) -> str:
        return ' '.join(f'{value:.{digits}f}' for value in values)

    overlap = '–' if moment.box_iou is None else f'{moment.box_iou:.3f}'
    return (
        f'{moment.time_s:.2f}', f'{moment.token_agreement:.3f}', overlap, several(moment.joint_max_rad, 5),
        several(moment.joint_rms_rad, 5), str(moment.gripper_flips), several(moment.velocity_cosine, 6))
