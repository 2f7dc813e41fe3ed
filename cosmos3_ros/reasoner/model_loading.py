"""Load a reasoner with transformers: Cosmos3-Nano's class, or Cosmos3-Edge's."""

import json
from pathlib import Path
from typing import Any

from ..resources import require
from .backend import BackendError

OMNI, EDGE = 'cosmos3_omni', 'cosmos3_edge'

_CLASSES = {
    OMNI: ('Cosmos3OmniForConditionalGeneration', 'Nano, Super, tiny'),
    EDGE: ('Cosmos3EdgeForConditionalGeneration', 'Edge'),
}
"""By ``model_type`` of a checkpoint's config.json: transformers' class, and the models that it is for."""

NEWEST_NEEDED = '5.23'
"""transformers with both classes. Source: read in and run with 5.23."""


def load_model(
    directory: Path, dtype: Any, device: Any, allowed: tuple[str, ...] = (OMNI,),
) -> tuple[Any, Any]:
    """Return a checkpoint's model, ready to run, and its tokenizer.

    :param allowed: Keys of the classes that the caller can run.
    :raises BackendError: Missing or foreign files, or transformers is too old for them.
    """
    transformers = require('transformers', 'model')
    name = find_class(transformers, directory, allowed)
    try:
        model = getattr(transformers, name).from_pretrained(directory, dtype=dtype, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise BackendError(f'checkpoint: {directory} cannot be loaded: {error}') from error
    return model.to(device).eval().requires_grad_(False), load_tokenizer(directory)


def find_class(transformers: Any, directory: Path, allowed: tuple[str, ...]) -> str:
    """Return the name of the class in ``transformers`` that a checkpoint is for.

    :raises BackendError: It is for none of ``allowed``, or this transformers lacks the class.
    """
    try:
        kind = json.loads((directory / 'config.json').read_text(encoding='utf-8')).get('model_type')
    except (OSError, ValueError, AttributeError) as error:
        raise BackendError(f'checkpoint: {directory} cannot be loaded: config.json: {error}') from error
    if kind not in allowed:
        names = ' or '.join(f"'{key}' ({_CLASSES[key][1]})" for key in allowed)
        hint = '; the backend transformers can run it' if kind in _CLASSES else ''
        raise BackendError(f"checkpoint: {directory} holds a '{kind}', {names} is allowed{hint}")
    name, models = _CLASSES[kind]
    if not hasattr(transformers, name):
        raise BackendError(
            f"checkpoint: {directory} holds a '{kind}' ({models}), and transformers "
            f'{transformers.__version__} has no {name}; install transformers >= {NEWEST_NEEDED}')
    return name


def load_tokenizer(directory: Path) -> Any:
    """Return a checkpoint's tokenizer.

    :raises BackendError: There is none, or it has no chat template.
    """
    try:
        tokenizer = require('transformers', 'model').AutoTokenizer.from_pretrained(
            directory, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise BackendError(f'checkpoint: {directory}: its tokenizer cannot be loaded: {error}') from error
    if not tokenizer.chat_template:
        raise BackendError(f'checkpoint: {directory} has no chat template (chat_template.jinja)')
    return tokenizer


def read_ends(directory: Path) -> frozenset[int]:
    """Return the tokens with which a checkpoint's model ends an answer.

    :raises BackendError: generation_config.json does not say it.
    """
    try:
        said = json.loads((directory / 'generation_config.json').read_text(encoding='utf-8'))['eos_token_id']
        return frozenset(int(token) for token in (said if isinstance(said, list) else [said]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackendError(
            f'checkpoint: {directory}: generation_config.json names no eos_token_id: {error!r}') from error
