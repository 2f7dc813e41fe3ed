"""The fast local backend: transformers' vision tower, our static language model."""

from collections.abc import Callable
from pathlib import Path
import time
from typing import Any

from ..resources import require
from .local_backend import AnswerWatch, LocalBackend
from .questions import Question
from .static_decoder import StaticDecoder
from .video_prompt import VideoPrompt
from .vision_encoding import encode_prompt


class CompiledBackend(LocalBackend):
    """Writes the tokens that the reference writes, sooner.

    The language model runs on a static cache; on a GPU each decode step is one CUDA graph, on the CPU
    the same steps run one by one. Parameters as :class:`LocalBackend`.
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
        clock_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(
            checkpoint, device=device, dtype=dtype, threads=threads, max_clip_pixels=max_clip_pixels,
            video_pruning_rate=video_pruning_rate, clock_s=clock_s)
        with require('torch', 'model').inference_mode():
            self._decoder: Any = StaticDecoder(self._model)

    def close(self) -> None:
        """Release the model and its caches."""
        super().close()
        self._decoder = None

    def _write(self, prompt: VideoPrompt, question: Question, watch: AnswerWatch) -> int:
        torch = require('torch', 'model')
        encoded = encode_prompt(self._model, prompt, self._rate)
        visual = encoded.visual[0]
        embeddings = self._model.get_input_embeddings()(encoded.input_ids)[0]
        embeddings[visual] = torch.cat(encoded.vision.pooler_output).to(embeddings.dtype)
        deepstack = [torch.cat(level) for level in encoded.vision.deepstack_features]
        for token in self._decoder.write(
                embeddings, encoded.positions, visual, deepstack, question.max_new_tokens):
            if watch.see(token):
                break
        return int(encoded.input_ids.shape[1])
