"""The reference backend: ``generate`` of transformers' Cosmos 3 classes, greedy."""

from typing import Any

from ..resources import require
from .answer_watch import AnswerWatch
from .local_backend import LocalBackend
from .model_loading import EDGE, OMNI
from .questions import Question
from .video_prompt import VideoPrompt
from .vision_encoding import encode_prompt


class TransformersBackend(LocalBackend):
    """Runs a checkpoint with transformers; parameters as :class:`LocalBackend`."""

    engine = 'transformers'
    model_types = (OMNI, EDGE)

    def _write(
        self, prompt: VideoPrompt, question: Question, watch: AnswerWatch,
        lane: int,  # noqa: ARG002 (generate makes a cache for every answer)
    ) -> int:
        torch = require('torch', 'model')
        inputs, inner = self._inputs(prompt), self._model.model

        def stop(input_ids: Any, _scores: Any, **_options: Any) -> Any:
            last = watch.see(int(input_ids[0, -1]))
            if not last:
                # The one thing that transformers keeps in the model and not in the answer's own cache.
                kept = inner.rope_deltas
                self._give_way()
                inner.rope_deltas = kept
            return torch.full((1,), last, device=input_ids.device)

        self._model.generate(
            **inputs, max_new_tokens=question.max_new_tokens, do_sample=False, stopping_criteria=[stop],
            pad_token_id=self._tokenizer.pad_token_id)
        return int(inputs['input_ids'].shape[1])

    def _inputs(self, prompt: VideoPrompt) -> dict[str, Any]:
        """Return the arguments of ``generate``."""
        torch = require('torch', 'model')
        if self._rate:
            return pruned_inputs(self._model, prompt, self._rate)
        ids = prompt.input_ids.to(self._device)
        return {
            'input_ids': ids, 'attention_mask': torch.ones_like(ids),
            'mm_token_type_ids': prompt.mm_token_type_ids.to(self._device),
            'pixel_values_videos': prompt.pixel_values_videos.to(self._device, self._model.dtype),
            'video_grid_thw': prompt.video_grid_thw.to(self._device)}


def pruned_inputs(model: Any, prompt: VideoPrompt, rate: float) -> dict[str, Any]:
    """Return the arguments of ``generate`` with vision tokens pruned."""
    torch = require('torch', 'model')
    encoded = encode_prompt(model, prompt, rate)
    order = torch.arange(encoded.input_ids.shape[1], device=encoded.input_ids.device).view(1, 1, -1)
    return {
        'input_ids': encoded.input_ids, 'attention_mask': torch.ones_like(encoded.input_ids),
        # transformers carries the plain order, for the causal mask, before the three rotary axes.
        'position_ids': torch.cat([order, encoded.positions]),
        'mm_encoder_outputs': {'video': encoded.vision}}
