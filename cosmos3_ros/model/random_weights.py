"""Random weights that are the same on every machine: one numpy stream per tensor name."""

from typing import Any
import zlib

import numpy as np

from cosmos3_ros.resources import require


def draw(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the initial value of the tensor called ``name``.

    Norms start at one, biases at zero, matrices and convolutions at variance 1 / fan-in, so that
    signals keep their size through the network.

    :param name: Key in the state dict; it selects the stream, so the order of tensors does not matter.
    """
    if name.endswith(('bias', 'bias.weight')):
        return np.zeros(shape, np.float32)
    if 'norm' in name or name.endswith('gamma'):
        return np.ones(shape, np.float32)
    stream = np.random.RandomState(zlib.crc32(f'{seed}/{name}'.encode()))
    value: np.ndarray[Any, np.dtype[np.float32]] = stream.standard_normal(shape).astype(np.float32)
    return value * np.float32(scale_of(name, shape))


def scale_of(name: str, shape: tuple[int, ...]) -> float:
    """Return the standard deviation that a matrix, embedding or convolution starts with."""
    if name == 'embed_tokens.weight':
        return 1.0
    if name == 'pos_embed.weight' or len(shape) == 1:
        return 0.02
    if name in ('action_proj_in.fc.weight', 'action_proj_out.fc.weight'):
        # Each row holds one domain's matrix; its other side is the action's width.
        width = 64
        return float((width if '_in.' in name else shape[1] // width) ** -0.5)
    return float(np.prod(shape[1:]) ** -0.5)


def random_state(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Any]:
    """Return bfloat16 torch tensors for ``shapes``, in the order of their names."""
    torch = require('torch', 'model')
    return {
        name: torch.from_numpy(draw(name, shapes[name], seed)).to(torch.bfloat16).contiguous()
        for name in sorted(shapes)
    }
