"""Which size a video has when it reaches the vision tower."""

import math

from ..contracts import ContractError

FRAME_MULTIPLE = 32
"""Patch 16 times spatial merge 2: sides of every frame are multiples of this.

Source: ``vision_config`` of the Qwen3-VL-8B vision tower that Cosmos3-Nano carries.
"""

LARGEST_ASPECT = 200.0
"""Source: ``smart_resize`` of transformers 5.23 ``models/qwen3_vl/video_processing_qwen3_vl.py``."""


def bounded_size(
    frames: int,
    height: int,
    width: int,
    *,
    max_pixels: int,
    min_pixels: int = 0,
    multiple: int = FRAME_MULTIPLE,
    temporal: int = 2,
) -> tuple[int, int]:
    """Return (height, width) of a clip's frames inside a budget of frames x height x width pixels.

    Sides are multiples of ``multiple``, the aspect ratio is kept as far as that allows. Gives the
    size that transformers' Qwen3-VL video processor gives for the same budget (a test compares), so
    a clip of this size passes that processor unscaled.

    :param frames: Frames in the clip, at least 1.
    :param max_pixels: Largest frames x height x width.
    :param min_pixels: Smallest frames x height x width; smaller clips are enlarged.
    :raises ContractError: Empty or extremely elongated frames, or a budget below one multiple.
    """
    if frames < 1 or height < 1 or width < 1:
        raise ContractError(
            f'clip: {frames} frames of {height} x {width} arrived, at least 1 of each is needed')
    if max_pixels < temporal * multiple * multiple or min_pixels > max_pixels:
        raise ContractError(
            f'max_clip_pixels: {max_pixels} arrived, at least {temporal * multiple * multiple} and not '
            f'below min_clip_pixels ({min_pixels}) is allowed')
    if max(height, width) / min(height, width) > LARGEST_ASPECT:
        raise ContractError(
            f'clip: frames of {height} x {width} arrived, '
            f'an aspect ratio up to {LARGEST_ASPECT:g} is allowed')
    # An odd or single frame is repeated up to the temporal patch before it is counted.
    frames += -frames % temporal
    tall, wide = float(height), float(width)
    if min(tall, wide) < multiple:
        enlarge = max(multiple / tall, multiple / wide)
        tall, wide = float(int(tall * enlarge)), float(int(wide * enlarge))
    rows = max(1, round(tall / multiple))
    columns = max(1, round(wide / multiple))
    area = frames * rows * columns * multiple * multiple
    if area > max_pixels:
        shrink = math.sqrt(frames * tall * wide / max_pixels)
        rows = max(1, math.floor(tall / shrink / multiple))
        columns = max(1, math.floor(wide / shrink / multiple))
    elif area < min_pixels:
        enlarge = math.sqrt(min_pixels / (frames * tall * wide))
        rows = math.ceil(tall * enlarge / multiple)
        columns = math.ceil(wide * enlarge / multiple)
    # A side at its minimum of one multiple, or rounding up, may leave the other too long for the budget.
    most = max_pixels // (frames * multiple * multiple)
    if rows * columns > most:
        rows, columns = (max(1, most // columns), columns) if rows > columns else (rows, max(1, most // rows))
    return rows * multiple, columns * multiple
