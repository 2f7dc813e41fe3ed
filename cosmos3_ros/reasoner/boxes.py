"""The model's 0..1000 coordinates, as fractions and as pixels."""

from typing import Any

from .json_scan import brief

SCALE = 1000.0
"""Cosmos 3 writes coordinates 0..1000 per axis, origin top left; pixel = value / 1000 * size.

Source: NVIDIA/cosmos, reasoner prompt guide.
"""

SLACK = 10.0
"""A coordinate this far outside 0..1000 is rounding and clipped; further out it is an error."""

Box = tuple[float, float, float, float]


class BoxError(ValueError):
    """Not a box or point as asked for. The text says what arrived and what is allowed."""


def read_box(value: Any, image_size: tuple[int, int]) -> tuple[Box, Box]:
    """Return a ``bbox_2d`` as (fractions, pixels), each x1, y1, x2, y2.

    :param image_size: Height and width of the camera's image in pixels.
    :raises BoxError: Not four finite numbers in 0..1000, or x2 < x1, or y2 < y1.
    """
    x1, y1, x2, y2 = _read_numbers('bbox_2d', value, 4)
    if x2 < x1 or y2 < y1:
        raise BoxError(f'bbox_2d: {[x1, y1, x2, y2]} arrived, x1 <= x2 and y1 <= y2 is allowed')
    height, width = image_size
    left, top, right, bottom = x1 / SCALE, y1 / SCALE, x2 / SCALE, y2 / SCALE
    return (left, top, right, bottom), (left * width, top * height, right * width, bottom * height)


def read_point(value: Any, image_size: tuple[int, int]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return a ``point_2d`` as (fractions, pixels), each x, y.

    :raises BoxError: Not two finite numbers in 0..1000.
    """
    x, y = _read_numbers('point_2d', value, 2)
    height, width = image_size
    return (x / SCALE, y / SCALE), (x / SCALE * width, y / SCALE * height)


def _read_numbers(name: str, value: Any, count: int) -> list[float]:
    allowed = f'{count} numbers of 0 to {SCALE:g} are allowed'
    if not isinstance(value, list) or len(value) != count:
        raise BoxError(f'{name}: {brief(value)} arrived, {allowed}')
    numbers: list[float] = []
    for entry in value:
        # JSON's true is a Python int; 1e999 is an infinity, which no range holds.
        number = isinstance(entry, (int, float)) and not isinstance(entry, bool)
        if not number or not -SLACK <= entry <= SCALE + SLACK:
            raise BoxError(f'{name}: {brief(value)} arrived, {allowed}')
        numbers.append(min(max(float(entry), 0.0), SCALE))
    return numbers
