"""Moments of an episode, as the towers take them: for comparing precisions and for calibration."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..contracts import Clip, Observation
from ..engine.denoising import EngineBranch
from ..engine.dimensions import Shapes
from ..engine.towers import Amax, TorchTowers
from ..evaluation.lerobot_episode import Episode, decode_frames, read_episode
from ..generator import droid_joint
from ..generator.composed_view import View, compose_view, place_on_canvas
from ..generator.denoise import Request, denoise
from ..generator.guidance import Guidance
from ..generator.prompt import UNCONDITIONAL, build_prompt
from ..generator.sampler import schedule
from ..model.checkpoint import Checkpoint
from ..model.loading import load_tokenizer, load_vae
from ..model.observation_encoder import ObservationEncoder
from ..model.prompt_tokens import prompt_tokens
from ..reasoner.questions import Question
from ..reasoner.video_prompt import VideoSettings
from ..reasoner.video_prompt import build_prompt as build_video_prompt
from .console import CommandError

MAX_CLIP_PIXELS = 2 * 320 * 192
QUESTION = Question('drift', '', 'Locate every object. Return a json.', 'text', 48)
VIDEO_COMPRESSION = 4
GREY = 127


@dataclass(frozen=True)
class Moment:
    """One moment of the data.

    :param clip: Two neighbouring frames.
    """

    time_s: float
    clip: Clip
    observation: Observation
    instruction: str


@dataclass(frozen=True)
class Prepared:
    """A moment as the towers take it.

    :param video: The reasoner's prompt.
    :param text: Token ids of the policy's prompt; ``nothing`` of the empty text, ``end`` ends an answer.
    """

    video: Any
    request: Request
    text: tuple[int, ...]
    nothing: tuple[int, ...]
    end: tuple[int, ...]
    latent_shape: tuple[int, int, int]


@dataclass(frozen=True)
class Answers:
    """What towers said to a moment.

    :param rows: Chunk (steps, joints + 1).
    :param asked: Inputs of every denoising step; ``velocities`` are the actions' on them.
    """

    tokens: list[int]
    rows: Any
    asked: list[Any]
    velocities: list[Any]


class Scene:
    """Turns moments into what the towers take."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._tokenizer = load_tokenizer(checkpoint)
        self._settings = VideoSettings.load(checkpoint.directory, MAX_CLIP_PIXELS)
        self._view = View.of(*checkpoint.view)
        self._encoder = ObservationEncoder(load_vae(checkpoint, 'cpu', 'float32'), 'cpu')

    def prepare(self, moment: Moment) -> Prepared:
        """Encode pictures and texts."""
        view = self._view
        picture = compose_view(moment.observation.images, view)
        latent = self._encoder.encode(
            place_on_canvas(picture, view), view.latent_height, view.latent_width)
        frames = droid_joint.HORIZON // VIDEO_COMPRESSION + 1
        prompt = build_prompt(
            moment.instruction, self._checkpoint.prompt_variant, (view.canvas_height, view.canvas_width))
        state = droid_joint.state_row(moment.observation, moment.observation.joint_names)
        return Prepared(
            build_video_prompt(self._tokenizer, (moment.clip,), QUESTION, self._settings),
            Request(latent, state, frames, 64, 0), prompt_tokens(self._tokenizer, prompt),
            prompt_tokens(self._tokenizer, UNCONDITIONAL), (int(self._tokenizer.eos_token_id),),
            (frames, view.latent_height, view.latent_width))


class _Recorder:
    """A branch that remembers what it was asked."""

    def __init__(self, branch: Any) -> None:
        self._branch = branch
        self.asked: list[Any] = []

    def velocity(self, vision: Any, action: Any, timestep: int, *, want_video: bool) -> tuple[Any, Any]:
        self.asked.append((vision.clone(), action.clone(), timestep))
        v_vision, v_action = self._branch.velocity(vision, action, timestep, want_video=want_video)
        return v_vision, v_action


class Actor:
    """Answers and acts with towers in whatever precision they have.

    :param towers: Shared with whoever converts them.
    """

    def __init__(self, towers: TorchTowers) -> None:
        self._towers = towers
        self._plan = schedule(droid_joint.STEPS, droid_joint.SHIFT)
        self._guidance = Guidance(droid_joint.GUIDANCE)

    def ask(self, one: Prepared, asked: list[Any] | None) -> Answers:
        """Answer and act.

        :param asked: Inputs of the other side, on which velocities are compared; None is the own ones.
        """
        video = one.video
        tokens = self._towers.answer(
            video.input_ids[0], video.mm_token_type_ids[0] != 0, video.pixel_values_videos,
            video.video_grid_thw, QUESTION.max_new_tokens, one.end)
        recorder = _Recorder(self._branch(one.text, one))
        rows = denoise(recorder, self._branch(one.nothing, one), one.request, self._plan, self._guidance)
        plain = self._branch(one.text, one)
        velocities = [
            plain.velocity(vision, action, timestep, want_video=False)[1].numpy().astype(np.float64)
            for vision, action, timestep in asked or recorder.asked]
        positions, gripper = droid_joint.read_rows(rows)
        return Answers(tokens, np.column_stack((positions, gripper)), recorder.asked, velocities)

    def _branch(self, text: tuple[int, ...], one: Prepared) -> EngineBranch:
        keys, values = self._towers.language.context(text)
        return self._towers.generation.branch(keys, values, one.latent_shape)


def observe(towers: TorchTowers, moments: list[Prepared]) -> Amax:
    """Return the largest input of every matrix that FP8 takes, while the towers answer and act."""
    amax: Amax = {}
    actor = Actor(towers)
    with towers.calibrating(amax):
        for one in moments:
            actor.ask(one, None)
    return amax


def shapes_of(one: Prepared) -> Shapes:
    """Return the shapes that moments like this one need."""
    frames, rows, columns = (int(n) for n in one.video.video_grid_thw[0])
    latent_frames, height, width = one.latent_shape
    return Shapes(
        frame_grid=(rows, columns), max_frames=frames, action_rows=droid_joint.ROWS,
        latent_grid=(latent_frames, -(-height // 2), -(-width // 2)), action_channels=droid_joint.WIDTH,
        domain=droid_joint.DOMAIN_ID)


def read_moments(data: Path, count: int) -> tuple[list[Moment], tuple[str, ...]]:
    """Return moments spread evenly over the episode, and the cameras that it lacks."""
    episode = read_episode(data)
    slots = droid_joint.CAMERA_SLOTS
    here = [slot for slot in slots if slot in episode.videos]
    if not here:
        raise CommandError(
            f'{data}: none of the cameras {", ".join(slots)} has a video; '
            'name an episode in the layout of DROID')
    length = len(episode.stamps_s)
    if length < count + 1:
        raise CommandError(
            f'{data}: it has {length} frames, {count + 1} are needed; choose a smaller --frames')
    wanted = {int(i) for i in np.linspace(1, length - 1, count)}
    taken = {slot: _frames(episode, slot, wanted) for slot in here}
    return [_moment(episode, i, taken) for i in sorted(wanted)], tuple(s for s in slots if s not in here)


def _frames(episode: Episode, slot: str, wanted: set[int]) -> dict[int, Any]:
    """Return the wanted frames and the ones before them."""
    needed = wanted | {i - 1 for i in wanted}
    return {i: frame for i, frame in enumerate(decode_frames(episode.videos[slot])) if i in needed}


def _moment(episode: Episode, i: int, taken: dict[str, dict[int, Any]]) -> Moment:
    stamps = np.round(episode.stamps_s[i - 1:i + 1] * 1e9).astype(np.int64)
    slot = next(iter(taken))
    images = {s: taken[s][i] if s in taken else np.full_like(taken[slot][i], GREY)
              for s in droid_joint.CAMERA_SLOTS}
    names = tuple(f'joint{j + 1}' for j in range(episode.joint_position.shape[1]))
    return Moment(
        float(episode.stamps_s[i]), Clip(slot, np.stack([taken[slot][i - 1], taken[slot][i]]), stamps),
        Observation(
            stamp_ns=int(stamps[1]), images=images, joint_names=names,
            joint_position=episode.joint_position[i], gripper=float(episode.gripper[i]), skew_ns=0),
        episode.instruction or 'do the task')
