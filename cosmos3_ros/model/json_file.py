"""Read a config of a checkpoint."""

import json
from pathlib import Path
from typing import Any

from .checkpoint import CheckpointError


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    :raises CheckpointError: The file cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise CheckpointError(f'checkpoint: {path} cannot be read: {error}') from error
    if not isinstance(content, dict):
        raise CheckpointError(f'checkpoint: {path} holds a {type(content).__name__}, an object is needed')
    return content
