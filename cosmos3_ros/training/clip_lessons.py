"""Everything that one clip of a batch teaches the reasoner: how it is shown, what is where, what is asked.

A clip's pictures cost more than a question about them, so each clip is asked several: some for the whole
report, all for facts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
import json
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .clip_samples import NO, YES, Asked, ClipRecording, Examiner
from .objective import Batch
from .picture_crops import Crop, crop_objects, crop_report, draw_crop
from .scene_facts_questions import BESIDE, Dimension, question_kind
from .settings import ReasonerSettings

_STREAM = 2
_OTHER_CAMERAS = 0.25
"""Of the first camera's crop: facts speak of what a crop cuts off, and the other cameras show it."""


Things = Mapping[str, Sequence[Mapping[str, Any]]]
"""Camera slot to what is in a picture: label and ``bbox_2d``."""


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """One clip, as it is shown.

    :param crops: Windows of its pictures, one per camera.
    :param things: What is in its cameras' last pictures, as they are shown.
    :param asked: Questions with their answers; at least one.
    """

    dataset: int
    anchor: int
    crops: Mapping[str, Crop]
    things: Things
    asked: tuple[Asked, ...]

    @property
    def is_whole(self) -> bool:
        """Whether all pictures are shown whole."""
        return all(crop == Crop() for crop in self.crops.values())


class LessonPlan:
    """Draws lessons, functions of seed, step and part.

    :param recordings: One per dataset.
    """

    def __init__(
        self, recordings: Sequence[ClipRecording], examiner: Examiner, settings: ReasonerSettings, seed: int,
    ) -> None:
        self._recordings, self._examiner = tuple(recordings), examiner
        self._settings, self._seed = settings, seed
        self._known: dict[tuple[int, int], tuple[Asked, ...]] = {}
        shares = dict(zip(Dimension, settings.fact_shares, strict=True))
        self._shares = {dimension.value: share for dimension, share in shares.items() if share}

    def draw(
        self, batch: Batch, anchors: Sequence[NDArray[np.int64]], smallest_crop: float,
    ) -> list[Lesson]:
        """Return a batch's lessons.

        ``scene_share`` of them have a report; where that is no whole number it is rounded up or down, by
        chance. So nearly all steps have the same shapes: a clip that decides no fact has a report, too.

        :param anchors: Kept frames at which clips end, per dataset; a draw's sample is an index into them.
        :param smallest_crop: Of the first camera's pictures; 1 shows all.
        """
        share, lessons = self._settings.scene_share, []
        offset = float(np.random.default_rng([self._seed, _STREAM, batch.step, batch.part]).random())
        for i, (dataset, sample) in enumerate(batch.draws):
            rng = np.random.default_rng([self._seed, _STREAM, batch.step, batch.part, i])
            before, after = (int(np.floor(n * share + offset)) for n in (i, i + 1))
            lessons.append(self.lesson(
                dataset, int(anchors[dataset][sample]), rng, smallest_crop, reports=after > before))
        return lessons

    def lesson(
        self, dataset: int, anchor: int, rng: np.random.Generator, smallest_crop: float = 1.0, *,
        reports: bool = True,
    ) -> Lesson:
        """Return one clip's lesson; if it decides no fact it has a report in any case.

        :param reports: Whether the report is asked for.
        """
        recording, first = self._recordings[dataset], self._settings.cameras[0]
        crops = {slot: Crop() for slot in self._settings.cameras}
        if smallest_crop < 1.0:
            others = 1.0 - (1.0 - smallest_crop) * _OTHER_CAMERAS
            crops = {
                slot: draw_crop(smallest_crop if slot == first else others, rng) for slot in crops}
        things = {
            slot: crop_objects(listed, crops[slot])
            for slot, listed in json.loads(recording.things[anchor]).items()}
        asked = self._facts(dataset, anchor, rng, things)
        if reports or not asked:
            scene = self._examiner.scene(recording, anchor)
            asked.insert(0, scene if crops[first] == Crop() else replace(
                scene, answer=crop_report(scene.answer, crops[first])))
        return Lesson(dataset, anchor, crops, things, tuple(asked))

    def _facts(
        self, dataset: int, anchor: int, rng: np.random.Generator, things: Things,
    ) -> list[Asked]:
        """Draw facts, each once: first a dimension, then a kind, then yes or no, then one of those.

        Yes and no are balanced within a kind. Balanced over a dimension alone, two of three questions about
        left and right were to be answered by yes (few cubes are lifted or on the circle), and after 4678
        steps all of them were.
        """
        left: dict[str, dict[str, list[Asked]]] = {}
        for asked in self._decided(dataset, anchor):
            if is_decided(asked.key, asked.answer == YES, things):
                left.setdefault(asked.dimension, {}).setdefault(question_kind(asked.key), []).append(asked)
        drawn: list[Asked] = []
        # numpy draws single items ten times as slowly, which was half of a lesson's time.
        draw = Random(int(rng.integers(2**63)))
        while left and len(drawn) < self._settings.facts_per_clip:
            dimension, = draw.choices(tuple(left), [self._shares[name] for name in left])
            kinds = left[dimension]
            kind = draw.choice(tuple(kinds))
            listed, wanted = kinds[kind], YES if draw.random() < 0.5 else NO
            asked = draw.choice([a for a in listed if a.answer == wanted] or listed)
            drawn.append(asked)
            listed.remove(asked)
            if not listed:
                del kinds[kind]
            if not kinds:
                del left[dimension]
        return drawn

    def _decided(self, dataset: int, anchor: int) -> tuple[Asked, ...]:
        """Return the facts that a clip decides, of the dimensions that are asked for; read once."""
        clip = (dataset, anchor)
        if clip not in self._known:
            self._known[clip] = tuple(
                asked for asked in self._examiner.facts(self._recordings[dataset], anchor)
                if asked.dimension in self._shares)
        return self._known[clip]


def is_decided(key: str, answer: bool, things: Things) -> bool:
    """Whether what is left of cropped pictures decides a question as the whole ones did.

    Only questions about a camera's picture can change: which of two cubes is left, by the middles of boxes.

    :param key: Of the question, see :mod:`scene_facts_questions`.
    :param answer: To it, of the whole pictures.
    """
    if not key.startswith('left_'):
        return True
    slot = next((slot for slot in things if key.startswith(f'left_{slot}_')), None)
    if slot is None:
        return True
    middles = {thing['label']: (thing['bbox_2d'][0] + thing['bbox_2d'][2]) / 2000.0 for thing in things[slot]}
    first, second = (
        middles.get(f'{colour} cube') for colour in key.removeprefix(f'left_{slot}_').split('_'))
    if first is None or second is None:
        return False
    return bool((second - first if answer else first - second) > BESIDE)
