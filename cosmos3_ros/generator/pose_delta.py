"""Deltas of an end effector's pose, integrated: the ``eef_delta`` contract's geometry.

A delta is nine numbers, ``[dx dy dz | rot6d]``, in the frame that the previous row left the effector in
(convention ``backward_framewise``): ``T[t+1] = T[t] D[t]``. rot6d holds the first two columns of the
rotation, one after the other. What a model answers is no exact rotation, so the nearest one is taken.
Source: cosmos-framework ``pose_utils.py`` (facts sheet 1.4).
"""

import numpy as np
from numpy.typing import NDArray

from .policy import PolicyError

Array = NDArray[np.float64]

WIDTH = 9
_SMALLEST_SPREAD = 1e-6


def rotation_of(rot6d: Array) -> Array:
    """Return the rotation nearest to two given columns, (..., 3, 3) of (..., 6).

    The third column is their cross product; then the singular values are set to one, which gives the
    nearest rotation in the Frobenius norm.

    :raises PolicyError: Columns that are zero or parallel: they name no rotation.
    """
    first, second = rot6d[..., :3], rot6d[..., 3:]
    third = np.cross(first, second)
    if not np.isfinite(rot6d).all() or (np.linalg.norm(third, axis=-1) < _SMALLEST_SPREAD).any():
        raise PolicyError('pose delta: rot6d with zero, parallel or infinite columns arrived: no rotation')
    left, _, right = np.linalg.svd(np.stack([first, second, third], axis=-1))
    # Two columns and their cross product are right-handed, so is what is nearest to them.
    return np.asarray(left @ right)


def rot6d_of(rotation: Array) -> Array:
    """Return the first two columns of rotations, (..., 6) of (..., 3, 3)."""
    return np.concatenate([rotation[..., :, 0], rotation[..., :, 1]], axis=-1)


def integrate_deltas(rotation: Array, position_m: Array, deltas: Array) -> tuple[Array, Array]:
    """Return the poses after each delta, R (H, 3, 3) and p (H, 3) in metres.

    :param rotation: Shape (3, 3), where the effector is now.
    :param position_m: Shape (3,).
    :param deltas: Shape (H, 9).
    :raises PolicyError: Another shape, or a delta without a rotation.
    """
    if deltas.ndim != 2 or deltas.shape[1] != WIDTH:
        raise PolicyError(f'pose delta: actions of shape {deltas.shape} arrived, (H, {WIDTH}) is needed')
    turns = rotation_of(deltas[:, 3:])
    rotations, positions = np.empty((len(deltas), 3, 3)), np.empty((len(deltas), 3))
    for i, (step, turn) in enumerate(zip(deltas[:, :3], turns, strict=True)):
        position_m = position_m + rotation @ step
        rotation = rotation @ turn
        rotations[i], positions[i] = rotation, position_m
    return rotations, positions


def deltas_between(rotations: Array, positions_m: Array) -> Array:
    """Return the deltas (H, 9) that lead along H + 1 poses: the inverse of :func:`integrate_deltas`."""
    back = np.swapaxes(rotations[:-1], -1, -2)
    steps = np.einsum('hij,hj->hi', back, np.diff(positions_m, axis=0))
    return np.concatenate([steps, rot6d_of(back @ rotations[1:])], axis=-1)
