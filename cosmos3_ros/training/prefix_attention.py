"""Attention of sequences that begin with something all of their questions share.

Kernels that take a mask are slow, and reckon all of it. What is shared is causal, which the fastest ones know
without a mask, and is more than half of a sequence: a mask is needed for the rest alone.
"""

from typing import Any

from ..resources import require

torch = require('torch', 'model')
transformers = require('transformers', 'model')
_NAME, _USUAL = 'cosmos3_ros_prefix', 'sdpa'
_attend_usually = transformers.AttentionInterface()[_USUAL]


def attend(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, *, shared: int = 0, **options: Any,
) -> tuple[Any, None]:
    """Return (batch, tokens, heads, width), as every attention function of transformers.

    :param attention_mask: bool (batch, 1, tokens, tokens); None with ``shared`` 0: all is causal. Whole,
        although of the tokens that are shared nothing is read: Inductor (torch 2.11) writes wrong code for a
        length that is the sum of two unknown ones.
    :param shared: Tokens at the beginning, causal among themselves.
    """
    if not shared:
        found: tuple[Any, None] = _attend_usually(module, query, key, value, attention_mask, **options)
        return found
    first, _ = _attend_usually(
        module, query[:, :, :shared], key[:, :, :shared], value[:, :, :shared], None, **options)
    rest, _ = _attend_usually(
        module, query[:, :, shared:], key, value, attention_mask[:, :, shared:], **options)
    return torch.cat([first, rest], dim=1), None


def use(language_model: Any) -> None:
    """Let a language model's layers take ``shared`` (:func:`attend`); without it all is as before.

    :param language_model: transformers' ``Qwen3VLTextModel``; its config is changed.
    """
    transformers.AttentionInterface.register(_NAME, attend)
    transformers.AttentionMaskInterface.register(_NAME, transformers.AttentionMaskInterface()[_USUAL])
    language_model.config._attn_implementation = _NAME
