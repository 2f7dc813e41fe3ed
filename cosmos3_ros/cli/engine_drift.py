"""Feed two precisions the same moments of an episode; see :mod:`engine.drift`."""

from pathlib import Path

from ..engine.dimensions import Shapes
from ..engine.drift import Box, DriftReport, compare_moment
from ..engine.precision import find_precision
from ..engine.towers import TorchTowers
from ..model.checkpoint import Checkpoint
from ..model.loading import load_tokenizer
from ..reasoner.scene_answer import read_scene
from .engine_moments import Actor, Moment, Prepared, Scene, observe, read_moments, shapes_of


def compare_on_data(a: str, b: str, checkpoint: Checkpoint, data: Path, moments: int) -> DriftReport:
    """Compare precisions ``a`` and ``b`` on moments spread over an episode.

    FP8 is calibrated on as many other moments of the same episode.

    :param data: A LeRobot v3 dataset in the layout of DROID.
    :raises CommandError: No usable video.
    """
    found, missing = read_moments(data, 2 * moments)
    notes = [f'weights are random: {checkpoint.label}'] if not checkpoint.trained else []
    if missing:
        notes.append(f'grey pictures stand for the missing cameras {", ".join(missing)}')
    scene = Scene(checkpoint)
    compared, others = found[::2], found[1::2]
    prepared = [scene.prepare(moment) for moment in compared]
    calibration = [scene.prepare(moment) for moment in others]
    shapes = shapes_of(prepared[0])
    reference = _side(checkpoint, a, shapes, calibration)
    first_side = [reference.ask(one, None) for one in prepared]
    other = _side(checkpoint, b, shapes, calibration)
    second_side = [other.ask(one, first.asked) for one, first in zip(prepared, first_side, strict=True)]
    drifts = tuple(
        compare_moment(
            moment.time_s, (first.tokens, second.tokens),
            (_boxes(checkpoint, first.tokens, moment), _boxes(checkpoint, second.tokens, moment)),
            (first.rows, second.rows), list(zip(first.velocities, second.velocities, strict=True)))
        for moment, first, second in zip(compared, first_side, second_side, strict=True))
    return DriftReport(a, b, checkpoint.label, data.name, drifts, tuple(notes))


def _side(checkpoint: Checkpoint, name: str, shapes: Shapes, calibration: list[Prepared]) -> Actor:
    """Return the towers in one precision."""
    precision = find_precision(name)
    towers = TorchTowers(checkpoint.directory, shapes)
    amax = observe(towers, calibration) if precision.calibrated else {}
    towers.convert(precision, amax)
    return Actor(towers)


def _boxes(checkpoint: Checkpoint, tokens: list[int], moment: Moment) -> list[Box]:
    """Return the boxes that an answer names, in pixels."""
    text = load_tokenizer(checkpoint).decode(tokens, skip_special_tokens=True)
    scene = read_scene(text, {moment.clip.camera: moment.clip.size})
    return [thing.box_px for thing in scene.objects]
