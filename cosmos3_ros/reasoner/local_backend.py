"""What the backends that hold the weights themselves have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
import json
from pathlib import Path
import threading
import time
from typing import Any, ClassVar

import numpy as np

from ..contracts import Clip, ModelIdentity
from ..model.checkpoint import Checkpoint, CheckpointError
from ..model.loading import check_device
from ..model.reasoner_context import ReasonerContext
from ..model.tower_hash import understanding_hash
from ..resources import require
from .answer_watch import AnswerWatch
from .backend import Answer, BackendError
from .deadline import Deadline
from .device_graph import inference_on
from .efficient_video_sampling import check_rate
from .model_loading import OMNI, load_model
from .questions import Question
from .resident_tower import ResidentWeights
from .turns import Turns
from .video_prompt import VideoPrompt, VideoSettings, build_prompt

DTYPES = ('auto', 'float32', 'bfloat16', 'float16')


class LocalBackend(ABC):
    """Loads a checkpoint and answers greedily. Same clips and question give the same text.

    Two answers may be under way together, one of them a scene report: they take turns token by token, so
    that a long answer costs a report at most its own time again and never its place.

    :param checkpoint: As ``model.Checkpoint.open`` takes it: a directory, a packaged name or a Hub id.
    :param device: ``cpu``, ``cuda``, ``cuda:1`` ...
    :param dtype: One of :data:`DTYPES`; ``auto`` is float32 on the CPU and bfloat16 elsewhere.
    :param threads: torch's threads on the CPU, for the whole process; None leaves them alone.
    :param max_clip_pixels: Largest frames x height x width of a clip. Explicit, because the
        checkpoint's own budget is made for long videos and enlarges the cost of a short clip.
    :param video_pruning_rate: Efficient Video Sampling; 0 is off.
    :param clock_s: Monotonic seconds, for durations only.
    :raises BackendError: The checkpoint or a parameter cannot be used.
    :raises resources.MissingDependencyError: The extra ``model`` is not installed.
    """

    engine: ClassVar[str] = ''
    """How the identity calls this backend."""

    model_types: ClassVar[tuple[str, ...]] = (OMNI,)
    """``model_type`` of the checkpoints that this backend can run."""

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        device: str = 'cpu',
        dtype: str = 'auto',
        threads: int | None = 1,
        max_clip_pixels: int = 8 * 640 * 384,
        video_pruning_rate: float = 0.0,
        clock_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        torch = require('torch', 'model')
        self._rate = check_rate(video_pruning_rate)
        if dtype not in DTYPES:
            raise BackendError(f"dtype: '{dtype}' arrived, one of {list(DTYPES)} is allowed")
        try:
            check_device(device)
            opened = Checkpoint.open(checkpoint, parts=('reasoner',))
        except CheckpointError as error:
            raise BackendError(str(error)) from error
        self._device = torch.device(device)
        if dtype == 'auto':
            dtype = 'float32' if self._device.type == 'cpu' else 'bfloat16'
        if threads is not None:
            if threads < 1:
                raise BackendError(f'threads: {threads} arrived, at least 1 is allowed')
            torch.set_num_threads(threads)
        self._settings = VideoSettings.load(opened.directory, max_clip_pixels)
        self._directory = opened.directory
        self.view = opened.view
        """Height and width of the picture that a policy of this checkpoint sees."""
        self._clock_s = clock_s
        self._turns = Turns()
        # One scene report and one other question at a time: what is under way together is known.
        self._lanes = (threading.Lock(), threading.Lock())
        self._closed = False
        self._understanding: Any = None
        self._model: Any = None
        self._tokenizer, self._ends = self._load(opened, dtype)
        pruned = f'/evs{self._rate:g}' if self._rate else ''
        self._identity = ModelIdentity(
            opened.label, f'{self.engine}/{dtype}/{device}{pruned}', opened.trained)

    def _load(self, opened: Checkpoint, dtype: str) -> tuple[Any, frozenset[int]]:
        """Load what writes answers; return the tokenizer and the tokens that end an answer.

        :raises BackendError: The checkpoint cannot be used.
        """
        kind = getattr(require('torch', 'model'), dtype)
        self._model, tokenizer = load_model(opened.directory, kind, self._device, self.model_types)
        ends = self._model.generation_config.eos_token_id
        return tokenizer, frozenset(ends if isinstance(ends, list) else [ends])

    @property
    def identity(self) -> ModelIdentity:
        """Checkpoint, precision and device."""
        return self._identity

    def _mark(self, feature: str) -> None:
        """Name a feature that changes answers in the identity."""
        kept = self._identity
        self._identity = ModelIdentity(kept.checkpoint, f'{kept.engine}/{feature}', kept.trained)

    def warm_up(self) -> None:
        """Answer twice about a grey clip of the usual shape."""
        stamps = np.arange(4, dtype=np.int64) * 250_000_000
        grey = Clip('warm_up', np.full((4, 192, 320, 3), 128, np.uint8), stamps)
        for _ in range(2):
            self.answer((grey,), Question('warm_up', '', 'Describe the scene.', 'text', 16))

    def prepare(self, clips: Sequence[Clip], question: Question) -> None:  # noqa: ARG002 (see subclasses)
        """Do nothing: only some backends record or compile something per shape.

        :raises BackendError: Closed.
        """
        self._check_open()

    def close(self) -> None:
        """Release the model; an answer under way ends with its next token."""
        with self._turns:
            self._closed = True
            self._model = self._understanding = None

    def answer(
        self, clips: Sequence[Clip], question: Question, deadline: Deadline | None = None,
    ) -> Answer:
        """Answer greedily, up to the model's end, the wanted JSON's closing bracket, budget or deadline.

        :raises BackendError: Closed, no clips, or the model failed (e.g. out of memory).
        """
        if not clips:
            raise BackendError('clips: none arrived, at least one is needed')
        lane = 0 if question.answer == 'scene' else 1
        with self._lanes[lane], self._turns:
            self._check_open()
            try:
                begin_s = self._clock_s()
                with inference_on(self._device):
                    prompt = build_prompt(self._tokenizer, clips, question, self._settings, self._device)
                    prepared_s = self._clock_s()
                    watch = AnswerWatch(self._tokenizer, question, self._ends, self._clock_s, deadline)
                    prompt_tokens = self._write(prompt, question, watch, lane)
                end_s = self._clock_s()
            except BackendError:
                raise
            except RuntimeError as error:
                raise BackendError(f'{self.engine} could not answer: {error}') from error
        return Answer(
            watch.text(), prompt_tokens, len(watch.tokens), watch.finish,
            prepared_s - begin_s, watch.first_token_s - begin_s, end_s - begin_s)

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError('the backend is closed')

    def _give_way(self) -> None:
        """Let the other answer have a turn; between two tokens.

        :raises BackendError: It was closed meanwhile.
        """
        self._turns.give_way()
        self._check_open()

    def contexts(self, texts: Sequence[Sequence[int]]) -> list[ReasonerContext]:
        """Return what the generator needs of some instructions, computed with the resident weights.

        Equal, bit for bit on a CPU in float32, to the keys and values that the generator's own copy of
        this tower would have. They carry a hash over the tower's weights in the checkpoint, the tokens
        and the precision; ``ReasonerContext.save`` and ``load`` keep and check it.

        :param texts: Token ids of each, as ``model.prompt_tokens`` returns them.
        :raises BackendError: Closed, the checkpoint holds no generator, or the weights have eight bits.
        """
        torch = require('torch', 'model')
        with self._turns:
            self._check_open()
            try:
                if self._understanding is None:
                    # diffusers computes its rotary table: a need of contexts, not of answers.
                    from ..model.understanding_tower import UnderstandingTower

                    # Hashing reads the whole tower once: seconds for Nano, so only when it is needed.
                    digest = understanding_hash(self._directory)
                    config = json.loads((self._directory / 'transformer' / 'config.json').read_text('utf-8'))
                    self._understanding = UnderstandingTower(
                        ResidentWeights(self._model, config), self._device, self._model.dtype, digest)
                with torch.inference_mode():
                    return list(self._understanding.contexts(texts))
            except (CheckpointError, OSError, ValueError) as error:
                raise BackendError(f'reasoner contexts: {error}') from error

    @abstractmethod
    def _write(self, prompt: VideoPrompt, question: Question, watch: AnswerWatch, lane: int) -> int:
        """Show each new token to ``watch`` until it says stop; return the prompt's tokens.

        Gives way after each token; what it keeps between them belongs to ``lane``.
        """
