"""How right a reasoner's answers are, against what is true, beside answers that need no eyes."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
import json
from typing import Any

import numpy as np

from ..reasoner.json_scan import NoJsonError, first_json
from ..reasoner.scene_answer import SCENE_KEYS, read_scene
from ..reasoner.short_answer import read_short

Box = tuple[float, float, float, float]
IMAGE = {'first': (1000, 1000)}
"""Boxes are compared as fractions: the size of the picture does not matter."""


def intersection_over_union(one: Box, other: Box) -> float:
    """Return the overlap of two boxes (x1, y1, x2, y2), 0 to 1."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (areas - shared) if areas > shared else 0.0


@dataclass(frozen=True, slots=True)
class FactAnswer:
    """A yes/no question, what is true and what was answered.

    :param answered: None if it was neither yes nor no.
    """

    dimension: str
    key: str
    truth: bool
    answered: bool | None


def read_yes_no(text: str) -> bool | None:
    """Return what an answer to a yes/no question says."""
    value: bool | None = read_short('yes_no', text, IMAGE).value
    return value


def scene_metrics(answers: Sequence[str], truths: Sequence[str]) -> dict[str, Any]:
    """Return parse rates, box IoU, label accuracy, task state and plausibility accuracy.

    ``json`` is the share with a complete JSON object, ``parsed`` that of answers in which nothing is amiss (a
    box whose corners are the wrong way round is).
    A true object counts with the IoU of the answered box of the same label, 0 if there is none. Labels are
    right as far as the answered list of labels is the true one (Jaccard index of multisets, per report).
    """
    overlaps: list[float] = []
    labels: list[float] = []
    right: dict[str, list[bool]] = defaultdict(list)
    parsed, complete = 0, 0
    for text, truth in zip(answers, truths, strict=True):
        wanted = json.loads(truth)
        answer = read_scene(text, IMAGE)
        parsed += answer.parsed
        complete += _has_json(text)
        found: dict[str, list[Box]] = defaultdict(list)
        for thing in answer.objects:
            if thing.camera == 'first':
                found[thing.label].append(thing.box_normalized)
        for entry in wanted['objects']:
            if 'camera' not in entry:
                x1, y1, x2, y2 = (value / 1000.0 for value in entry['bbox_2d'])
                overlaps.append(max(
                    (intersection_over_union(box, (x1, y1, x2, y2)) for box in found[entry['label']]),
                    default=0.0))
        mine, theirs = Counter(t.label for t in answer.objects), Counter(
            e['label'] for e in wanted['objects'])
        labels.append(sum((mine & theirs).values()) / max(1, sum((mine | theirs).values())))
        right['task_state'].append(answer.task_state.name.lower() == wanted['task_state'])
        right['plausibility'].append(answer.plausibility.name.lower() == wanted['plausibility'])
    majority = {
        key: Counter(json.loads(t)[key] for t in truths).most_common(1)[0][1] / len(truths) for key in right}
    return {
        'reports': len(truths), 'json': complete / len(truths), 'parsed': parsed / len(truths),
        'box_iou': float(np.mean(overlaps)) if overlaps else float('nan'),
        'label_accuracy': float(np.mean(labels)),
        **{f'{key}_accuracy': float(np.mean(values)) for key, values in right.items()},
        **{f'{key}_majority': share for key, share in majority.items()}}


def _has_json(text: str) -> bool:
    try:
        first_json(text, dict, SCENE_KEYS)
    except NoJsonError:
        return False
    return True


def fact_metrics(answers: Sequence[FactAnswer], known: Sequence[FactAnswer]) -> dict[str, Any]:
    """Return accuracy per dimension and of the majority answer to the same question.

    :param known: Questions with their truths that the majority is taken from (training data); only ``key``
        and ``truth`` are read.
    """
    votes: dict[str, Counter[bool]] = defaultdict(Counter)
    for entry in known:
        votes[entry.key][entry.truth] += 1
    result: dict[str, Any] = {}
    for dimension in dict.fromkeys(a.dimension for a in answers):
        mine = [a for a in answers if a.dimension == dimension]
        guessed = [bool(votes[a.key] and votes[a.key].most_common(1)[0][0]) == a.truth for a in mine]
        result[dimension] = {
            'questions': len(mine), 'accuracy': float(np.mean([a.answered is a.truth for a in mine])),
            'majority': float(np.mean(guessed)), 'yes_share': float(np.mean([a.truth for a in mine]))}
    return result
