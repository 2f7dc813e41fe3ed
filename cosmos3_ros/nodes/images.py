"""Images as messages and as arrays: the one place that converts between them.

Where the ROS installation brings a working cv_bridge, colour conversion goes through it; otherwise
through numpy (and OpenCV or Pillow for what needs a codec). PyPI's cv-bridge imports but breaks on
numpy 2.4 and OpenCV 5, so an import alone proves nothing and it is tried once on a known image.
"""

from array import array
from collections.abc import Callable
from functools import cache
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image

from cosmos3_ros.contracts import ContractError
from cosmos3_ros.resources import MissingDependencyError, require

from .messages import to_time

logger = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]

# Codes of cv2.COLOR_Bayer*2RGB. OpenCV names the pattern by its second row, ROS by its first:
# sensor_msgs/image_encodings "bayer_rggb8" is OpenCV's "BayerBG".
_BAYER = {
    'bayer_rggb8': 'COLOR_BayerBG2RGB', 'bayer_bggr8': 'COLOR_BayerRG2RGB',
    'bayer_gbrg8': 'COLOR_BayerGR2RGB', 'bayer_grbg8': 'COLOR_BayerGB2RGB',
}
# Position of Y, U, Y, V in each group of four bytes.
_YUV = {
    'yuv422': (1, 0, 3, 2), 'uyvy': (1, 0, 3, 2),
    'yuv422_yuy2': (0, 1, 2, 3), 'yuyv': (0, 1, 2, 3),
}
_COLOUR: dict[str, tuple[int, Callable[[Pixels], Pixels]]] = {
    'rgb8': (3, lambda image: image),
    'bgr8': (3, lambda image: image[..., ::-1]),
    'rgba8': (4, lambda image: image[..., :3]),
    'bgra8': (4, lambda image: image[..., 2::-1]),
    '8UC3': (3, lambda image: image),
    'mono8': (1, lambda image: np.repeat(image, 3, axis=2)),
    '8UC1': (1, lambda image: np.repeat(image, 3, axis=2)),
}
_DEPTH: dict[str, np.dtype[Any]] = {
    '16UC1': np.dtype(np.uint16), 'mono16': np.dtype(np.uint16), '32FC1': np.dtype(np.float32),
}
# What cv_bridge converts by itself; the rest stays with us in every installation.
_BRIDGED = ('rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8')

SUPPORTED = (*_COLOUR, *_YUV, *_BAYER)


@cache
def cv_bridge() -> Any | None:
    """Return a CvBridge that was seen to work, or None."""
    try:
        from cv_bridge import CvBridge
        bridge = CvBridge()
        probe = np.arange(2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 3)
        message = rgb_message(probe, stamp_ns=0, frame_id='', encoding='bgr8')
        if not np.array_equal(bridge.imgmsg_to_cv2(message, 'rgb8'), probe):
            raise RuntimeError('a bgr8 probe image came back changed')
    except Exception as error:
        logger.debug('cv_bridge is not used: %s', error)
        return None
    return bridge


def _rows(message: Image, bytes_per_pixel: int) -> Pixels:
    """Return (height, width * bytes_per_pixel) bytes without the padding at the end of rows."""
    row = message.width * bytes_per_pixel
    data = np.frombuffer(message.data, dtype=np.uint8)
    if message.height == 0 or message.width == 0:
        raise ContractError(f'image: {message.width}x{message.height} pixels arrived, at least 1x1 is needed')
    if message.step < row:
        raise ContractError(
            f'image: step {message.step} arrived, {message.width} pixels of {message.encoding} '
            f'take at least {row} bytes')
    if len(data) != message.height * message.step:
        raise ContractError(
            f'image: {len(data)} bytes arrived, height {message.height} * step {message.step} '
            f'is {message.height * message.step}')
    return data.reshape(message.height, message.step)[:, :row]


def _yuv(message: Image) -> Pixels:
    """Convert 4:2:2 by ITU-R BT.601 with limited range, as cameras and OpenCV do."""
    if message.width % 2:
        raise ContractError(
            f'image: width {message.width} of {message.encoding} arrived, an even one is allowed')
    groups = _rows(message, 2).reshape(message.height, message.width // 2, 4).astype(np.float32)
    first, blue, second, red = (groups[..., i] for i in _YUV[message.encoding])
    luma = np.stack([first, second], axis=-1).reshape(message.height, message.width)
    luma = 1.164383 * np.maximum(luma - 16.0, 0.0)
    u = np.repeat(blue - 128.0, 2, axis=1)
    v = np.repeat(red - 128.0, 2, axis=1)
    rgb = np.stack([luma + 1.596027 * v, luma - 0.391762 * u - 0.812968 * v, luma + 2.017232 * u], axis=-1)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def rgb_image(message: Image, *, use_cv_bridge: bool = True) -> Pixels:
    """Return a message's image as uint8 RGB, shape (H, W, 3). May share the message's memory.

    :param use_cv_bridge: False takes our own converter even where cv_bridge works.
    :raises ContractError: Unknown encoding, a depth image, or sizes that contradict each other.
    :raises MissingDependencyError: A Bayer image, and OpenCV is not installed.
    """
    encoding = message.encoding
    if encoding in _DEPTH:
        raise ContractError(
            f'image: encoding {encoding} arrived, which holds depth or 16-bit grey and no colour; '
            f'supported are: {", ".join(SUPPORTED)}. Remap the topic to the colour stream.')
    if encoding in _COLOUR:
        channels, convert = _COLOUR[encoding]
        rows = _rows(message, channels)
        bridge = cv_bridge() if use_cv_bridge and encoding in _BRIDGED else None
        if bridge is not None:
            return np.asarray(bridge.imgmsg_to_cv2(message, 'rgb8'), dtype=np.uint8)
        return convert(rows.reshape(message.height, message.width, channels))
    if encoding in _YUV:
        return _yuv(message)
    if encoding in _BAYER:
        mosaic = np.ascontiguousarray(_rows(message, 1))
        cv2 = require('cv2', 'record')
        image: Pixels = cv2.cvtColor(mosaic, getattr(cv2, _BAYER[encoding]))
        return image
    raise ContractError(f'image: encoding {encoding!r} arrived, supported are: {", ".join(SUPPORTED)}')


def depth_image(message: Image) -> NDArray[np.float64]:
    """Return a depth image in metres, shape (H, W); 16-bit integers are millimetres (REP 118).

    :raises ContractError: Not a depth encoding, or sizes that contradict each other.
    """
    if message.encoding not in _DEPTH:
        raise ContractError(f'image: encoding {message.encoding!r} arrived, depth is: {", ".join(_DEPTH)}')
    dtype = _DEPTH[message.encoding].newbyteorder('>' if message.is_bigendian else '<')
    rows = np.ascontiguousarray(_rows(message, dtype.itemsize)).view(dtype)
    scale = 0.001 if dtype.kind == 'u' else 1.0
    return rows.astype(np.float64) * scale


def rgb_message(image: Pixels, *, stamp_ns: int, frame_id: str, encoding: str = 'rgb8') -> Image:
    """Return uint8 RGB pixels, shape (H, W, 3), as a message.

    :param encoding: ``rgb8`` or ``bgr8``.
    :raises ContractError: Wrong shape, type or encoding.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ContractError(f'image: {image.dtype} {image.shape} arrived, uint8 (H, W, 3) is allowed')
    if encoding not in ('rgb8', 'bgr8'):
        raise ContractError(f'encoding: {encoding!r} arrived, rgb8 and bgr8 can be written')
    pixels = np.ascontiguousarray(image if encoding == 'rgb8' else image[..., ::-1])
    message = Image(height=image.shape[0], width=image.shape[1], encoding=encoding, step=image.shape[1] * 3)
    message.header.stamp = to_time(stamp_ns)
    message.header.frame_id = frame_id
    # frombytes copies 900 kB in 44 us; assigning an ndarray walks over its elements for 41 ms.
    data = array('B')
    data.frombytes(pixels.data)
    message.data = data
    return message


def rgb_from_compressed(message: CompressedImage) -> Pixels:
    """Decode JPEG or PNG to uint8 RGB, shape (H, W, 3), with OpenCV, or Pillow where that is missing.

    :raises ContractError: Another format, or bytes that do not decode.
    """
    name = message.format.lower()
    if 'depth' in name or not any(known in name for known in ('jpeg', 'jpg', 'png')):
        raise ContractError(f'image: format {message.format!r} arrived, jpeg and png in colour are supported')
    data = np.frombuffer(message.data, dtype=np.uint8)
    if not len(data):
        raise ContractError('image: 0 bytes arrived in a compressed image')
    try:
        cv2 = require('cv2', 'record')
    except MissingDependencyError:
        return _decode_with_pillow(data, message.format)
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if decoded is None:
        raise ContractError(f'image: {len(data)} bytes of {message.format!r} do not decode')
    image: Pixels = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    return image


def _decode_with_pillow(data: Pixels, name: str) -> Pixels:
    from io import BytesIO
    pillow = require('PIL.Image', 'record')
    try:
        with pillow.open(BytesIO(data.tobytes())) as picture:
            return np.asarray(picture.convert('RGB'), dtype=np.uint8)
    except OSError as error:
        raise ContractError(f'image: {len(data)} bytes of {name!r} do not decode: {error}') from error


def compressed_message(
    image: Pixels, *, stamp_ns: int, frame_id: str, quality: int = 90,
) -> CompressedImage:
    """Return uint8 RGB pixels as a JPEG message.

    :param quality: 1 to 100.
    :raises MissingDependencyError: OpenCV is not installed.
    """
    cv2 = require('cv2', 'record')
    done, data = cv2.imencode(
        '.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ContractError(f'image: {image.shape} could not be encoded as JPEG')
    message = CompressedImage(format='rgb8; jpeg compressed bgr8')
    message.header.stamp = to_time(stamp_ns)
    message.header.frame_id = frame_id
    buffer = array('B')
    buffer.frombytes(memoryview(data.reshape(-1)))
    message.data = buffer
    return message
