"""The composed view is, byte for byte, what a slow and obvious rendering of the rules gives."""

from hypothesis import example, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from cosmos3_ros.generator.composed_view import (
    DROID_VIEW,
    View,
    compose_view,
    fit_with_black,
    halve,
    place_on_canvas,
)
from cosmos3_ros.generator.policy import PolicyError

SLOTS = ('wrist', 'exterior_1', 'exterior_2')


def weights_along(length, out):
    """Triangle filter of Pillow's BILINEAR: widened when shrinking, in 22 bit fixed point."""
    scale = length / out
    reach = max(scale, 1.0)
    for i in range(out):
        centre = (i + 0.5) * scale
        first, last = max(0, int(centre - reach + 0.5)), min(length, int(centre + reach + 0.5))
        raw = [max(0.0, 1.0 - abs((j + 0.5 - centre) / reach)) for j in range(first, last)]
        yield first, [int(w / sum(raw) * (1 << 22) + 0.5) for w in raw]


def resample_rows(image, out):
    result = np.zeros((out, *image.shape[1:]), np.uint8)
    for i, (first, weights) in enumerate(weights_along(image.shape[0], out)):
        for column in range(image.shape[1]):
            for channel in range(3):
                total = 1 << 21
                for j, weight in enumerate(weights):
                    total += int(image[first + j, column, channel]) * weight
                result[i, column, channel] = min(255, max(0, total >> 22))
    return result


def slow_fit(image, height, width):
    rows, columns = image.shape[:2]
    if (rows, columns) == (height, width):
        return image
    ratio = max(columns / width, rows / height)
    new_rows, new_columns = int(rows / ratio), int(columns / ratio)
    scaled = image
    if new_columns != columns:
        scaled = resample_rows(scaled.transpose(1, 0, 2), new_columns).transpose(1, 0, 2)
    if new_rows != rows:
        scaled = resample_rows(scaled, new_rows)
    canvas = np.zeros((height, width, 3), np.uint8)
    top, left = int((height - new_rows) / 2), int((width - new_columns) / 2)
    for y in range(new_rows):
        for x in range(new_columns):
            canvas[top + y, left + x] = scaled[y, x]
    return canvas


def slow_view(images, height, width):
    upper, half = height * 2 // 3, width // 2
    wrist, left, right = (slow_fit(images[slot], upper, width) for slot in SLOTS)
    view = np.zeros((height, width, 3), np.uint8)
    for y in range(height):
        for x in range(width):
            if y < upper:
                view[y, x] = wrist[y, x]
                continue
            tile, column = (left, x) if x < half else (right, x - half)
            block = tile[2 * (y - upper):2 * (y - upper) + 2, 2 * column:2 * column + 2].astype(int)
            view[y, x] = [int(block[:, :, c].sum() / 4) for c in range(3)]
    return view


def pictures(seed, sizes):
    random = np.random.default_rng(seed)
    return {slot: random.integers(0, 256, (*size, 3), dtype=np.uint8)
            for slot, size in zip(SLOTS, sizes, strict=True)}


side = st.integers(16, 40)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 99), sizes=st.tuples(*[st.tuples(side, side)] * 3),
       view=st.sampled_from([(48, 32), (54, 36), (48, 64)]))
@example(seed=0, sizes=((16, 16), (16, 16), (39, 16)), view=(48, 32))  # Pillow 13 would do rows first
def test_small_views_are_byte_identical(seed, sizes, view):
    images = pictures(seed, sizes)
    assert (compose_view(images, View.of(*view)) == slow_view(images, *view)).all()


@pytest.mark.parametrize('size', [(2, 2), (2, 6), (8, 4), (360, 640)])
def test_halving_is_the_mean_of_four_rounded_down(size):
    random = np.random.default_rng(1)
    image = random.integers(0, 256, (*size, 3), dtype=np.uint8)
    image[:2, :2] = 255
    want = image.reshape(size[0] // 2, 2, size[1] // 2, 2, 3).astype(int).sum((1, 3)) // 4
    wider = np.zeros((size[0], size[1] + 3, 3), np.uint8)
    wider[:, :-3] = image
    for arrived in (image, wider[:, :-3], np.asfortranarray(image)):
        half = halve(arrived)
        assert half.dtype == np.uint8 and half.flags.c_contiguous and (half == want).all()


def test_the_full_view_of_droid_cameras_is_byte_identical():
    # 360 x 640 as the cameras of the DROID data set give it: no scaling, so the slow way is bearable.
    images = pictures(0, [(360, 640)] * 3)
    assert (compose_view(images) == slow_view(images, 540, 640)).all()


def test_layout():
    images = {slot: np.full((360, 640, 3), value, np.uint8)
              for slot, value in zip(SLOTS, (10, 20, 30), strict=True)}
    view = compose_view(images)
    assert view.shape == (540, 640, 3) and view.dtype == np.uint8
    assert (view[:360] == 10).all() and (view[360:, :320] == 20).all() and (view[360:, 320:] == 30).all()


def test_a_tall_picture_gets_black_bars():
    fitted = fit_with_black(np.full((480, 640, 3), 255, np.uint8), 360, 640)
    assert not fitted[:, :80].any() and (fitted[:, 80:560] == 255).all() and not fitted[:, 560:].any()


def test_halving_is_bilinear_interpolation_with_a_truncating_cast():
    torch = pytest.importorskip('torch', reason="the extra 'model' is not installed")
    image = np.random.default_rng(1).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None].float(), size=(45, 80), mode='bilinear')
    assert (halve(image) == theirs[0].permute(1, 2, 0).numpy().astype(np.uint8)).all()


def test_the_canvas_is_diffusers(policy_checkpoint, monkeypatch):
    import diffusers
    import torch

    pipeline = diffusers.Cosmos3OmniPipeline.from_pretrained(policy_checkpoint, dtype=torch.float32)
    picture = np.random.default_rng(2).integers(0, 256, (540, 640, 3), dtype=np.uint8)
    # Its loader would first scale to whole latents (528 rows); NVIDIA's server, and we, do not.
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None, :, None] / 127.5 - 1.0
    monkeypatch.setattr(pipeline.video_processor, 'preprocess_video', lambda _: pixels)
    frames, size, height, width = pipeline._prepare_action_video_conditioning(
        [picture], 480, 1, 'cpu', torch.float32)
    assert (height, width) == (DROID_VIEW.canvas_height, DROID_VIEW.canvas_width)
    assert size[2:].tolist() == [DROID_VIEW.height, DROID_VIEW.width]
    ours = place_on_canvas(picture, DROID_VIEW)
    assert ours.shape == (3, 544, 736) and np.abs(ours - frames[0, :, 0].numpy()).max() <= 2e-7
    latents = torch.zeros(1, 48, 9, 34, 46)
    assert pipeline._remove_action_video_padding_from_latent(latents, size).shape[-2:] == (
        DROID_VIEW.latent_height, DROID_VIEW.latent_width) == (33, 40)


@pytest.mark.parametrize('view', [DROID_VIEW, View.of(144, 160), View.of(54, 36), View(48, 32, 96, 64)])
def test_the_rest_mirrors_or_repeats(view):
    picture = np.random.default_rng(3).integers(0, 256, (view.height, view.width, 3), dtype=np.uint8)
    canvas = np.round((place_on_canvas(picture, view) + 1.0) * 127.5).astype(int).transpose(1, 2, 0)
    assert (canvas[:view.height, :view.width] == picture).all()
    mirrors = view.canvas_height < 2 * view.height and view.canvas_width < 2 * view.width
    for y in range(view.canvas_height):
        for x in range(view.width, view.canvas_width):
            source = 2 * view.width - 2 - x if mirrors else view.width - 1
            if y < view.height:
                assert (canvas[y, x] == picture[y, source]).all()
    for y in range(view.height, view.canvas_height):
        source = 2 * view.height - 2 - y if mirrors else view.height - 1
        assert (canvas[y, :view.width] == picture[source]).all()


@pytest.mark.parametrize('change, message', [
    ({'wrist': None}, 'no image for camera slot wrist; it carries exterior_1, exterior_2'),
    ({'exterior_2': np.zeros((36, 64), np.uint8)}, r'image exterior_2 is uint8 \(36, 64\)'),
    ({'exterior_1': np.zeros((36, 64, 4), np.uint8)}, r'image exterior_1 is uint8 \(36, 64, 4\)'),
    ({'wrist': np.zeros((36, 64, 3))}, 'image wrist is float64'),
    ({'wrist': np.zeros((8, 64, 3), np.uint8)}, r'from 16 is allowed'),
])
def test_bad_images(change, message):
    images = pictures(0, [(36, 64)] * 3) | change
    with pytest.raises(PolicyError, match=message):
        compose_view({k: v for k, v in images.items() if v is not None}, View.of(48, 32))


@pytest.mark.parametrize('size', [(50, 32), (48, 30), (42, 64), (48, 28)])
def test_bad_views(size):
    with pytest.raises(PolicyError, match='view:'):
        View.of(*size)
