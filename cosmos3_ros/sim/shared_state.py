"""The picture's state, shared between the physics process and the render process.

A seqlock over anonymous memory (``memfd_create``): the writer never waits, a reader that was overtaken
reads again. The memory has no name, so nothing can be left behind in /dev/shm, whoever dies first.
"""

from dataclasses import asdict, dataclass
import json
import mmap
import os
import struct
import time
import zlib

import numpy as np
from numpy.typing import NDArray

from .configuration import SimulationConfig, SimulationError

_MAGIC = b'cosmos3s'
# magic, bytes of the JSON text, numbers in qpos
_HEADER = struct.Struct('<8sQQ')
# sequence (odd while being written), CRC-32 of the body
_LOCK = struct.Struct('<QQ')
# time_ns, episode, seed, zone x, zone y; qpos follows
_BODY = struct.Struct('<qQQdd')
_ATTEMPTS = 1000
_PAUSE_S = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class DrawnState:
    """What a picture shows.

    :param stamp_ns: Simulated time.
    :param qpos: Generalised positions, MuJoCo's order.
    :param zone_xy: Shape (2,), metres.
    """

    stamp_ns: int
    episode: int
    seed: int
    zone_xy: NDArray[np.float64]
    qpos: NDArray[np.float64]


class SharedState:
    """One writer, any number of readers. Made by :meth:`create`, opened elsewhere by its descriptor."""

    def __init__(self, descriptor: int) -> None:
        """Open the memory behind ``descriptor``, which this object then owns.

        :raises SimulationError: It is not a shared simulation state.
        """
        self._descriptor = descriptor
        size = os.fstat(descriptor).st_size
        if size < _HEADER.size:
            raise SimulationError(f'shared state: {size} bytes arrived, that is no simulation state')
        self._memory = mmap.mmap(descriptor, size)
        magic, text_size, self._positions = _HEADER.unpack_from(self._memory)
        self._lock_at = _HEADER.size + text_size
        self._body_at = self._lock_at + _LOCK.size
        self._body_size = _BODY.size + 8 * self._positions
        if magic != _MAGIC or self._body_at + self._body_size != size:
            raise SimulationError(f'shared state: {size} bytes with mark {magic!r} are no simulation state')
        settings = json.loads(self._memory[_HEADER.size:self._lock_at])
        self.config = SimulationConfig(**{**settings, 'cubes': tuple(settings['cubes'])})
        self._sequence = 0

    @classmethod
    def create(cls, config: SimulationConfig, positions: int) -> 'SharedState':
        """Make the memory for a scene.

        :param config: Handed to whoever opens it, so that both build the same scene.
        :param positions: Length of ``qpos``.
        """
        text = json.dumps(asdict(config)).encode()
        descriptor = os.memfd_create('cosmos3_simulation', os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _HEADER.size + len(text) + _LOCK.size + _BODY.size + 8 * positions)
        os.pwrite(descriptor, _HEADER.pack(_MAGIC, len(text), positions) + text, 0)
        return cls(descriptor)

    @property
    def descriptor(self) -> int:
        """File descriptor to pass to the other process."""
        return self._descriptor

    def write(self, state: DrawnState) -> None:
        """Replace the state.

        :raises SimulationError: ``qpos`` has another length than the memory was made for.
        """
        if len(state.qpos) != self._positions:
            raise SimulationError(
                f'shared state: {len(state.qpos)} positions arrived, {self._positions} are allowed')
        x, y = state.zone_xy
        body = _BODY.pack(state.stamp_ns, state.episode, state.seed, x, y) + np.asarray(
            state.qpos, dtype='<f8').tobytes()
        # Python cannot fence memory. The sequence catches a writer that came between on machines that keep
        # the order of stores; the checksum catches it on all.
        _LOCK.pack_into(self._memory, self._lock_at, self._sequence + 1, 0)
        self._memory[self._body_at:] = body
        self._sequence += 2
        _LOCK.pack_into(self._memory, self._lock_at, self._sequence, zlib.crc32(body))

    def read(self) -> DrawnState | None:
        """Return the newest state, or None before the first one.

        :raises SimulationError: No consistent state could be read, because the writer died half-way.
        """
        for attempt in range(_ATTEMPTS):
            if attempt >= 10:
                # The writer was interrupted half-way: let it run.
                time.sleep(_PAUSE_S)
            before, checksum = _LOCK.unpack_from(self._memory, self._lock_at)
            if before == 0:
                return None
            body = self._memory[self._body_at:self._body_at + self._body_size]
            after, _ = _LOCK.unpack_from(self._memory, self._lock_at)
            if before == after and before % 2 == 0 and zlib.crc32(body) == checksum:
                stamp, episode, seed, x, y = _BODY.unpack_from(body)
                qpos = np.frombuffer(body, dtype='<f8', offset=_BODY.size)
                return DrawnState(stamp, episode, seed, np.array([x, y]), qpos)
        raise SimulationError('shared state: no consistent state in 1000 attempts, the writer is gone')

    def close(self) -> None:
        """Unmap and close. A second call does nothing."""
        if self._descriptor >= 0:
            self._memory.close()
            os.close(self._descriptor)
            self._descriptor = -1
