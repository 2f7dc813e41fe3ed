"""The token ids of a generator's text: one user turn through the chat template, and its tail."""

from typing import Any

from .checkpoint import CheckpointError


def prompt_tokens(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Return the ids of ``text`` as the generator was trained to read it.

    No system prompt; after the assistant's opening stand the end-of-turn token and the one that
    starts vision. Source: diffusers ``Cosmos3OmniPipeline.tokenize_prompt``; for actions
    cosmos-framework sets ``use_system_prompt`` to false.

    :raises CheckpointError: The tokenizer lacks a chat template or a special token.
    """
    start = tokenizer.convert_tokens_to_ids('<|vision_start|>')
    if tokenizer.chat_template is None or start is None or tokenizer.eos_token_id is None:
        raise CheckpointError(
            'checkpoint: text_tokenizer/ has no chat template, no <|vision_start|> or no end-of-turn token')
    turn = tokenizer.apply_chat_template(
        [{'role': 'user', 'content': text}], tokenize=True, add_generation_prompt=True,
        add_vision_id=False, return_dict=True)
    return (*(int(i) for i in turn['input_ids']), int(tokenizer.eos_token_id), int(start))
