"""What the generation tower reads of the language model stays, while the rest of it goes on learning.

The tower sees a text as the understanding tower's keys and values, and those weights are the reasoner's
language model. A reasoner that is trained further changes them, and the tower would have to be trained again.
Here the keys and values of the policy's own prompts are held to what they were: some hundred texts out of all
that a language model can read, and no picture is in them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..generator.prompt import UNCONDITIONAL
from ..model.device_transfer import send
from ..resources import require
from ..sim.configuration import CUBE_COLOURS
from ..sim.tasks import INSTRUCTIONS
from .episode_instructions import WORDINGS

torch = require('torch', 'model')

DRAWN = 16
"""Texts of a forward."""
_STREAM = 11


def policy_texts() -> tuple[str, ...]:
    """Return every instruction that recordings word, and the empty text."""
    sentences = [
        wording.format(colour=colour) for task, plain in INSTRUCTIONS.items()
        for wording in (plain, *WORDINGS[task]) for colour in CUBE_COLOURS]
    spelled = [text[0].upper() + text[1:] if large else text for text in sentences for large in (False, True)]
    return (UNCONDITIONAL, *(text + stop for text in spelled for stop in ('', '.')))


class KeptContexts:
    """Keys and values of texts, as they are when this is made: targets for those of later weights.

    :param language_model: transformers' ``Qwen3VLTextModel``.
    :param texts: Token ids of each, as the tower reads them.
    :param seed: Of the texts drawn in a forward.
    """

    def __init__(self, language_model: Any, texts: Sequence[Sequence[int]], seed: int) -> None:
        self._model, self._seed = language_model, seed
        longest = max(len(ids) for ids in texts)
        device = language_model.embed_tokens.weight.device
        # Padding stands at the end, where causality hides it.
        self._ids = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in texts], device=device)
        self._mask = torch.tensor([[i < len(ids) for i in range(longest)] for ids in texts], device=device)
        with torch.no_grad():
            parts = [self._states(self._ids[i:i + DRAWN]) for i in range(0, len(texts), DRAWN)]
        self._targets = [torch.cat(layer) for layer in zip(*parts, strict=True)]
        self._scales = [float(layer[self._mask].square().mean()) for layer in self._targets]

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self._ids)

    def measure(self, step: int, part: int) -> Any:
        """Return how far some texts' keys and values are from what they were; see :meth:`compare`."""
        rng = np.random.default_rng([self._seed, _STREAM, step, part])
        return self.compare(send(torch.from_numpy(rng.permutation(len(self))[:DRAWN]), self._ids.device))

    def compare(self, places: Any) -> Any:
        """Return how far keys and values of texts are from what they were.

        :param places: int64 (texts,), which.
        :return: Mean square of the difference over that of all targets, mean over layers, keys and values.
        """
        mask = self._mask[places][..., None]
        total = 0.0
        found = self._states(self._ids[places])
        for states, targets, scale in zip(found, self._targets, self._scales, strict=True):
            squares = torch.where(mask, states - targets[places], 0.0).square()
            total = total + squares.sum() / (mask.sum() * states.shape[-1] * scale)
        return total / len(found)

    def _states(self, ids: Any) -> list[Any]:
        """Return keys and values of every layer, (texts, tokens, width).

        Keys without their rotation, which changes no distance.
        """
        model = self._model
        # Without autocast: a difference of some thousandths would drown in bfloat16.
        with torch.autocast(ids.device.type, enabled=False):
            hidden = model.embed_tokens(ids)
            positions = torch.arange(ids.shape[1], device=ids.device).expand(3, *ids.shape)
            turns = model.rotary_emb(hidden, positions)
            found = []
            for i, layer in enumerate(model.layers):
                attention, normed = layer.self_attn, layer.input_layernorm(hidden)
                key = attention.k_proj(normed).unflatten(-1, (-1, attention.head_dim))
                found += [attention.k_norm(key).flatten(-2).float(), attention.v_proj(normed).float()]
                if i + 1 < len(model.layers):
                    # Not layer(): that may be compiled, for sequences with pictures.
                    hidden = layer.forward(hidden, position_embeddings=turns, attention_mask=None)
        return found
