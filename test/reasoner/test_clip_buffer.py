from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from cosmos3_ros.contracts import ContractError
from cosmos3_ros.reasoner import ClipBuffer, ClipRefused

SECOND = 10**9


def image(value=0, height=48, width=64):
    return np.full((height, width, 3), value, dtype=np.uint8)


def filled(rate_hz=30.0, seconds=3.0, cameras=('wrist',), **options):
    buffer = ClipBuffer(cameras, **options)
    count = int(rate_hz * seconds)
    for i in range(count):
        for camera in cameras:
            buffer.add(camera, SECOND + round(i * 1e9 / rate_hz), image(i % 256))
    return buffer, SECOND + round((count - 1) * 1e9 / rate_hz)


def test_frames_are_chosen_by_time_and_the_newest_is_last():
    buffer, now = filled(rate_hz=30.0)
    (clip,) = buffer.take(4.0, 8, now)
    assert len(clip.frames) == 8
    # The ring keeps 15 of the 30 frames a second, so an instant is met to within half of its period.
    instants = clip.stamps_ns[-1] - np.arange(7, -1, -1) * SECOND // 4
    assert np.abs(clip.stamps_ns - instants).max() <= SECOND / 15 / 2 + 1
    assert now - clip.stamps_ns[-1] <= SECOND / 15


def test_pixels_belong_to_their_stamps():
    buffer, now = filled(rate_hz=10.0)
    (clip,) = buffer.take(5.0, 6, now)
    index = np.round((clip.stamps_ns - SECOND) / 1e8).astype(int)
    assert [int(frame[0, 0, 0]) for frame in clip.frames] == index.tolist()


@settings(max_examples=60, deadline=None)
@given(
    gaps=st.lists(st.integers(1, 400), min_size=1, max_size=60),
    fps=st.floats(0.5, 15.0),
    pairs=st.integers(1, 6),
)
def test_any_timing_gives_an_even_strictly_increasing_clip_or_a_reason(gaps, fps, pairs):
    buffer = ClipBuffer(('a',), horizon_s=30.0)
    stamps = SECOND + np.cumsum(gaps) * 10**6
    for stamp in stamps:
        buffer.add('a', int(stamp), image())
    taken = buffer.take(fps, 2 * pairs, int(stamps[-1]))
    if isinstance(taken, ClipRefused):
        assert taken.camera == 'a' and '2 at' in taken.reason
        return
    (clip,) = taken
    assert len(clip.frames) % 2 == 0 and 2 <= len(clip.frames) <= 2 * pairs
    assert (np.diff(clip.stamps_ns) > 0).all()
    assert set(clip.stamps_ns.tolist()) <= set(stamps.tolist())
    # No frame is further from its instant than half a step.
    assert (clip.stamps_ns[-1] - clip.stamps_ns[0]) <= (2 * pairs - 1 + 0.5) * 1e9 / fps + 1


def test_memory_stays_bounded_whatever_arrives():
    buffer = ClipBuffer(('a', 'b'), horizon_s=2.0, rate_hz=10.0, max_frame_pixels=96 * 64)
    bound = 2 * 28 * 96 * 64 * 3
    for i in range(3000):
        buffer.add('a', i * 7 * 10**6, image(i % 256, 480, 640))
        assert buffer.memory_bytes() <= bound
    counts = buffer.counts
    assert counts.frames_kept + counts.frames_thinned == 3000 and counts.frames_thinned > 1500


@pytest.mark.parametrize('height, width', [(360, 640), (480, 640), (1080, 1920), (40, 900), (700, 33)])
def test_frames_and_clips_obey_the_pixel_budgets(height, width):
    buffer = ClipBuffer(('a',), max_frame_pixels=320 * 192, max_clip_pixels=4 * 160 * 96)
    for i in range(20):
        buffer.add('a', i * 10**8, image(i, height, width))
    (clip,) = buffer.take(4.0, 4, 19 * 10**8)
    rows, columns = clip.size
    assert len(clip.frames) * rows * columns <= 4 * 160 * 96
    assert rows % 32 == 0 and columns % 32 == 0
    assert buffer.source_sizes() == {'a': (height, width)}


def test_small_frames_are_kept_as_they_are():
    buffer = ClipBuffer(('a',))
    original = np.random.RandomState(0).randint(0, 256, (50, 70, 3), dtype=np.uint8)
    buffer.add('a', 0, original)
    buffer.add('a', 10**9, original)
    (clip,) = buffer.take(1.0, 2, 10**9)
    assert np.array_equal(clip.frames[0], original)
    original[:] = 0
    assert clip.frames.any(), 'the caller writing into its own buffer must not reach a clip'


def test_scaling_keeps_the_picture():
    buffer = ClipBuffer(('a',), max_frame_pixels=96 * 64)
    left_red = np.zeros((240, 320, 3), np.uint8)
    left_red[:, :160, 0] = 255
    for i in range(2):
        buffer.add('a', i * 10**9, left_red)
    (clip,) = buffer.take(1.0, 2, 10**9)
    frame = clip.frames[0]
    assert (
        frame[:, : frame.shape[1] // 2 - 2, 0].min() > 250 and frame[:, frame.shape[1] // 2 + 2 :].max() < 5
    )


def test_clock_going_back_clears_everything_and_is_counted():
    buffer, now = filled(cameras=('a', 'b'))
    buffer.add('a', 100, image(7))
    assert buffer.counts.clock_resets == 1
    refused = buffer.take(4.0, 4, 100)
    assert isinstance(refused, ClipRefused)
    buffer.add('b', 100, image(8))
    buffer.add('a', 100 + SECOND // 4, image(9))
    buffer.add('b', 100 + SECOND // 4, image(9))
    clips = buffer.take(4.0, 4, 100 + SECOND // 4)
    assert [int(clip.frames[0][0, 0, 0]) for clip in clips] == [7, 8]
    assert now > 100


def test_node_clock_going_back_clears_too():
    buffer, now = filled()
    assert isinstance(buffer.take(4.0, 4, now - 2 * SECOND), ClipRefused)
    assert buffer.counts.clock_resets == 1 and buffer.memory_bytes() == 0


def test_late_and_repeated_frames_are_counted_and_left_out():
    buffer, now = filled()
    before = buffer.take(4.0, 4, now)[0].stamps_ns.tolist()
    for back in (0, 1, 40 * 10**6):
        buffer.add('wrist', before[-1] - back, image(255))
    assert buffer.counts.frames_late == 3 and buffer.counts.clock_resets == 0
    assert buffer.take(4.0, 4, now)[0].stamps_ns.tolist() == before


def test_changed_image_size_starts_over():
    buffer, now = filled()
    buffer.add('wrist', now + SECOND, image(1, 96, 128))
    assert buffer.counts.size_changes == 1
    assert isinstance(buffer.take(4.0, 4, now + SECOND), ClipRefused)


def test_stopped_camera_is_named_with_its_age():
    buffer, now = filled(cameras=('a', 'b'))
    for i in range(30):
        buffer.add('a', now + (i + 1) * SECOND // 10, image())
    refused = buffer.take(4.0, 4, now + 3 * SECOND)
    assert isinstance(refused, ClipRefused) and refused.camera == 'b' and 'max_age_s' in refused.reason
    assert buffer.counts.clips_refused == 1


def test_camera_that_never_sent_is_named():
    buffer = ClipBuffer(('a', 'b'))
    assert buffer.take(4.0, 4, 0).camera == 'a'


def test_slow_camera_gives_a_shorter_clip_not_repeated_frames():
    buffer, now = filled(rate_hz=2.0, seconds=4.0)
    (clip,) = buffer.take(8.0, 8, now)
    assert len(clip.frames) == 2 and len(set(clip.stamps_ns.tolist())) == 2


@pytest.mark.parametrize(
    'bad, text',
    [
        ({'camera': 'nose', 'frame': image()}, "one of ['wrist']"),
        ({'camera': 'wrist', 'frame': image()[..., :2]}, 'height, width, 3'),
        ({'camera': 'wrist', 'frame': image().astype(np.float32)}, 'uint8'),
        ({'camera': 'wrist', 'frame': image()[0]}, 'height, width, 3'),
        ({'camera': 'wrist', 'frame': image()[:0]}, 'height, width, 3'),
    ],
)
def test_bad_frames_are_refused_with_what_is_allowed(bad, text):
    with pytest.raises(ContractError, match=text.replace('[', r'\[').replace(']', r'\]')):
        ClipBuffer(('wrist',)).add(bad['camera'], 0, bad['frame'])


@pytest.mark.parametrize(
    'fps, frames', [(0.0, 4), (-1.0, 4), (16.0, 4), (float('nan'), 4), (4.0, 3), (4.0, 0), (1.0, 40)]
)
def test_clips_that_can_never_be_served_are_refused(fps, frames):
    with pytest.raises(ContractError):
        filled()[0].take(fps, frames, 0)


@pytest.mark.parametrize(
    'options',
    [
        {'cameras': ()},
        {'cameras': ('a', 'a')},
        {'cameras': ('',)},
        {'horizon_s': 0},
        {'rate_hz': float('inf')},
        {'max_age_s': -1},
        {'max_frame_pixels': 10},
        {'max_clip_pixels': 1024},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ContractError):
        ClipBuffer(**{'cameras': ('a',), **options})
