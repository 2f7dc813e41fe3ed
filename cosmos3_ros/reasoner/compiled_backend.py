"""The fast local backend: static shapes, fused weights, one CUDA graph per stage."""

from collections.abc import Callable, Sequence
import logging
from pathlib import Path
import time
from typing import Any

import numpy as np

from ..contracts import Clip
from ..resources import MissingDependencyError, require
from .answer_watch import AnswerWatch
from .backend import BackendError
from .decoder_state import DecoderInput
from .device_graph import inference_on
from .language_weights import LanguageWeights, take_weights
from .local_backend import LocalBackend
from .plain_math import PlainMath
from .questions import PromptBook, Question
from .static_decoder import PROMPT_STEP, StaticDecoder
from .video_prompt import VideoPrompt, build_prompt
from .vision_tower import VisionTower

logger = logging.getLogger(__name__)

USUAL_CLIP = (8, 360, 640)
"""Frames, height and width of the clip whose graphs are recorded at start; others when they come."""


class CompiledBackend(LocalBackend):
    """Writes the tokens that the reference writes, sooner.

    On a GPU the vision tower, the prompt and each decoded token are one CUDA graph each, with Triton's
    kernels between the matrix products; on the CPU the same steps run one by one.
    Parameters as :class:`LocalBackend`, and:

    :param weights: ``dtype`` or ``fp8`` (language model only; half the memory, other roundings).
    :param answer_lookup: On a CPU: see :class:`host_writer.HostWriter`.
    """

    engine = 'compiled'

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        device: str = 'cpu',
        dtype: str = 'auto',
        threads: int | None = 1,
        max_clip_pixels: int = 8 * 640 * 384,
        video_pruning_rate: float = 0.0,
        weights: str = 'dtype',
        answer_lookup: bool = False,
        clock_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(
            checkpoint, device=device, dtype=dtype, threads=threads, max_clip_pixels=max_clip_pixels,
            video_pruning_rate=video_pruning_rate, clock_s=clock_s)
        try:
            with require('torch', 'model').inference_mode():
                self._decoder: Any = create_decoder(self._model, self._rate, weights, answer_lookup)
        except ValueError as error:
            raise BackendError(str(error)) from error
        if weights != 'dtype':
            self._mark(weights)

    def warm_up(self) -> None:
        """Answer a little; on a GPU also record the graphs of the usual clip and question.

        :raises BackendError: The backend cannot answer.
        """
        super().warm_up()
        frames, height, width = USUAL_CLIP
        stamps = np.arange(frames, dtype=np.int64) * 250_000_000
        clip = Clip('warm_up', np.full((frames, height, width, 3), 128, np.uint8), stamps)
        self.prepare([clip], PromptBook.load().ask('scene_report', instruction='none', cameras='warm_up'))

    def prepare(self, clips: Sequence[Clip], question: Question) -> None:
        """Record what this question about clips of these shapes needs, so that its answer is not slow.

        With up to :data:`PROMPT_STEP` tokens more, too: an instruction or a question will be filled in.
        Does nothing where nothing is recorded, on a CPU.

        :raises BackendError: Closed, no clips, or out of memory.
        """
        lane = 0 if question.answer == 'scene' else 1
        with self._lanes[lane], self._turns:
            self._check_open()
            if not self._decoder.records:
                return
            try:
                with inference_on(self._device):
                    prompt = build_prompt(self._tokenizer, clips, question, self._settings, self._device)
                    given = decoder_input(self._model, prompt)
                    for words in (0, PROMPT_STEP):
                        # As much room as real answers need decides what is recorded; two tokens do it.
                        written = self._decoder.write(given.lengthened(words), question.max_new_tokens, lane)
                        for _ in range(min(2, question.max_new_tokens)):
                            next(written)
                        written.close()
            except RuntimeError as error:
                raise BackendError(f'{self.engine} cannot record such clips: {error}') from error

    def close(self) -> None:
        """Release the model and its caches."""
        super().close()
        self._decoder = None

    def _write(self, prompt: VideoPrompt, question: Question, watch: AnswerWatch, lane: int) -> int:
        given = decoder_input(self._model, prompt)
        for token in self._decoder.write(given, question.max_new_tokens, lane):
            if watch.see(token):
                break
            self._give_way()
        return int(self._decoder.prompt_length(given))


def create_decoder(
    model: Any, rate: float = 0.0, weights: str = 'dtype', lookup: bool = False,
) -> StaticDecoder:
    """Take over a model's weights, on the device where they lie.

    :param model: ``Cosmos3OmniForConditionalGeneration``, in evaluation mode.
    :param weights: One of :data:`language_weights.WEIGHTS`.
    :param lookup: See :class:`StaticDecoder`.
    :raises ValueError: Unknown ``weights`` or architecture.
    """
    taken = take_weights(model, weights)
    math = create_math(taken)
    return StaticDecoder(taken, VisionTower(model, fused=math.name == 'fused'), math, rate, lookup)


def create_math(weights: LanguageWeights) -> PlainMath:
    """Return the fastest arithmetic for where the weights lie; say so if that is not the fused one."""
    if weights.device.type != 'cuda':
        return PlainMath(weights)
    from .fused_math import FusedMath

    try:
        return FusedMath(weights)
    except MissingDependencyError as error:
        logger.warning("the reasoner runs on torch's own kernels, about half as fast: %s", error)
        return PlainMath(weights)


def decoder_input(model: Any, prompt: VideoPrompt) -> DecoderInput:
    """Return what the decoder takes; positions as transformers counts them, on the host."""
    positions, _ = model.model.get_rope_index(
        prompt.input_ids, prompt.mm_token_type_ids, video_grid_thw=prompt.video_grid_thw)
    grids = tuple((int(t), int(h), int(w)) for t, h, w in prompt.video_grid_thw.tolist())
    return DecoderInput(
        prompt.input_ids[0], positions[:, 0], prompt.mm_token_type_ids[0].nonzero()[:, 0],
        prompt.pixel_values_videos, grids)
