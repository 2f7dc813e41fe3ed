"""Questions and answers as the reasoner's tokens, each made once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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

    :param ids: Shape (N,).
    :param positions: Shape (3, N), rotary positions.
    :param next_position: Of the answer's first token.
    :param shared: Tokens at the beginning that every question with this system message has: all pictures.
    :param beginning: Which of the different beginnings it is.
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    next_position: int
    shared: int
    beginning: int

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.ids)


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """Prompts with their answers, S sequences of clips with N tokens, padded at the end.

    Questions about one clip may share its pictures: they stand once, then each question with its answer, as
    if it followed them at once.

    :param ids: int32 (S, N).
    :param positions: int32 (3, S, N).
    :param places: int64 (answers' tokens,), places in the flattened logits that predict them.
    :param wanted: int64 (answers' tokens,).
    :param firsts: int64 (answers,), where in ``wanted`` each answer begins: Yes and No differ there.
    :param visual: int64 (features,), places in the flattened tokens where features stand, in their order.
    :param owners: int64 (S,), which clip each is about.
    :param branches: int8 (S, N), 0 for what all questions of a sequence share (everything, if there is one),
        then the question's number; None where each sequence has one question and causality is enough.
    :param shared: Tokens at the beginning of every sequence that all of its questions share; 0 with
        ``branches`` None.
    """

    ids: Any
    positions: Any
    places: Any
    wanted: Any
    firsts: Any
    visual: Any
    owners: Any
    branches: Any = None
    shared: int = 0

    def mask(self) -> Any:
        """Return what each token sees, bool (S, 1, N, N): what is shared, and its own question up to itself.

        None: everything before it.
        """
        if self.branches is None:
            return None
        mine, theirs = self.branches[:, :, None], self.branches[:, None, :]
        return ((mine == theirs) | (theirs == 0)).tril_()[:, None]


class QuestionTokens:
    """Turns questions about clips of one size into tokens.

    :param model: ``Cosmos3OmniForConditionalGeneration``; rotary positions are of its class and config.
    :param recording: Any of the recordings: sizes and times of all clips are the same.
    """

    def __init__(
        self, model: Any, tokenizer: Any, recording: ClipRecording, video: VideoSettings,
        settings: ReasonerSettings,
    ) -> None:
        # Without weights: this goes to other processes.
        with torch.device('meta'):
            self._positions = type(model.model)(model.config)
        self._tokenizer, self._recording = tokenizer, recording
        self._video, self._settings = video, settings
        self._video_token = model.config.video_token_id
        self._prompts: dict[str, PromptIds] = {}
        self._answers: dict[str, NDArray[np.int64]] = {}
        self._beginnings: dict[tuple[int, ...], int] = {}

    def pack(self, groups: Sequence[Sequence[Asked]], owners: Sequence[int]) -> Sequences:
        """Return questions with their answers as one batch, on the host.

        :param groups: Questions of each sequence, all about one clip; at least one.
        :param owners: Which clip each sequence is about.
        :raises TrainingError: Questions of one sequence begin differently.
        """
        answers = iter(self.answers([a for group in groups for a in group]))
        rows = [[(self.prompt(a.question), next(answers)) for a in group] for group in groups]
        shares = [row[0][0].shared if len(row) > 1 else 0 for row in rows]
        longest = max(
            shared + sum(len(prompt) - shared + len(answer) for prompt, answer in row)
            for shared, row in zip(shares, rows, strict=True))
        longest = -(-longest // _LENGTH_STEP) * _LENGTH_STEP
        # Filled by numpy: a batch has a thousand pieces, and torch takes microseconds for each.
        # Narrow, because they come from other processes: as int64 a batch is 5 MB.
        ids, branches = (np.zeros((len(rows), longest), kind) for kind in (np.int32, np.int8))
        positions = np.zeros((3, len(rows), longest), np.int32)
        places, wanted = [], []
        for i, (shared, row) in enumerate(zip(shares, rows, strict=True)):
            first, end = row[0][0], shared
            ids[i, :shared] = first.ids[:shared]
            positions[:, i, :shared] = first.positions[:, :shared]
            for number, (prompt, answer) in enumerate(row, start=1):
                if prompt.beginning != first.beginning:
                    raise TrainingError(
                        'reasoner: questions with different beginnings arrived for one sequence')
                start, middle = end, end + len(prompt) - shared
                end = middle + len(answer)
                ids[i, start:middle], ids[i, middle:end] = prompt.ids[shared:], answer
                positions[:, i, start:middle] = prompt.positions[:, shared:]
                positions[:, i, middle:end] = np.arange(len(answer)) + prompt.next_position
                branches[i, start:end] = number if len(row) > 1 else 0
                # A token is predicted where the one before it stands.
                places.append(np.arange(middle - 1, end - 1) + i * longest)
                wanted.append(answer)
        counts = np.array([len(answer) for answer in wanted])
        # Padding sees what is shared, and stands behind everything that might see it.
        alone = all(len(row) == 1 for row in rows)
        made = torch.from_numpy
        return Sequences(
            made(ids), made(positions), made(np.concatenate(places)), made(np.concatenate(wanted)),
            made(counts.cumsum() - counts), made(np.flatnonzero(ids == self._video_token)),
            torch.tensor(owners), *((None, 0) if alone else (made(branches), min(filter(None, shares)))))

    def prompt(self, question: Question) -> PromptIds:
        """Return a question's prompt."""
        if question.text not in self._prompts:
            clips = [as_clip(self._recording, 0, slot, self._settings) for slot in self._settings.cameras]
            prompt = build_prompt(self._tokenizer, clips, question, self._video)
            self._check_sizes(prompt)
            positions, _ = self._positions.get_rope_index(
                prompt.input_ids, prompt.mm_token_type_ids, video_grid_thw=prompt.video_grid_thw)
            ids = prompt.input_ids[0].numpy().copy()
            shared = int(prompt.mm_token_type_ids[0].nonzero().max()) + 1
            beginning = self._beginnings.setdefault(tuple(ids[:shared].tolist()), len(self._beginnings))
            self._prompts[question.text] = PromptIds(
                ids, positions[:, 0].numpy(), int(positions.max()) + 1, shared, beginning)
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

    def answers(self, asked: Sequence[Asked]) -> list[NDArray[np.int64]]:
        """Return answers' tokens, the end of the turn included, (tokens,) each.

        Those of facts are kept: they are few. Reports hardly come twice.
        """
        new = list(dict.fromkeys(a.answer for a in asked if a.answer not in self._answers))
        found = dict(self._answers)
        if new:  # at once: the tokenizer spreads them over the processors
            words = self._tokenizer(new, add_special_tokens=False)['input_ids']
            for text, ids in zip(new, words, strict=True):
                found[text] = np.array([*ids, self._tokenizer.eos_token_id], np.int64)
        self._answers |= {a.answer: found[a.answer] for a in asked if a.dimension}
        return [found[a.answer] for a in asked]
