"""When what of an episode is due: joint states between the recorded samples, images at their stamps."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from .lerobot_episode import Episode

Array = NDArray[np.float64]
Kind = Literal['joints', 'image']


@dataclass(frozen=True, slots=True)
class Due:
    """One thing to publish.

    :param time_s: Seconds from the episode's first frame.
    :param index: Frame of the episode for an image.
    """

    time_s: float
    kind: Kind
    index: int


class JointTrack:
    """Joint states of an episode at any time.

    Episodes hold positions at the camera rate (15 Hz for DROID), a controller wants them at 100 Hz and with
    velocities. The natural cubic spline through the recorded positions gives both: it passes through every
    recorded sample exactly, and its derivative is the velocity. The gripper is interpolated linearly.

    :param episode: The recording.
    """

    def __init__(self, episode: Episode) -> None:
        self._stamps = episode.stamps_s
        self._spline = CubicSpline(episode.stamps_s, episode.joint_position, axis=0, bc_type='natural')
        self._speed = self._spline.derivative()
        self._gripper = episode.gripper

    def at(self, time_s: float) -> tuple[Array, Array, float]:
        """Return position (N,), velocity (N,) and gripper; before and after the episode the arm stands."""
        inside = float(np.clip(time_s, self._stamps[0], self._stamps[-1]))
        position = np.asarray(self._spline(inside))
        moving = self._stamps[0] < time_s < self._stamps[-1]
        velocity = np.asarray(self._speed(inside)) if moving else np.zeros_like(position)
        return position, velocity, float(np.interp(inside, self._stamps, self._gripper))


def schedule(episode: Episode, joint_rate_hz: float, lead_s: float) -> Iterator[Due]:
    """Yield what is due in order of time; joint states come before an image of the same instant.

    :param joint_rate_hz: Rate of joint states; 0 publishes the recorded samples only.
    :param lead_s: Joint states of the first pose begin this much before the first image.
    """
    end_s = episode.duration_s
    if joint_rate_hz > 0.0:
        joint_times = np.arange(-lead_s, end_s + 0.5 / joint_rate_hz, 1.0 / joint_rate_hz)
    else:
        joint_times = np.concatenate([
            np.arange(-lead_s, -1e-9, 1.0 / episode.fps), episode.stamps_s])
    events = [Due(float(t), 'joints', -1) for t in joint_times]
    events += [Due(float(t), 'image', i) for i, t in enumerate(episode.stamps_s)]
    yield from sorted(events, key=lambda due: (due.time_s, due.kind == 'image'))
