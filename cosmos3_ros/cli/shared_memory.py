"""Shared memory of Fast DDS: which segments exist, which are dead, remove the dead ones that are ours.

A killed process leaves its segment (64 MB with the shipped profile) behind. Beside each segment or port lies
a lock file ``…_el`` or ``…_sl`` that its owner holds with ``flock`` while it lives; this is what Fast DDS's
own ``fastdds shm clean`` tests too.
"""

import fcntl
from pathlib import Path
import re

SHARED_MEMORY = Path('/dev/shm')
_PORT = re.compile(r'^fastdds_port(\d{1,5})$')
_LOCK = re.compile(r'^fastdds_([0-9a-z]{16}|port\d{1,5})_(el|sl)$')


def list_files(directory: Path = SHARED_MEMORY) -> frozenset[str]:
    """Return the names of everything in shared memory now; empty where the machine has none."""
    try:
        return frozenset(path.name for path in directory.iterdir())
    except FileNotFoundError:
        return frozenset()


def dead_files(directory: Path = SHARED_MEMORY) -> list[str]:
    """Return the names of segments and ports whose owner is gone."""
    return [match.group(0).rsplit('_', 1)[0] for name in sorted(list_files(directory))
            if (match := _LOCK.match(name)) is not None and not _is_locked(directory / name)]


def clean_dead_segments(
    before: frozenset[str], directory: Path = SHARED_MEMORY, ports: range = range(0),
) -> list[str]:
    """Remove dead Fast DDS segments and ports that are not in ``before``.

    :param before: What :func:`list_files` returned before our processes started; it stays untouched.
    :param ports: Ports of a domain that only our processes used: there a port without a lock file is dead
        too (its owner was killed between making the one and the other).
    :return: Names of the removed files.
    """
    removed: list[str] = []
    for name in sorted(list_files(directory)):
        match = _LOCK.match(name)
        if match is None or name in before or _is_locked(directory / name):
            continue
        stem = f'fastdds_{match.group(1)}'
        for file in (stem, name, f'sem.{stem}_mutex'):
            if file in before:
                continue
            try:
                (directory / file).unlink()
            except FileNotFoundError:
                continue
            removed.append(file)
    for name in sorted(list_files(directory) - before):
        match = _PORT.match(name)
        if match is None or int(match.group(1)) not in ports:
            continue
        if not any((directory / f'{name}_{kind}').exists() for kind in ('el', 'sl')):
            for file in (name, f'sem.{name}_mutex'):
                (directory / file).unlink(missing_ok=True)
                removed.append(file)
    return removed


def _is_locked(path: Path) -> bool:
    """Return whether a living process holds the lock file."""
    try:
        with path.open('ab') as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        # Gone meanwhile: its owner has cleaned up, so there is nothing for us to remove.
        return True
    except OSError:
        return True
    return False
