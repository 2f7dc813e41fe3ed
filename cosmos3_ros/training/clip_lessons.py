"""Everything that one clip of a batch teaches the reasoner: how it is shown, what is where, what is asked.

A clip's pictures cost more than a question about them, so each clip is asked several: some for the whole
report, all for facts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .clip_samples import Asked, ClipRecording, Examiner
from .objective import Batch
from .picture_crops import Crop, crop_objects, crop_report, draw_crop
from .scene_facts_questions import Dimension
from .settings import ReasonerSettings

_STREAM = 2
_OTHER_CAMERAS = 0.25
"""Of the first camera's crop: facts speak of what a crop cuts off, and the other cameras show it."""


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """One clip, as it is shown.

    :param crops: Windows of its pictures, one per camera.
    :param things: Camera slot to what is in its last picture, as it is shown: label and ``bbox_2d``.
    :param asked: Questions with their answers; at least one.
    """

    dataset: int
    anchor: int
    crops: Mapping[str, Crop]
    things: Mapping[str, Sequence[Mapping[str, Any]]]
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
        shares = dict(zip(Dimension, settings.fact_shares, strict=True))
        self._shares = {dimension.value: share for dimension, share in shares.items() if share}

    def draw(
        self, batch: Batch, anchors: Sequence[NDArray[np.int64]], smallest_crop: float,
    ) -> list[Lesson]:
        """Return a batch's lessons.

        As many of them have a report whatever is drawn: a compiled layer sees the same shapes in all steps.

        :param anchors: Kept frames at which clips end, per dataset; a draw's sample is an index into them.
        :param smallest_crop: Of the first camera's pictures; 1 shows all.
        """
        share, lessons = self._settings.scene_share, []
        for i, (dataset, sample) in enumerate(batch.draws):
            rng = np.random.default_rng([self._seed, _STREAM, batch.step, batch.part, i])
            reports = int(np.floor((i + 1) * share + 1e-9)) > int(np.floor(i * share + 1e-9))
            lessons.append(self.lesson(
                dataset, int(anchors[dataset][sample]), rng, smallest_crop, reports=reports))
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
        asked = self._facts(recording, anchor, rng, {thing['label'] for thing in things[first]})
        if reports or not asked:
            scene = self._examiner.scene(recording, anchor)
            asked.insert(0, scene if crops[first] == Crop() else replace(
                scene, answer=crop_report(scene.answer, crops[first])))
        return Lesson(dataset, anchor, crops, things, tuple(asked))

    def _facts(
        self, recording: ClipRecording, anchor: int, rng: np.random.Generator, shown: set[str],
    ) -> list[Asked]:
        """Draw facts: first a dimension, then yes or no, then one of those."""
        listed = [
            entry for entry in json.loads(recording.statements[anchor])
            if entry[1] in self._shares and is_decided(entry[0], self._settings.cameras[0], shown)]
        names = [name for name in self._shares if any(entry[1] == name for entry in listed)]
        if not names:
            return []
        shares = np.array([self._shares[name] for name in names])
        drawn = rng.choice(len(names), size=self._settings.facts_per_clip, p=shares / shares.sum())
        return [
            self._examiner.choose_fact([entry for entry in listed if entry[1] == names[int(number)]], rng)
            for number in drawn]


def is_decided(key: str, camera: str, shown: set[str]) -> bool:
    """Whether a question that names a camera's picture is still decided by what is left of it.

    :param key: Of the question, see :mod:`scene_facts_questions`.
    :param camera: The one whose pictures are cropped.
    :param shown: Labels of what its last picture still shows.
    """
    prefix = f'left_{camera}_'
    if not key.startswith(prefix):
        return True
    return {f'{colour} cube' for colour in key.removeprefix(prefix).split('_')} <= shown
