"""Where the moving links may be: a box, a table and further planes, in the base frame."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..contracts.arrays import check_names, frozen_array
from .errors import RobotError

FloatArray = NDArray[np.float64]
BOX_FACES = ('box_x_lower', 'box_y_lower', 'box_z_lower', 'box_x_upper', 'box_y_upper', 'box_z_upper')


@dataclass(frozen=True, slots=True, eq=False)
class Workspace:
    """Half-spaces that every moving capsule must stay in.

    A point x is inside a plane where ``normal . x >= offset``. The six faces of the box come first.

    :param lower_m: Shape (3,), lowest corner of the box in the base frame.
    :param upper_m: Shape (3,), highest corner.
    :param plane_names: P names; ``table`` is the one that the profile's table distance applies to.
    :param normals: Shape (P, 3), pointing inside, of length one.
    :param offsets_m: Shape (P,).
    """

    lower_m: FloatArray
    upper_m: FloatArray
    plane_names: tuple[str, ...]
    normals: FloatArray
    offsets_m: FloatArray
    names: tuple[str, ...] = field(init=False)
    _all_normals: FloatArray = field(init=False)
    _all_offsets: FloatArray = field(init=False)

    def __post_init__(self) -> None:
        """Check shapes and order, freeze the arrays."""
        lower = frozen_array('lower_m', self.lower_m, shape=(3,))
        upper = frozen_array('upper_m', self.upper_m, shape=(3,))
        if (lower >= upper).any():
            raise RobotError(f'workspace: the box {lower.tolist()} to {upper.tolist()} is empty')
        count = len(self.plane_names)
        normals = frozen_array('normals', np.reshape(self.normals, (-1, 3)), shape=(count, 3))
        offsets = frozen_array('offsets_m', self.offsets_m, shape=(count,))
        if (np.abs(np.linalg.norm(normals, axis=1) - 1.0) > 1e-6).any():
            raise RobotError('workspace: a plane normal must have length one')
        names = check_names('workspace names', (*BOX_FACES, *self.plane_names))
        faces = np.vstack([np.eye(3), -np.eye(3), normals])
        edges = np.concatenate([lower, -upper, offsets])
        for key, value in (
            ('lower_m', lower), ('upper_m', upper), ('normals', normals), ('offsets_m', offsets),
            ('names', names),
            ('_all_normals', frozen_array('normals', faces, shape=(6 + count, 3))),
            ('_all_offsets', frozen_array('offsets_m', edges, shape=(6 + count,))),
        ):
            object.__setattr__(self, key, value)

    def clearances(self, a: FloatArray, b: FloatArray, radius: FloatArray) -> FloatArray:
        """Return the signed clearance of every capsule from every plane.

        :param a: Shape (K, C, 3), one end of each segment, metres.
        :param b: Shape (K, C, 3), the other end.
        :param radius: Shape (C,), metres.
        :return: Shape (K, C, n), metres, n as in ``names``; negative is outside.
        """
        # With the configuration last, each capsule is one small product and memory stays contiguous.
        first = np.matmul(self._all_normals, a.transpose(1, 2, 0))
        second = np.matmul(self._all_normals, b.transpose(1, 2, 0))
        lowest = np.minimum(first, second) - (self._all_offsets + radius[:, None])[:, :, None]
        clearance: FloatArray = lowest.transpose(2, 0, 1)
        return clearance

    def distances(self, a: FloatArray, b: FloatArray, radius: FloatArray) -> FloatArray:
        """Return the same for the capsule that comes closest, (K, n)."""
        closest: FloatArray = self.clearances(a, b, radius).min(axis=1)
        return closest

    def chain_distances(self, ends: FloatArray, radius: FloatArray) -> FloatArray:
        """Return the same, (K, n), from ends as ``CapsuleModel.chain_distances`` gives them.

        :param ends: Shape (2, C, 3, K), metres.
        """
        along = np.matmul(self._all_normals, ends)
        along -= radius[:, None, None]
        lowest = along.reshape(-1, *along.shape[2:]).min(axis=0) - self._all_offsets[:, None]
        closest: FloatArray = lowest.T
        return closest
