"""What a reasoner of ``cosmos3 train`` was trained on, as its checkpoint says: perception shows it that."""

import json
from pathlib import Path
from typing import Any

from ..model.checkpoint_init import METADATA_FILE

REPORT_TOKENS = 896
"""What a report may take. cosmos3-tiny's tokenizer writes numbers digit by digit: six things take 270."""


def trained_clips(checkpoint: Path) -> dict[str, Any]:
    """Return perception's parameters for a checkpoint, or nothing if it says nothing of the kind.

    :returns: ``cameras``, ``frames``, ``fps``, ``max_frame_pixels`` and ``max_new_tokens``.
    """
    try:
        about = json.loads((checkpoint / METADATA_FILE).read_text(encoding='utf-8'))
        settings = about['stages']['reasoner']['settings']
        return {'cameras': list(settings['cameras']), 'frames': int(settings['frames']),
                'fps': float(settings['fps']), 'max_frame_pixels': int(settings['max_frame_pixels']),
                'max_new_tokens': REPORT_TOKENS}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
