"""Questions and answers as the reasoner's tokens, each made once."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..reasoner.questions import Question
from ..reasoner.video_prompt import VideoPrompt, VideoSettings, build_prompt
from ..resources import require
from .clip_samples import Asked, ClipRecording, as_clip
from .settings import ReasonerSettings, TrainingError

torch = require('torch', 'model')

_LENGTH_STEP = 128
"""Sequences are padded to multiples of this: compiled layers then see few different shapes."""


@dataclass(frozen=True, slots=True, eq=False)
class PromptIds:
    """A question's prompt, whose videos have the sizes of all clips.

    :param ids: int64 (N,).
    :param positions: int64 (3, N) rotary positions.
    :param next_position: Of the answer's first token.
    """

    ids: Any
    positions: Any
    next_position: int

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.ids)


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """Prompts with their answers, S of them, padded at the end to N tokens.

    :param ids: int64 (S, N).
    :param positions: int64 (3, S, N).
    :param places: int64 (answers' tokens,), places in the flattened logits that predict them.
    :param wanted: int64 (answers' tokens,).
    :param owners: int64 (S,), which clip each is about.
    """

    ids: Any
    positions: Any
    places: Any
    wanted: Any
    owners: Any

    def to(self, device: Any) -> 'Sequences':
        """Return them on a device, without waiting for it."""
        return Sequences(*(send(getattr(self, field.name), device) for field in fields(self)))


class QuestionTokens:
    """Turns questions about clips of one size into tokens.

    :param model: ``Cosmos3OmniForConditionalGeneration``; it knows the rotary positions.
    :param recording: Any of the recordings: sizes and times of all clips are the same.
    """

    def __init__(
        self, model: Any, tokenizer: Any, recording: ClipRecording, video: VideoSettings,
        settings: ReasonerSettings,
    ) -> None:
        self._model, self._tokenizer, self._recording = model, tokenizer, recording
        self._video, self._settings = video, settings
        self._prompts: dict[str, PromptIds] = {}
        self._answers: dict[str, Any] = {}

    def pack(self, asked: Sequence[Asked], owners: Sequence[int]) -> Sequences:
        """Return questions with their answers as one batch, on the host.

        :param owners: Which clip each is about.
        """
        prompts, answers = [self.prompt(a.question) for a in asked], self.answers(asked)
        longest = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
        longest = -(-longest // _LENGTH_STEP) * _LENGTH_STEP
        ids = torch.zeros((len(asked), longest), dtype=torch.int64)
        positions = torch.zeros((3, len(asked), longest), dtype=torch.int64)
        places = []
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            start, end = len(prompt), len(prompt) + len(answer)
            ids[i, :start], ids[i, start:end] = prompt.ids, answer
            positions[:, i, :start] = prompt.positions
            positions[:, i, start:end] = prompt.next_position + torch.arange(len(answer))
            # A token is predicted where the one before it stands.
            places.append(i * longest + torch.arange(start - 1, end - 1))
        return Sequences(ids, positions, torch.cat(places), torch.cat(answers), torch.tensor(owners))

    def prompt(self, question: Question) -> PromptIds:
        """Return a question's prompt."""
        if question.text not in self._prompts:
            clips = [as_clip(self._recording, 0, slot, self._settings) for slot in self._settings.cameras]
            prompt = build_prompt(self._tokenizer, clips, question, self._video)
            self._check_sizes(prompt)
            positions, _ = self._model.model.get_rope_index(
                prompt.input_ids, prompt.mm_token_type_ids, video_grid_thw=prompt.video_grid_thw)
            self._prompts[question.text] = PromptIds(
                prompt.input_ids[0].clone(), positions[:, 0], int(positions.max()) + 1)
        return self._prompts[question.text]

    def _check_sizes(self, prompt: VideoPrompt) -> None:
        sizes = [self._recording.pictures[slot].shape[1:3] for slot in self._settings.cameras]
        wanted = [[self._settings.frames // self._video.temporal_patch_size, *(
            side // self._video.patch_size for side in size)] for size in sizes]
        if prompt.video_grid_thw.tolist() != wanted:
            raise TrainingError(
                f'reasoner: clips of {self._settings.frames} frames of {sizes} arrived, which the video '
                f'prompt scales to {prompt.video_grid_thw.tolist()} patches; sides must be multiples of 32 '
                f'and clips of {self._video.min_clip_pixels} to {self._video.max_clip_pixels} pixels. Change '
                'max_frame_pixels')

    def answers(self, asked: Sequence[Asked]) -> list[Any]:
        """Return answers' tokens, the end of the turn included, int64 (tokens,) each.

        Those of facts are kept: they are few. Reports hardly come twice.
        """
        new = list(dict.fromkeys(a.answer for a in asked if a.answer not in self._answers))
        found = dict(self._answers)
        if new:  # at once: the tokenizer spreads them over the processors
            words = self._tokenizer(new, add_special_tokens=False)['input_ids']
            for text, ids in zip(new, words, strict=True):
                found[text] = torch.tensor([*ids, self._tokenizer.eos_token_id])
        self._answers |= {a.answer: found[a.answer] for a in asked if a.dimension}
        return [found[a.answer] for a in asked]


def send(tensor: Any, device: Any) -> Any:
    """Return a host tensor on a device; what is copied to CUDA need not wait for what is under way there."""
    if device.type != 'cuda':
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
