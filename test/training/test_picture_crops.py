"""Crops: pictures and boxes move alike, windows stay inside, the whole picture stays what it is."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import torch

from cosmos3_ros.training.picture_crops import Crop, crop_frames, crop_report, draw_crop
from cosmos3_ros.training.settings import TrainingError

HEIGHT, WIDTH = 48, 80

sizes = st.floats(0.3, 1.0)
shares = st.floats(0.0, 1.0)
boxes = st.tuples(*[st.integers(0, 1000)] * 4).map(
    lambda b: [min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3])]).filter(
    lambda b: b[2] - b[0] > 10 and b[3] - b[1] > 10)


@st.composite
def crops(draw):
    size = draw(sizes)
    return Crop(draw(shares) * (1.0 - size), draw(shares) * (1.0 - size), size)


def report(*objects):
    return json.dumps({
        'caption': 'A cube.', 'objects': list(objects), 'next_action': 'stay', 'task_state': 'done',
        'hazards': [], 'plausibility': 'possible'})


def cube(box, **more):
    return {'label': 'red cube', 'bbox_2d': box, **more}


def box_of(picture):
    """Return the box of what is bright, pixels, with halves where a pixel is half bright."""
    bright = picture[..., 0] / 255.0
    across, down = bright.max(axis=0), bright.max(axis=1)
    found = []
    for line in (across, down):
        at = np.flatnonzero(line > 0.5)
        found.append((at[0], at[-1] + 1))
    return np.array([found[0][0], found[1][0], found[0][1], found[1][1]], dtype=float)


def test_the_whole_picture_stays_what_it_is():
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 4, HEIGHT, WIDTH, 3), np.uint8))
    assert torch.allclose(crop_frames(frames, [Crop(), Crop()]), frames.float(), atol=1e-2)
    text = report(cube([10, 20, 300, 400]))
    assert crop_report(text, Crop()) == text


def test_windows_are_those_of_each_clip_and_alike_in_all_its_frames():
    ramp = np.zeros((2, 2, HEIGHT, WIDTH, 3), np.uint8)
    ramp[..., 0] = np.arange(WIDTH)
    ramp[..., 1] = np.arange(HEIGHT)[:, None]
    ramp[:, 1, ..., 2] = 9
    windows = [Crop(0.25, 0.5, 0.5), Crop(0.0, 0.1, 0.7)]
    got = crop_frames(torch.from_numpy(ramp), windows).numpy()
    for i, window in enumerate(windows):
        x = (window.left + window.size * (np.arange(WIDTH) + 0.5) / WIDTH) * WIDTH - 0.5
        y = (window.top + window.size * (np.arange(HEIGHT) + 0.5) / HEIGHT) * HEIGHT - 0.5
        for frame in range(2):
            assert np.allclose(got[i, frame, ..., 0], x.clip(0.0, WIDTH - 1.0), atol=1e-3)
            assert np.allclose(got[i, frame, ..., 1], y.clip(0.0, HEIGHT - 1.0)[:, None], atol=1e-3)
        assert np.allclose(got[i, 0, ..., 2], 0.0) and np.allclose(got[i, 1, ..., 2], 9.0, atol=1e-3)


@given(crop=crops(), box=boxes)
@settings(max_examples=60, deadline=None)
def test_a_box_is_where_its_object_is_in_the_cropped_picture(crop, box):
    picture = np.zeros((1, 1, HEIGHT, WIDTH, 3), np.uint8)
    x1, y1, x2, y2 = np.round(np.array(box) / 1000.0 * [WIDTH, HEIGHT, WIDTH, HEIGHT]).astype(int)
    picture[0, 0, y1:y2, x1:x2] = 255
    box = [round(1000 * x1 / WIDTH), round(1000 * y1 / HEIGHT), round(1000 * x2 / WIDTH),
           round(1000 * y2 / HEIGHT)]
    objects = json.loads(crop_report(report(cube(box)), crop))['objects']
    if not objects:
        return
    shown = crop_frames(torch.from_numpy(picture), [crop])[0, 0].numpy()
    wanted = np.array(objects[0]['bbox_2d']) / 1000.0 * [WIDTH, HEIGHT, WIDTH, HEIGHT]
    if (wanted[2:] - wanted[:2]).min() < 3:
        return
    assert np.abs(box_of(shown) - wanted).max() <= 1.5


@given(crop=crops(), box=boxes)
@settings(max_examples=100, deadline=None)
def test_objects_are_named_as_long_as_enough_of_them_is_seen(crop, box):
    document = json.loads(report(cube(box), cube([1, 2, 3, 4], camera='exterior_1')))
    got = json.loads(crop_report(json.dumps(document), crop))
    assert {k: v for k, v in got.items() if k != 'objects'} == {
        k: v for k, v in document.items() if k != 'objects'}
    assert got['objects'][-1] == document['objects'][1]
    low = 1000.0 * np.array([crop.left, crop.top])
    seen = np.minimum(box[2:], low + 1000.0 * crop.size) - np.maximum(box[:2], low)
    share = max(seen[0], 0.0) * max(seen[1], 0.0) / ((box[2] - box[0]) * (box[3] - box[1]))
    if share > 0.4:
        left, top, right, bottom = got['objects'][0]['bbox_2d']
        assert 0 <= left < right <= 1000 and 0 <= top < bottom <= 1000
    elif share < 0.2:
        assert len(got['objects']) == 1


@pytest.mark.parametrize('window', [(-0.1, 0.0, 0.5), (0.0, 0.6, 0.5), (0.0, 0.0, 0.0), (0.0, 0.0, 1.5)])
def test_windows_beyond_the_picture_are_refused(window):
    with pytest.raises(TrainingError, match=r'size .* arrived; a window inside the picture'):
        Crop(*window)


def test_every_clip_needs_its_window():
    with pytest.raises(TrainingError, match='1 windows for 3 clips arrived'):
        crop_frames(torch.zeros((3, 2, HEIGHT, WIDTH, 3), dtype=torch.uint8), [Crop()])


@given(smallest=st.floats(0.3, 0.99), seed=st.integers(0, 2**32))
def test_windows_lie_inside_and_depend_on_the_generator_alone(smallest, seed):
    window = draw_crop(smallest, np.random.default_rng(seed))
    assert window == draw_crop(smallest, np.random.default_rng(seed))
    assert smallest <= window.size <= 1.0
    assert window.left >= 0.0 and window.top >= 0.0
    assert max(window.left, window.top) + window.size <= 1.0 + 1e-12


def test_some_pictures_are_shown_whole_and_the_others_differ():
    rng = np.random.default_rng(0)
    drawn = [draw_crop(0.6, rng) for _ in range(500)]
    whole = sum(crop == Crop() for crop in drawn)
    assert 60 < whole < 140 and len(set(drawn)) == 501 - whole
    assert min(crop.size for crop in drawn) == pytest.approx(0.6, abs=0.01)
