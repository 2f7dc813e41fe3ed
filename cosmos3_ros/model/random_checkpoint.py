"""An untrained tiny checkpoint in the user's cache, to try things out and to compare with."""

import logging
import os
from pathlib import Path
import shutil

RANDOM_TINY = 'cosmos3-tiny-random'
"""Name under which a checkpoint parameter asks for it."""
CACHE_NAME = 'cosmos3_ros'

logger = logging.getLogger(__name__)


def ensure_random_checkpoint() -> Path:
    """Return the directory of the untrained tiny checkpoint, made on first use.

    It is written under another name until it is complete, so that an interrupted or a second process never
    leaves or sees half of it.
    """
    from .checkpoint import Checkpoint, CheckpointError
    from .checkpoint_init import init_checkpoint

    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / CACHE_NAME
    target = cache / RANDOM_TINY
    if target.is_dir():
        try:
            Checkpoint.open(target)
        except CheckpointError as error:
            logger.warning('%s is of an older version and is made again: %s', target, error)
            shutil.rmtree(target)
    if not target.is_dir():
        logger.info('making an untrained tiny checkpoint in %s', target)
        scratch = cache / f'{RANDOM_TINY}.{os.getpid()}'
        init_checkpoint(scratch)
        try:
            scratch.rename(target)
        except OSError:
            # Somebody else was faster; theirs has the same bytes.
            shutil.rmtree(scratch, ignore_errors=True)
            if not target.is_dir():
                raise
    return target
