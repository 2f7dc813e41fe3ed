"""Draw an episode: what each camera shows, at the size that is stored, and the facts of each frame."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..sim.configuration import CAMERA_SLOTS
from ..sim.randomization import Randomizer
from ..sim.renderer import Renderer
from ..sim.world import World
from .dataset_videos import scale_down
from .episode_anomaly import AnomalyScript
from .episode_facts import FactFinder, picture_states
from .episode_plan import EpisodePlan
from .episode_trace import EpisodeTrace
from .scene_facts import FrameFacts


@dataclass(frozen=True, slots=True, eq=False)
class DrawnFrame:
    """One frame as it is stored.

    :param pictures: Camera slot to uint8 (H, W, 3) RGB.
    :param facts: None where none were asked for.
    """

    pictures: dict[str, NDArray[np.uint8]]
    facts: FrameFacts | None


class EpisodePainter:
    """Draws episodes of one world.

    Pictures are drawn at the cameras' own size and scaled down as ``generator.composed_view`` would scale
    them, so that the policy is trained on what it will be shown.

    :param width: Of the stored pictures, pixels.
    :param facts: Whether to find out what each frame shows.
    """

    def __init__(self, world: World, width: int, *, facts: bool = True) -> None:
        config = world.config
        self._scene = world.scene
        self._width, self._facts = width, facts
        self._randomizer = Randomizer(world.scene, config)
        self._renderer = Renderer(
            world.scene, config.image_width, config.image_height, CAMERA_SLOTS,
            sizes={slot: config.picture_size(slot) for slot in CAMERA_SLOTS}, shadows=config.shadows)

    def draw(self, plan: EpisodePlan, trace: EpisodeTrace) -> Iterator[DrawnFrame]:
        """Yield the frames in order."""
        self._randomizer.apply(plan.world_seed)
        script = AnomalyScript(plan, trace, self._scene.cube_qpos)
        finder = FactFinder(self._scene, trace)
        kept: tuple[NDArray[np.uint8], NDArray[np.int32]] | None = None
        for number, frame in enumerate(trace.frames):
            wrong = script.at(number)
            qpos = script.shown_qpos(number, frame.qpos)
            labels: dict[str, NDArray[np.int32]] = {}
            if self._facts:
                pictures, labels = self._renderer.render_labelled(qpos, frame.zone_xy)
            else:
                pictures = self._renderer.render(qpos, frame.zone_xy)
            pictures = {slot: scale_down(picture, self._width) for slot, picture in pictures.items()}
            if wrong.camera:
                nothing = np.empty((0, 0), np.int32)
                kept = kept or (pictures[wrong.camera], labels.get(wrong.camera, nothing))
                if wrong.kind == 'frozen':
                    pictures[wrong.camera], labels[wrong.camera] = kept
                pictures[wrong.camera] = script.spoil(number, pictures[wrong.camera])
                if wrong.kind == 'black':
                    labels[wrong.camera] = nothing
            if not self._facts:
                yield DrawnFrame(pictures, None)
                continue
            shown = {
                colour: qpos[start:start + 3].copy() for colour, start in self._scene.cube_qpos.items()}
            yield DrawnFrame(pictures, finder.find(number, labels, wrong, shown, picture_states(wrong)))

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()
