"""Images keep their pixels through every encoding, and what does not fit is refused in words."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image

from cosmos3_ros.contracts import ContractError
from cosmos3_ros.nodes.images import (
    SUPPORTED,
    compressed_message,
    cv_bridge,
    depth_image,
    rgb_from_compressed,
    rgb_image,
    rgb_message,
)

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))
PICTURES = SIZES.flatmap(lambda size: npst.arrays(np.uint8, (*size, 3)))
CHANNELS = {'rgb8': 3, 'bgr8': 3, 'rgba8': 4, 'bgra8': 4, '8UC3': 3, 'mono8': 1, '8UC1': 1}


def pack(pixels: np.ndarray, encoding: str, padding: int = 0) -> Image:
    """Write (H, W, C) bytes as a message with ``padding`` bytes at the end of every row."""
    height, width, channels = pixels.shape
    step = width * channels + padding
    rows = np.full((height, step), 0xAB, dtype=np.uint8)
    rows[:, :width * channels] = pixels.reshape(height, -1)
    return Image(height=height, width=width, encoding=encoding, step=step, data=rows.tobytes())


@given(PICTURES, st.sampled_from(['rgb8', 'bgr8']))
def test_message_and_back_is_identity(picture, encoding):
    message = rgb_message(picture, stamp_ns=1_500_000_000, frame_id='wrist', encoding=encoding)
    assert np.array_equal(rgb_image(message), picture)
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (1, 500_000_000)


@given(PICTURES, st.integers(0, 7))
def test_padding_and_channel_order(picture, padding):
    alpha = np.full((*picture.shape[:2], 1), 7, dtype=np.uint8)
    bgr = picture[..., ::-1]
    for encoding, stored in (('rgb8', picture), ('8UC3', picture), ('bgr8', bgr),
                             ('rgba8', np.concatenate([picture, alpha], axis=2)),
                             ('bgra8', np.concatenate([bgr, alpha], axis=2))):
        read = rgb_image(pack(stored, encoding, padding), use_cv_bridge=False)
        assert np.array_equal(read, picture), encoding
    grey = rgb_image(pack(picture[..., :1], 'mono8', padding), use_cv_bridge=False)
    assert (grey == picture[..., :1]).all()


@given(st.sampled_from(['yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv']), st.randoms(use_true_random=False))
def test_yuv_agrees_with_opencv(encoding, random):
    cv2 = pytest.importorskip('cv2')
    code = cv2.COLOR_YUV2RGB_UYVY if encoding in ('yuv422', 'uyvy') else cv2.COLOR_YUV2RGB_YUYV
    raw = np.array([random.randrange(256) for _ in range(4 * 6 * 2)], dtype=np.uint8).reshape(4, 6, 2)
    ours = rgb_image(pack(raw, encoding)).astype(int)
    # OpenCV rounds its coefficients to integers.
    assert np.abs(ours - cv2.cvtColor(raw, code).astype(int)).max() <= 2


@pytest.mark.parametrize('encoding', ['bayer_rggb8', 'bayer_bggr8', 'bayer_gbrg8', 'bayer_grbg8'])
def test_bayer_of_a_flat_colour_is_that_colour(encoding):
    pytest.importorskip('cv2')
    colour = {'r': 200, 'g': 120, 'b': 30}
    pattern = encoding.removeprefix('bayer_').removesuffix('8')
    tile = np.array([[colour[pattern[0]], colour[pattern[1]]], [colour[pattern[2]], colour[pattern[3]]]])
    mosaic = np.tile(tile, (4, 4)).astype(np.uint8)[..., None]
    inner = rgb_image(pack(mosaic, encoding))[2:-2, 2:-2]
    assert (inner == [200, 120, 30]).all()


@pytest.mark.skipif(cv_bridge() is None, reason='this ROS installation brings no working cv_bridge')
@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8'])
def test_cv_bridge_agrees(encoding):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, CHANNELS[encoding]), dtype=np.uint8)
    message = pack(pixels, encoding)
    assert np.array_equal(rgb_image(message), rgb_image(message, use_cv_bridge=False))


@pytest.mark.parametrize('encoding', ['16UC1', 'mono16', '32FC1'])
def test_depth_is_refused_as_colour(encoding):
    with pytest.raises(ContractError, match=r'holds depth or 16-bit grey.*rgb8.*Remap'):
        rgb_image(Image(height=1, width=1, step=4, encoding=encoding, data=bytes(4)))


@pytest.mark.parametrize('big', [0, 1])
def test_depth_in_metres_for_both_byte_orders(big):
    stored = np.array([[0, 1500], [65535, 1]], dtype='>u2' if big else '<u2')
    message = Image(height=2, width=2, step=4, encoding='16UC1', is_bigendian=big, data=stored.tobytes())
    assert np.allclose(depth_image(message), [[0.0, 1.5], [65.535, 0.001]])


@pytest.mark.parametrize(('change', 'text'), [
    ({'encoding': 'jpeg2000'}, f"'jpeg2000' arrived, supported are: {', '.join(SUPPORTED)}"),
    ({'height': 3}, '12 bytes arrived, height 3 \\* step 6 is 18'),
    ({'step': 5}, 'step 5 arrived, 2 pixels of rgb8 take at least 6 bytes'),
    ({'data': bytes(11)}, '11 bytes arrived'), ({'width': 0, 'step': 0}, '0x2 pixels arrived'),
    ({'encoding': 'yuyv', 'width': 3}, 'width 3 of yuyv arrived, an even one')])
def test_contradictions_are_refused(change, text):
    fields = {'height': 2, 'width': 2, 'step': 6, 'encoding': 'rgb8', 'data': bytes(12), **change}
    with pytest.raises(ContractError, match=text):
        rgb_image(Image(**fields))


@pytest.mark.parametrize('value', [
    np.zeros((2, 2), np.uint8), np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2, 3), np.float32)])
def test_only_rgb_is_written(value):
    with pytest.raises(ContractError, match=r'uint8 \(H, W, 3\) is allowed'):
        rgb_message(value, stamp_ns=0, frame_id='')


def test_jpeg_keeps_smooth_pictures():
    pytest.importorskip('cv2')
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    picture = np.stack(
        [np.tile(ramp, (48, 1)), np.full((48, 64), 90, np.uint8), np.tile(ramp[::-1], (48, 1))], axis=2)
    message = compressed_message(picture, stamp_ns=0, frame_id='wrist')
    assert np.abs(rgb_from_compressed(message).astype(int) - picture).max() < 12


def test_pillow_decodes_where_opencv_is_missing(monkeypatch):
    pytest.importorskip('PIL')
    picture = np.full((16, 16, 3), (10, 200, 60), dtype=np.uint8)
    message = compressed_message(picture, stamp_ns=0, frame_id='')
    with_opencv = rgb_from_compressed(message)
    monkeypatch.setitem(__import__('sys').modules, 'cv2', None)
    assert np.abs(rgb_from_compressed(message).astype(int) - with_opencv).max() <= 2


@pytest.mark.parametrize(('name', 'data', 'text'), [
    ('jpeg', b'', '0 bytes'), ('jpeg', b'not a jpeg', 'do not decode'),
    ('16UC1; compressedDepth', b'x', 'jpeg and png in colour'), ('h264', b'x', 'jpeg and png in colour')])
def test_what_is_no_picture_is_refused(name, data, text):
    with pytest.raises(ContractError, match=text):
        rgb_from_compressed(CompressedImage(format=name, data=data))
