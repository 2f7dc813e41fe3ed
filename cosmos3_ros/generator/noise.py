"""The explicit noise that a chunk starts from.

NVIDIA's server draws it on the CPU with numpy, so that it is the same on every machine, and draws
video and actions from the same seed independently: their first values coincide. Source:
cosmos-framework ``utils/misc.py::arch_invariant_rand`` (facts sheet 2b.5).
"""

import numpy as np
from numpy.typing import NDArray

from .policy import PolicyError


def draw_noise(seed: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return standard normal numbers, float32 of ``shape`` in C order.

    :param seed: 0..2**32-1.
    :raises PolicyError: The seed is outside that range.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**32:
        raise PolicyError(f'seed: {seed!r} arrived, 0 to {2**32 - 1} is allowed')
    # The legacy generator is meant: its stream is frozen, and it is the one NVIDIA's server uses.
    stream = np.random.RandomState(int(seed))
    noise: NDArray[np.float32] = stream.standard_normal(shape).astype(np.float32)
    return noise
