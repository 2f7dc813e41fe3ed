"""Clips of several cameras as one clip of the policy's picture."""

import numpy as np
import pytest
from reasoner_fakes import make_clip

from cosmos3_ros.contracts import Clip, ContractError
from cosmos3_ros.generator.composed_view import View, compose_view
from cosmos3_ros.reasoner.composed_clip import COMPOSED, compose_clips

SLOTS = ('wrist', 'exterior_1', 'exterior_2')


def side_by_side(images):
    return np.concatenate([images[camera] for camera in sorted(images)], axis=1)


def numbered(camera, stamps_ns, offset):
    frames = np.array([np.full((4, 4, 3), offset + i) for i in range(len(stamps_ns))], np.uint8)
    return Clip(camera, frames, np.array(stamps_ns, np.int64))


def test_each_picture_holds_the_frames_nearest_in_time():
    slow = numbered('a', [0, 100, 200, 300], 0)
    fast = numbered('b', [10, 60, 90, 160, 210, 320], 100)
    composed = compose_clips([slow, fast], side_by_side)
    assert composed.camera == COMPOSED and composed.stamps_ns.tolist() == [0, 100, 200, 300]
    assert composed.frames[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert composed.frames[:, 0, 4, 0].tolist() == [100, 102, 104, 105]


def test_the_order_of_cameras_does_not_matter():
    clips = [make_clip(slot, 4, 36, 64, seed=i) for i, slot in enumerate(SLOTS)]
    view = View.of(54, 64)
    one, other = (compose_clips(given, lambda images: compose_view(images, view))
                  for given in (clips, clips[::-1]))
    assert np.array_equal(one.frames, other.frames) and one.frames.shape == (4, 54, 64, 3)


def test_the_pictures_are_the_policys():
    clips = [make_clip(slot, 2, 36, 64, seed=i) for i, slot in enumerate(SLOTS)]
    view = View.of(54, 64)
    composed = compose_clips(clips, lambda images: compose_view(images, view))
    for index in range(2):
        images = {clip.camera: clip.frames[index] for clip in clips}
        assert np.array_equal(composed.frames[index], compose_view(images, view))


@pytest.mark.parametrize('clips', [[], [make_clip('a'), make_clip('a')]])
def test_wrong_clips_are_refused(clips):
    with pytest.raises(ContractError, match='one clip per camera'):
        compose_clips(clips, side_by_side)
