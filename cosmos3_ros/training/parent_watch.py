"""Processes of a pool that end with the process that made them."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """End this process once its parent has, however that ended.

    A pool's processes wait for work, or for somebody to take what they made, for ever.
    """
    threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
