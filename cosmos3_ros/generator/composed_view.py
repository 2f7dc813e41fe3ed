"""One picture from three cameras, laid out as the DROID policy was trained on it.

The wrist camera is the upper two thirds at full width; the two exterior cameras share the lower
third, each at half size. The picture then lies at the top left of a canvas whose rest mirrors it,
and the VAE's latents of the rest are cut off again. Sources: RoboLab ``policies/cosmos3/client.py``
and openpi's ``image_tools.resize_with_pad`` (composition); cosmos-framework ``transforms.py`` and
``omni_mot_model.py`` (canvas, crop).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.resources import require

from .droid_joint import CAMERA_SLOTS
from .policy import PolicyError

PATCH = 16  # pixels per latent, each way
SMALLEST_IMAGE = 16


@dataclass(frozen=True, slots=True)
class View:
    """Sizes in pixels, height first.

    :param height: Of the composed picture; a multiple of 6, so that all three tiles are whole.
    :param width: Likewise; a multiple of 4.
    :param canvas_height: What the VAE sees; a multiple of 16.
    :param canvas_width: Likewise.
    """

    height: int
    width: int
    canvas_height: int
    canvas_width: int

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be tiled or encoded."""
        if self.height % 6 or self.width % 4 or self.height < 6 * PATCH // 2 or self.width < 2 * PATCH:
            raise PolicyError(
                f'view: {self.height}x{self.width} arrived; a height that is a multiple of 6 from 48 and a '
                'width that is a multiple of 4 from 32 are allowed')
        if (self.canvas_height % PATCH or self.canvas_width % PATCH
                or self.canvas_height < self.height or self.canvas_width < self.width):
            raise PolicyError(
                f'view: canvas {self.canvas_height}x{self.canvas_width} arrived; multiples of {PATCH} that '
                f'hold {self.height}x{self.width} are allowed')

    @classmethod
    def of(cls, height: int, width: int) -> 'View':
        """Return the view of this size with NVIDIA's canvas, or the smallest where they have none."""
        if (height, width) == (540, 640):
            return DROID_VIEW
        return cls(height, width, -(-height // PATCH) * PATCH, -(-width // PATCH) * PATCH)

    @property
    def latent_height(self) -> int:
        """Rows of latents that are kept."""
        return self.height // PATCH

    @property
    def latent_width(self) -> int:
        """Columns of latents that are kept."""
        return self.width // PATCH


# The nearest of diffusers' 480 tier to 540/640 (``_ACTION_RESOLUTION_BINS``); latents 33 x 40.
DROID_VIEW = View(540, 640, 544, 736)


def compose_view(images: Mapping[str, NDArray[np.uint8]], view: View = DROID_VIEW) -> NDArray[np.uint8]:
    """Return the composed picture, uint8 (height, width, 3).

    :param images: uint8 (H, W, 3) RGB for each of :data:`droid_joint.CAMERA_SLOTS`, any size.
    :raises PolicyError: A slot is missing or an image is too small.
    """
    missing = [slot for slot in CAMERA_SLOTS if slot not in images]
    if missing:
        raise PolicyError(
            f'observation: no image for camera slot {", ".join(missing)}; it carries '
            f'{", ".join(images)}, {", ".join(CAMERA_SLOTS)} are needed. Change the parameter cameras')
    upper, half = view.height * 2 // 3, view.width // 2
    tiles = {}
    for slot in CAMERA_SLOTS:
        image = images[slot]
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or min(
                image.shape[:2]) < SMALLEST_IMAGE:
            raise PolicyError(
                f'observation: image {slot} is {image.dtype} {image.shape}; uint8 (H, W, 3) with H and W '
                f'from {SMALLEST_IMAGE} is allowed')
        tiles[slot] = fit_with_black(image, upper, view.width)
    picture = np.empty((view.height, view.width, 3), np.uint8)
    picture[:upper] = tiles['wrist']
    picture[upper:, :half] = halve(tiles['exterior_1'])
    picture[upper:, half:] = halve(tiles['exterior_2'])
    return picture


def fit_with_black(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Scale ``image`` to fit and centre it on black; an image of that size passes unchanged."""
    rows, columns = image.shape[:2]
    if (rows, columns) == (height, width):
        return image
    pillow = require('PIL.Image', 'model')
    ratio = max(columns / width, rows / height)
    fitted = (max(1, int(rows / ratio)), max(1, int(columns / ratio)))
    # Columns first, then rows, each rounded: in one call Pillow 13 chooses the order by the size.
    scaled = pillow.fromarray(image)
    for size in ((fitted[1], rows), (fitted[1], fitted[0])):
        scaled = scaled.resize(size, resample=pillow.Resampling.BILINEAR)
    top, left = (height - fitted[0]) // 2, (width - fitted[1]) // 2
    canvas = np.zeros((height, width, 3), np.uint8)
    canvas[top:top + fitted[0], left:left + fitted[1]] = np.asarray(scaled)
    return canvas


def halve(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return half the size of uint8 (even height, even width, 3): the mean of 2 x 2 pixels, rounded down.

    It is what bilinear interpolation without antialiasing at exactly one half comes to, followed by
    the truncating cast of the client.
    """
    rows = np.add(image[0::2], image[1::2], dtype=np.uint16).reshape(-1)
    # Each number with that of the next pixel, in one go; of the sums every other pixel's are wanted. Twice as
    # many additions as of only those, but of numbers that lie side by side: in less than half the time.
    total = np.zeros_like(rows)
    np.add(rows[:-3], rows[3:], out=total[:-3])
    total >>= 2
    pixels = total.astype(np.uint8).view('V3')[::2]
    height, width = image.shape[0] // 2, image.shape[1] // 2
    mean: NDArray[np.uint8] = np.ascontiguousarray(pixels).view(np.uint8).reshape(height, width, 3)
    return mean


def place_on_canvas(picture: NDArray[np.uint8], view: View) -> NDArray[np.float32]:
    """Return the VAE's input, float32 (3, canvas height, canvas width) in -1..1.

    The rest mirrors the picture's right and lower edge, or repeats the edge where the rest is as
    large as the picture.
    """
    bottom, right = view.canvas_height - view.height, view.canvas_width - view.width
    mirror = bottom < view.height and right < view.width
    padded = np.pad(picture, ((0, bottom), (0, right), (0, 0)), mode='reflect' if mirror else 'edge')
    pixels: NDArray[np.float32] = padded.transpose(2, 0, 1).astype(np.float32)
    return np.ascontiguousarray(pixels / np.float32(127.5) - np.float32(1.0))
