"""The reference backend: ``transformers.Cosmos3OmniForConditionalGeneration``, greedy."""

from collections.abc import Callable, Sequence
import logging
from pathlib import Path
import threading
import time
from typing import Any

import numpy as np

from ..contracts import Clip, ModelIdentity
from ..model.checkpoint import Checkpoint, CheckpointError
from ..model.loading import check_device
from ..resources import require
from .answer_end import answer_is_complete
from .backend import Answer, BackendError
from .efficient_video_sampling import check_rate, retention_mask
from .questions import Question
from .video_prompt import VideoPrompt, VideoSettings, build_prompt

logger = logging.getLogger(__name__)

DTYPES = ('auto', 'float32', 'bfloat16', 'float16')


class TransformersBackend:
    """Runs a checkpoint with transformers. Same clips and question give the same text.

    :param checkpoint: As ``model.Checkpoint.open`` takes it: a directory, a packaged name or a Hub id.
    :param device: ``cpu``, ``cuda``, ``cuda:1`` ...
    :param dtype: One of :data:`DTYPES`; ``auto`` is float32 on the CPU and bfloat16 elsewhere.
    :param threads: torch's threads on the CPU, for the whole process; None leaves them alone.
    :param max_clip_pixels: Largest frames x height x width of a clip. Explicit, because the
        checkpoint's own budget would enlarge the cost of a short clip many times.
    :param video_pruning_rate: Efficient Video Sampling; 0 is off.
    :param clock_s: Monotonic seconds, for durations only.
    :raises BackendError: The checkpoint or a parameter cannot be used.
    :raises resources.MissingDependencyError: The extra ``model`` is not installed.
    """

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
        self._model, self._tokenizer = _load(opened.directory, getattr(torch, dtype), self._device)
        pruned = f'/evs{self._rate:g}' if self._rate else ''
        self._identity = ModelIdentity(opened.label, f'transformers/{dtype}/{device}{pruned}', opened.trained)
        self._clock_s = clock_s
        self._lock = threading.Lock()

    @property
    def identity(self) -> ModelIdentity:
        """Checkpoint, precision and device."""
        return self._identity

    def warm_up(self) -> None:
        """Answer once about a grey clip of the usual shape."""
        stamps = np.arange(4, dtype=np.int64) * 250_000_000
        grey = Clip('warm_up', np.full((4, 192, 320, 3), 128, np.uint8), stamps)
        self.answer((grey,), Question('warm_up', '', 'Describe the scene.', 'text', 4))

    def close(self) -> None:
        """Release the model."""
        with self._lock:
            self._model = None

    def answer(self, clips: Sequence[Clip], question: Question) -> Answer:
        """Answer greedily, up to the model's end, the closing bracket of the wanted JSON or the budget.

        :raises BackendError: Closed, no clips, or the model failed (e.g. out of memory).
        """
        if not clips:
            raise BackendError('clips: none arrived, at least one is needed')
        with self._lock:
            if self._model is None:
                raise BackendError('the backend is closed')
            try:
                return self._answer(clips, question)
            except RuntimeError as error:
                if isinstance(error, BackendError):
                    raise
                raise BackendError(f'transformers could not answer: {error}') from error

    def _answer(self, clips: Sequence[Clip], question: Question) -> Answer:
        torch = require('torch', 'model')
        begin_s = self._clock_s()
        prompt = build_prompt(self._tokenizer, clips, question, self._settings)
        with torch.inference_mode():
            inputs = self._inputs(prompt)
            prepared_s = self._clock_s()
            watch = _AnswerWatch(self._tokenizer, question, inputs['input_ids'].shape[1], self._clock_s)
            ids = self._model.generate(
                **inputs, max_new_tokens=question.max_new_tokens, do_sample=False,
                stopping_criteria=[watch], pad_token_id=self._tokenizer.pad_token_id)
        # The ids come from the device here, so the time below is the time of the work.
        new = ids[0, inputs['input_ids'].shape[1]:].tolist()
        end_s = self._clock_s()
        finish = 'json' if watch.complete else 'length' if len(new) >= question.max_new_tokens else 'stop'
        text = self._tokenizer.decode(new, skip_special_tokens=True)
        return Answer(
            text, int(inputs['input_ids'].shape[1]), len(new), finish,
            prepared_s - begin_s, watch.first_token_s - begin_s, end_s - begin_s)

    def _inputs(self, prompt: VideoPrompt) -> dict[str, Any]:
        """Return the arguments of ``generate``."""
        torch = require('torch', 'model')
        ids = prompt.input_ids.to(self._device)
        types = prompt.mm_token_type_ids.to(self._device)
        grid = prompt.video_grid_thw.to(self._device)
        pixels = prompt.pixel_values_videos.to(self._device, self._model.dtype)
        if not self._rate:
            return {
                'input_ids': ids, 'attention_mask': torch.ones_like(ids), 'mm_token_type_ids': types,
                'pixel_values_videos': pixels, 'video_grid_thw': grid}
        return pruned_inputs(self._model, ids, types, pixels, grid, self._rate)


def pruned_inputs(model: Any, ids: Any, types: Any, pixels: Any, grid: Any, rate: float) -> dict[str, Any]:
    """Return the arguments of ``generate`` with vision tokens pruned.

    The vision tower sees everything; the language model sees what stays, at its original positions.

    :param ids: (1, N) with a placeholder for every vision token.
    :param types: (1, N), 2 where a placeholder stands.
    """
    torch = require('torch', 'model')
    vision = model.model.get_video_features(pixels, grid, return_dict=True)
    masks = [
        retention_mask(embeddings, int(patches), rate)
        for embeddings, patches in zip(vision.pooler_output, grid[:, 0].tolist(), strict=True)]
    positions, _ = model.model.get_rope_index(ids, types, video_grid_thw=grid)
    stays = types[0] == 0
    stays[types[0] != 0] = torch.cat(masks)
    vision.pooler_output = tuple(e[m] for e, m in zip(vision.pooler_output, masks, strict=True))
    vision.deepstack_features = [
        tuple(f[m] for f, m in zip(level, masks, strict=True)) for level in vision.deepstack_features]
    ids = ids[:, stays]
    order = torch.arange(ids.shape[1], device=ids.device).view(1, 1, -1)
    return {
        'input_ids': ids, 'attention_mask': torch.ones_like(ids),
        # transformers carries the plain order, for the causal mask, before the three rotary axes.
        'position_ids': torch.cat([order, positions[:, :, stays]]),
        'mm_encoder_outputs': {'video': vision}}


class _AnswerWatch:
    """Called by transformers after each token: notes the first, ends a finished JSON."""

    def __init__(self, tokenizer: Any, question: Question, prompt: int, clock_s: Callable[[], float]) -> None:
        self._tokenizer, self._question, self._prompt, self._clock_s = tokenizer, question, prompt, clock_s
        self.first_token_s = 0.0
        self.complete = False

    def __call__(self, input_ids: Any, _scores: Any, **_options: Any) -> Any:
        if input_ids.shape[1] == self._prompt + 1:
            self.first_token_s = self._clock_s()
        if self._question.wants_json:
            newest = self._tokenizer.decode(input_ids[0, -1:])
            if '}' in newest or ']' in newest:
                text = self._tokenizer.decode(input_ids[0, self._prompt:], skip_special_tokens=True)
                self.complete = answer_is_complete(self._question.answer, text)
        return require('torch', 'model').full((1,), self.complete, device=input_ids.device)


def _load(directory: Path, dtype: Any, device: Any) -> tuple[Any, Any]:
    transformers = require('transformers', 'model')
    try:
        config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
        if config.model_type != 'cosmos3_omni':
            raise BackendError(
                f"checkpoint: {directory} holds a '{config.model_type}', "
                "'cosmos3_omni' (Nano, Super, tiny) is allowed")
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
        model = transformers.Cosmos3OmniForConditionalGeneration.from_pretrained(
            directory, config=config, dtype=dtype, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise BackendError(f'checkpoint: {directory} cannot be loaded: {error}') from error
    if not tokenizer.chat_template:
        raise BackendError(f'checkpoint: {directory} has no chat template (chat_template.jinja)')
    model.generation_config.do_sample = False
    return model.to(device).eval(), tokenizer
