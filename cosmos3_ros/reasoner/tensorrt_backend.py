"""The reasoner as TensorRT plans: vision tower and language model, answers as the other backends give them.

Plans are loaded only past the gate (:func:`engine.loaded_tower.open_tower`). What is missing, damaged, of
other weights, for another GPU, or drifts from torch ends the making of the backend, with the reason; nothing
else is tried instead. On an RTX GPU not executed by us, see :mod:`cosmos3_ros.engine.runtime`: what is tested
here runs the same code over the same graphs on ONNX Runtime.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
import time
from typing import Any

import numpy as np

from ..contracts import Clip, ModelIdentity
from ..model.checkpoint import Checkpoint
from ..resources import require
from .answer_watch import AnswerWatch
from .backend import BackendError
from .efficient_video_sampling import retention_mask
from .local_backend import LocalBackend
from .model_loading import find_class, load_tokenizer, read_ends
from .questions import Question
from .video_prompt import VideoPrompt

VISION_PRECISION = 'bf16'
"""Precision of the vision tower's plans, whatever the language model's: it is never quantised."""


class TensorRTBackend(LocalBackend):
    """Answers with plans that ``cosmos3 engine build`` made. Parameters as :class:`LocalBackend`, and:

    :param engines: What ``--out`` was.
    :param precision: Of the language model's plans: ``bf16``, ``fp8`` ...
    :param device: ``cuda`` or ``cuda:n``, an RTX GPU.
    :param flavour: ``rtx`` or ``classic``.
    :param executor: What runs the plans (``engine.executors.Executor``); None is TensorRT on ``device``.
    :raises BackendError: No GPU, no plans, or the gate refuses them.
    """

    engine = 'tensorrt'
    # engine.sources.EngineSource, two engine.loaded_tower.LoadedTower, and the embedding table.
    _source: Any
    _vision: Any
    _language: Any
    _table: Any

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        engines: str | Path,
        precision: str = 'bf16',
        device: str = 'cuda:0',
        flavour: str = 'rtx',
        threads: int | None = None,
        max_clip_pixels: int = 8 * 640 * 384,
        video_pruning_rate: float = 0.0,
        executor: Any = None,
        clock_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not str(engines):
            raise BackendError(
                'engines: none arrived, the directory that "cosmos3 engine build --out" wrote is needed')
        if executor is None:
            _check_gpu(device)
        self._engines, self._precision, self._flavour = Path(engines), precision, flavour
        self._executor = executor
        super().__init__(
            checkpoint, device=device if executor is None else executor.device, threads=threads,
            max_clip_pixels=max_clip_pixels, video_pruning_rate=video_pruning_rate, clock_s=clock_s)
        kept, key = self._identity, self._language.manifest.key
        pruned = f'/evs{self._rate:g}' if self._rate else ''
        self._identity = ModelIdentity(
            kept.checkpoint, f'{self.engine}-{key.flavour}-{key.version}/{precision}/{key.digest}{pruned}',
            kept.trained)

    def _load(
        self, opened: Checkpoint, dtype: str,  # noqa: ARG002 (plans have their own)
    ) -> tuple[Any, frozenset[int]]:
        """Load the plans of both towers past the gate."""
        find_class(require('transformers', 'model'), opened.directory, self.model_types)
        from ..engine.errors import EngineError
        from ..engine.executors import PlanExecutor
        from ..engine.loaded_tower import open_tower
        from ..engine.sources import EngineSource

        try:
            self._source = EngineSource.of_checkpoint(opened)
            run_by = self._executor
            if run_by is None:
                run_by = PlanExecutor(self._flavour, str(self._device))
            self._vision, self._language = (
                open_tower(self._engines, tower, precision, self._source, run_by)
                for tower, precision in (('vision', VISION_PRECISION), ('language', self._precision)))
            d = self._source.dimensions
            self._table = self._source.weights().tensor(
                'embed_tokens.weight', (d.vocabulary, d.hidden)).to(self._device)
        except EngineError as error:
            raise BackendError(f'backend tensorrt: {error}') from error
        return load_tokenizer(opened.directory), read_ends(opened.directory)

    def warm_up(self) -> None:
        """Answer a little about a grey clip of the smallest size that the plans take.

        :raises BackendError: They cannot answer.
        """
        rows, columns = self._vision.manifest.key.shapes.frame_grid
        pair, patch = self._settings.temporal_patch_size, self._settings.patch_size
        grey = np.full((pair, rows * patch, columns * patch, 3), 128, np.uint8)
        clip = Clip('warm_up', grey, np.arange(pair, dtype=np.int64) * 250_000_000)
        self.answer((clip,), Question('warm_up', '', 'Describe the scene.', 'text', 4))

    def prepare(self, clips: Sequence[Clip], question: Question) -> None:
        """Answer a little, so that TensorRT specialises its kernels to these sizes now.

        :raises BackendError: The plans do not take such clips, or not so long a prompt.
        """
        self.answer(clips, replace(question, max_new_tokens=2))

    def close(self) -> None:
        """Release the plans."""
        super().close()
        self._vision = self._language = self._table = None

    def contexts(self, texts: Sequence[Sequence[int]]) -> list[Any]:
        """Refuse: the plans hold no weights that a context could be held to bit for bit.

        :raises BackendError: Always.
        """
        raise BackendError(
            f'reasoner contexts: {len(texts)} were asked for, the backend tensorrt computes none; '
            'use the backends transformers or compiled')

    def _write(
        self, prompt: VideoPrompt, question: Question, watch: AnswerWatch,
        lane: int,  # noqa: ARG002 (every answer has a chain, and so a cache, of its own)
    ) -> int:
        from ..engine.errors import EngineError
        from ..engine.loaded_tower import language_chain

        # A chain takes what its runners wrote before anybody else can run them.
        chain = language_chain(self._language, self._source, str(self._device), self._table)
        try:
            logits, length, following = self._read(prompt, chain)
            room = self._language.manifest.key.shapes.cache - length
            for written in range(min(question.max_new_tokens, room + 1)):
                token = int(logits.argmax())
                if watch.see(token) or written == room:
                    break
                self._give_way()
                logits = chain.decode(token, following + written)
        except EngineError as error:
            raise BackendError(f'backend tensorrt: {error}') from error
        return length

    def _read(self, prompt: VideoPrompt, chain: Any) -> tuple[Any, int, float]:
        """Run the prompt; return logits, the tokens that the model saw, and the next one's position."""
        from ..engine.prompt_positions import prompt_positions

        torch, device = require('torch', 'model'), self._device
        visual = prompt.mm_token_type_ids[0] != 0
        positions, slots, following = prompt_positions(
            visual, prompt.video_grid_thw, self._settings.merge_size)
        tokens, deepstack, stays = self._see(prompt)
        ids, visual, positions, slots = (
            part.to(device) for part in (prompt.input_ids[0], visual, positions, slots))
        embedded = self._table[ids].float()
        embedded[visual] = tokens
        if self._rate:
            kept = ~visual
            kept[visual] = stays
            embedded, visual, positions = embedded[kept], visual[kept], positions[:, kept]
            slots = torch.where(visual, visual.long().cumsum(0) - 1, -1)
            deepstack = deepstack[:, stays]
        return chain.prefill(embedded, positions, slots, deepstack), len(embedded), following

    def _see(self, prompt: VideoPrompt) -> tuple[Any, Any, Any]:
        """Return vision tokens, deepstack features (levels, tokens, hidden) and what pruning keeps."""
        torch, (runner,) = require('torch', 'model'), self._vision.runners
        tokens, deepstack, stays, first = [], [], [], 0
        for grid in prompt.video_grid_thw.tolist():
            self._check_grid(grid)
            frames, count = grid[0], grid[0] * grid[1] * grid[2]
            patches = prompt.pixel_values_videos[first:first + count].reshape(frames, count // frames, -1)
            first += count
            seen = runner.run({'patches': patches.to(self._device, getattr(torch, self._vision.compute))})
            # The next clip is written where this one lies.
            tokens.append(seen['tokens'].flatten(0, 1).float().clone())
            deepstack.append(seen['deepstack'].flatten(1, 2).clone())
            if self._rate:
                stays.append(retention_mask(tokens[-1], frames, self._rate))
        return torch.cat(tokens), torch.cat(deepstack, 1), torch.cat(stays) if stays else None

    def _check_grid(self, grid: Sequence[int]) -> None:
        shapes, patch = self._vision.manifest.key.shapes, self._settings.patch_size
        if tuple(grid[1:]) != shapes.frame_grid or grid[0] > shapes.max_frames:
            rows, columns = shapes.frame_grid
            raise BackendError(
                f'clip: {grid[0]} temporal patches of {grid[2] * patch} x {grid[1] * patch} pixels arrived, '
                f'the plans take up to {shapes.max_frames} of {columns * patch} x {rows * patch}; change '
                'frames, max_frame_pixels or the cameras, or build with '
                f'--frame-grid {grid[1]} {grid[2]} --max-frames {grid[0]}')


def _check_gpu(device: str) -> None:
    torch = require('torch', 'model')
    if not device.startswith('cuda'):
        raise BackendError(
            f"device: '{device}' arrived, cuda or cuda:n is allowed: the backend tensorrt needs an RTX GPU")
    if not torch.cuda.device_count():
        raise BackendError(
            f"device: '{device}' arrived, and no NVIDIA GPU or no driver is here: the backend tensorrt needs "
            'an RTX GPU (compute capability 8.0, 8.6, 8.9 or 12.x); on a CPU use compiled or transformers')
