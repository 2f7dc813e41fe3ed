"""A process that gives way to others on few cores."""

import contextlib
import os
from pathlib import Path

MOST = 19
"""The largest niceness of Linux; negative ones need privileges, and what must not wait runs SCHED_FIFO."""


def give_way(nice: int) -> None:
    """Raise the niceness of all threads of this process to ``nice``; never lowers it.

    Linux keeps it per thread, and a new thread takes that of the one which starts it. Where the kernel groups
    processes by session (sched(7), autogroup) it only counts inside a session: a process that leads one, as
    each child of ``cosmos3`` does, sets the session's too.
    """
    if nice <= 0:
        return
    for thread in Path('/proc/self/task').iterdir():
        with contextlib.suppress(ProcessLookupError):
            if os.getpriority(os.PRIO_PROCESS, int(thread.name)) < nice:
                os.setpriority(os.PRIO_PROCESS, int(thread.name), nice)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            Path('/proc/self/autogroup').write_text(str(nice))
