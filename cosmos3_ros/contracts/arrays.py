"""Arrays as they cross a seam: C-contiguous, read-only, of a checked shape and finite."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray


class ContractError(ValueError):
    """Data that does not fit a contract. The text says what arrived and what is allowed."""


def frozen_array(
    name: str,
    value: ArrayLike,
    *,
    shape: tuple[int | None, ...],
    dtype: DTypeLike = np.float64,
    finite: bool = True,
) -> NDArray[Any]:
    """Return a read-only, C-contiguous copy of ``value`` (no copy if it already is one).

    :param name: How errors call the array.
    :param value: Anything numpy turns into an array.
    :param shape: Expected length per axis; ``None`` allows any length.
    :param finite: Refuse NaN and infinities (floating types only).
    :raises ContractError: Wrong shape, a type that cannot be converted, or a non-finite value.
    """
    try:
        array = np.asarray(value, dtype=dtype, order='C')
    except (TypeError, ValueError) as error:
        raise ContractError(f'{name}: cannot be read as {np.dtype(dtype)}: {error}') from error
    if array.ndim != len(shape) or any(
        want is not None and got != want for got, want in zip(array.shape, shape, strict=True)
    ):
        allowed = ', '.join('any' if n is None else str(n) for n in shape)
        raise ContractError(f'{name}: shape {array.shape} arrived, ({allowed}) is allowed')
    if finite and array.dtype.kind == 'f' and not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ContractError(f'{name}: {array[where]} arrived at index {where}, finite numbers are allowed')
    if array.flags.writeable:
        # The caller may keep writing into its own buffer, so a frozen value owns its memory.
        array = array.copy()
        array.setflags(write=False)
    return array


def check_names(name: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``names`` as a tuple of distinct, non-empty strings.

    :raises ContractError: Empty, repeated or non-string names.
    """
    names = tuple(names)
    if not names or any(not isinstance(n, str) or not n for n in names):
        raise ContractError(f'{name}: {names!r} arrived, non-empty names are allowed')
    if len(set(names)) != len(names):
        raise ContractError(f'{name}: {names!r} arrived, each name may stand once')
    return names
