"""Show an episode wrongly on purpose: cubes where they cannot be, cameras that are broken."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..sim.configuration import CAMERA_SLOTS
from .episode_plan import CUBE_ANOMALIES, Anomaly, EpisodePlan
from .episode_trace import EpisodeTrace

_UNDER_THE_FLOOR_M = -5.0
_NOISE_LEVEL = 45.0


@dataclass(frozen=True, slots=True)
class Wrongness:
    """What is wrong in one frame.

    :param cube: Colour of the cube that is drawn wrongly, or empty.
    :param camera: Camera that is broken, or empty.
    :param kind: As in ``Anomaly``; empty if nothing is wrong.
    :param jumped: The cube is drawn elsewhere than in the frame before.
    """

    kind: str = ''
    cube: str = ''
    camera: str = ''
    jumped: bool = False


class AnomalyScript:
    """Says for each frame of an episode what is shown wrongly.

    :param cube_qpos: Colour to the first index of that cube in ``qpos``.
    """

    def __init__(self, plan: EpisodePlan, trace: EpisodeTrace, cube_qpos: dict[str, int]) -> None:
        self._anomaly = _settle(plan, trace)
        self._cube_qpos = cube_qpos
        self._seed = plan.noise_seed
        count = len(trace.frames)
        self._first = self._last = -1
        if self._anomaly is not None:
            self._first = int(self._anomaly.first * count)
            self._last = min(self._first + self._anomaly.length, count)

    @property
    def anomaly(self) -> Anomaly | None:
        """What really happens, which may concern another cube than was planned."""
        return self._anomaly

    def at(self, frame: int) -> Wrongness:
        """Return what is wrong in a frame."""
        anomaly = self._anomaly
        if anomaly is None:
            return Wrongness()
        inside = self._first <= frame < self._last
        if anomaly.kind in CUBE_ANOMALIES:
            jumped = anomaly.kind == 'jumps' and frame in (self._first, self._last)
            if inside or jumped:
                return Wrongness(anomaly.kind if inside else '', anomaly.subject, '', jumped)
            return Wrongness()
        return Wrongness(anomaly.kind, '', anomaly.subject) if inside else Wrongness()

    def shown_qpos(self, frame: int, qpos: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the state to draw."""
        anomaly, wrong = self._anomaly, self.at(frame)
        if anomaly is None or wrong.kind not in CUBE_ANOMALIES:
            return qpos
        shown = qpos.copy()
        start = self._cube_qpos[wrong.cube]
        if wrong.kind == 'vanishes':
            shown[start + 2] = _UNDER_THE_FLOOR_M
        else:
            shown[start:start + 3] += anomaly.shift_m
        return shown

    def spoil(self, frame: int, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the picture as a noisy or dead camera would give it (freezing is the caller's)."""
        kind = self.at(frame).kind
        if kind == 'black':
            return np.zeros_like(picture)
        if kind == 'noise':
            rng = np.random.default_rng([self._seed, frame])
            noisy = picture + rng.normal(0.0, _NOISE_LEVEL, picture.shape)
            return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
        return picture


def _settle(plan: EpisodePlan, trace: EpisodeTrace) -> Anomaly | None:
    """Return the anomaly with a subject that leaves the task's own cube alone.

    Whether the task is done is judged from the physics; the pictures must show the same.
    """
    anomaly = plan.anomaly
    if anomaly is None or anomaly.kind not in CUBE_ANOMALIES or anomaly.subject != trace.goal.colour:
        return anomaly
    others = [colour for colour in plan.cubes if colour != trace.goal.colour]
    if others:
        return replace(anomaly, subject=others[plan.noise_seed % len(others)])
    return replace(anomaly, kind='noise', subject=CAMERA_SLOTS[plan.noise_seed % len(CAMERA_SLOTS)])
