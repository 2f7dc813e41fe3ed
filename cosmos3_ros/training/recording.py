"""A dataset as a trainer holds it: every frame's composed view, state and action, as arrays."""

from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import NDArray

from ..generator.droid_joint import HORIZON, WIDTH
from .dataset_alternatives import Alternatives
from .settings import TrainingError


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """One dataset in the model's own terms, F frames, episode after episode.

    :param pictures: Shape (F, H, W, 3) uint8, the composed view.
    :param state: Shape (F, 8) float32: seven joints in radians and 1 - gripper, as the model's rows.
    :param action: Likewise, what was commanded for the next frame.
    :param ends: Shape (F,), the row after the demonstration that each frame belongs to.
    :param demonstration: Shape (F,), False where the action is not one to learn from.
    :param episode: Shape (F,), position of the episode, 0, 1, 2, ...
    :param text_index: Shape (F,), index into ``texts``.
    :param texts: Instructions.
    :param alternatives: What else could have been asked for; grippers as the model's rows.
    """

    name: str
    pictures: NDArray[np.uint8]
    state: NDArray[np.float32]
    action: NDArray[np.float32]
    ends: NDArray[np.int64]
    demonstration: NDArray[np.bool_]
    episode: NDArray[np.int64]
    text_index: NDArray[np.int64]
    texts: tuple[str, ...]
    alternatives: Alternatives | None = None

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        frames = len(self.pictures)
        shapes = {
            'state': (frames, WIDTH), 'action': (frames, WIDTH), 'ends': (frames,),
            'demonstration': (frames,), 'episode': (frames,), 'text_index': (frames,)}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise TrainingError(
                    f'{self.name}: {name} has the shape {getattr(self, name).shape}, {shape} is needed')
        if self.pictures.ndim != 4 or self.pictures.shape[3] != 3 or self.pictures.dtype != np.uint8:
            raise TrainingError(
                f'{self.name}: pictures are {self.pictures.dtype} {self.pictures.shape}, uint8 (F, H, W, 3) '
                'is needed')
        if not (np.isfinite(self.state).all() and np.isfinite(self.action).all()):
            raise TrainingError(f'{self.name}: states and actions must be finite')

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return int(self.episode[-1]) + 1 if len(self.episode) else 0

    @property
    def is_glances(self) -> bool:
        """Whether nothing is demonstrated, but things are asked for: see ``scene_glances``."""
        return self.alternatives is not None and not self.demonstration.any()

    def first_held_out(self, share: float) -> int:
        """Return the first episode that is not trained on: the last ``share`` of them, rounded up."""
        return self.episodes - math.ceil(share * self.episodes)

    def starts(self, share: float, stride: int = 1, *, held_out: bool = False) -> NDArray[np.int64]:
        """Return the frames at which windows start, of training or of held-out episodes.

        :param share: Of episodes held out.
        :param stride: Every how many frames of an episode.
        :raises TrainingError: There are none.
        """
        first = self.first_held_out(share)
        wanted = (self.episode >= first) if held_out else (self.episode < first)
        begins = np.searchsorted(self.episode, self.episode)  # where each frame's episode begins
        on_grid = (np.arange(len(self.episode)) - begins) % stride == 0
        found = np.flatnonzero(wanted & on_grid & self.demonstration)
        if not len(found):
            raise TrainingError(
                f'{self.name}: no {"held-out " if held_out else ""}window among {self.episodes} episodes; '
                'change data.held_out or window_stride')
        return found

    def chosen_alternatives(self, share: float, *, held_out: bool = False) -> NDArray[np.int64]:
        """Return the numbers of the alternatives in training or in held-out episodes.

        :param share: Of episodes held out.
        """
        if self.alternatives is None:
            return np.zeros(0, np.int64)
        late = self.episode[self.alternatives.start] >= self.first_held_out(share)
        return np.flatnonzero(late == held_out)

    def action_rows(self, starts: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return rows 0..32 of windows, float32 (N, 33, 8), and which are past the end, (N, 33).

        Row 0 is the state; row i is the command of frame i - 1, due at frame i. Past the demonstration's
        end the last command is repeated; :meth:`unknown` says where that is no demonstration of anything.
        """
        ahead = starts[:, None] + np.arange(HORIZON)
        past = ahead >= self.ends[starts][:, None]
        rows = np.minimum(ahead, self.ends[starts][:, None] - 1)
        values = np.concatenate([self.state[starts][:, None], self.action[rows]], axis=1)
        return values, np.concatenate([np.zeros((len(starts), 1), bool), past], axis=1)

    def unknown(self, starts: NDArray[np.int64], count: int, offset: int) -> NDArray[np.bool_]:
        """Return which frames of windows nobody knows, (N, count): past a demonstration that was cut short.

        Where the arm is led astray, what an expert would have done is not recorded. The end of an episode is
        different: there the arm has come to rest.

        :param offset: Of the first frame, after the window's start.
        """
        stops = np.searchsorted(self.episode, self.episode[starts], side='right')
        ahead = starts[:, None] + offset + np.arange(count)
        found: NDArray[np.bool_] = (ahead >= self.ends[starts][:, None]) & (
            self.ends[starts] < stops)[:, None]
        return found

    def frame_rows(self, starts: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """Return the frames of windows, (N, count); past the end the last one is repeated."""
        ahead = starts[:, None] + np.arange(count)
        rows: NDArray[np.int64] = np.minimum(ahead, self.ends[starts][:, None] - 1)
        return rows
