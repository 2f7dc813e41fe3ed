"""Observations stand at one instant, and whatever is missing is said in words."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from cosmos3_ros.contracts import ContractError, JointMeasurement, Observation, ObservationRefused
from cosmos3_ros.generator.observation_assembler import FRAMES_KEPT, ObservationAssembler

MS = 1_000_000
NAMES = ('a', 'b')
START = 10**12


def image(value: int = 0) -> np.ndarray:
    return np.full((4, 6, 3), value, dtype=np.uint8)


def joints(stamp_ns: int, value: float, gripper: float | None = 0.0) -> JointMeasurement:
    return JointMeasurement(stamp_ns, NAMES, np.array([value, -value]), np.zeros(2), gripper=gripper)


def assembler(*cameras: str, **options: object) -> ObservationAssembler:
    made = ObservationAssembler(cameras or ('wrist',), NAMES, **options)
    for k in range(-60, 61):
        made.add_joints(joints(START + k * 10 * MS, k * 0.01))
    return made


@given(st.lists(st.integers(-400, 400), min_size=2, max_size=3))
def test_anchor_is_the_oldest_of_the_newest_and_joints_are_interpolated_to_it(offsets_ms):
    cameras = [f'camera_{i}' for i in range(len(offsets_ms))]
    made = assembler(*cameras, max_skew_s=2.0, max_age_s=2.0)
    for camera, offset in zip(cameras, offsets_ms, strict=True):
        made.add_image(camera, START + offset * MS, image())
    result = made.assemble(START + 500 * MS)
    assert isinstance(result, Observation)
    assert result.stamp_ns == START + min(offsets_ms) * MS
    assert result.skew_ns == (max(offsets_ms) - min(offsets_ms)) * MS
    # The joint moves at 1 rad/s through 0 at START.
    assert result.joint_position == pytest.approx([min(offsets_ms) * 1e-3, -min(offsets_ms) * 1e-3], abs=1e-9)


def test_the_frame_nearest_to_the_anchor_is_taken():
    made = assembler('fast', 'slow')
    for k in range(6):
        made.add_image('fast', START + k * 16 * MS, image(k))
    made.add_image('slow', START + 34 * MS, image(99))
    result = made.assemble(START + 90 * MS)
    assert isinstance(result, Observation)
    assert result.images['fast'][0, 0, 0] == 2 and result.skew_ns == 2 * MS


@given(st.integers(0, 200))
def test_skew_bound_is_exact(skew_ms):
    made = assembler('one', 'two', max_skew_s=0.05)
    made.add_image('one', START, image())
    made.add_image('two', START + skew_ms * MS, image())
    result = made.assemble(START + 200 * MS)
    assert isinstance(result, Observation) == (skew_ms <= 50)
    if isinstance(result, ObservationRefused):
        assert 'max_skew_s' in result.reason and result.camera == 'two'


@given(st.integers(0, 1000))
def test_age_bound_is_exact(age_ms):
    made = assembler(max_age_s=0.5)
    made.add_image('wrist', START, image())
    result = made.assemble(START + age_ms * MS)
    assert isinstance(result, Observation) == (age_ms <= 500)
    if isinstance(result, ObservationRefused):
        assert 'max_age_s' in result.reason and result.camera == 'wrist'


@given(st.integers(0, 300))
def test_extrapolation_is_bounded_and_linear(beyond_ms):
    made = assembler(max_joint_gap_s=0.1, max_age_s=2.0)
    made.add_image('wrist', START + (600 + beyond_ms) * MS, image())
    result = made.assemble(START + 1000 * MS)
    assert isinstance(result, Observation) == (beyond_ms <= 100)
    if isinstance(result, Observation):
        assert result.joint_position[0] == pytest.approx(0.6 + beyond_ms * 1e-3)
    else:
        assert 'max_joint_gap_s' in result.reason


def test_a_hole_in_the_joint_states_is_not_bridged():
    made = ObservationAssembler(('wrist',), NAMES, max_joint_gap_s=0.1)
    made.add_joints(joints(START - 80 * MS, 0.0))
    made.add_joints(joints(START + 80 * MS, 1.0))
    made.add_image('wrist', START, image())
    result = made.assemble(START + 100 * MS)
    assert isinstance(result, ObservationRefused) and 'between' not in result.camera
    assert '0.160 s lie between' in result.reason


def test_one_joint_state_is_enough_nearby():
    made = ObservationAssembler(('wrist',), NAMES)
    made.add_joints(joints(START - 5 * MS, 0.25))
    made.add_image('wrist', START, image())
    result = made.assemble(START)
    assert isinstance(result, Observation) and result.joint_position[0] == 0.25


def test_nothing_yet_is_said():
    made = ObservationAssembler(('wrist',), NAMES)
    assert 'wrist: no image' in made.assemble(START).reason
    made.add_image('wrist', START, image())
    assert 'joint_states: none' in made.assemble(START).reason
    made.add_joints(joints(START, 0.0, gripper=None))
    assert 'no gripper position' in made.assemble(START).reason
    assert made.counts.refusals == 3


def test_images_from_the_future_point_at_use_sim_time():
    made = assembler()
    made.add_image('wrist', START, image())
    assert 'use_sim_time' in made.assemble(START - 10**9).reason


def test_blank_only_if_asked_for():
    made = assembler('wrist', 'elbow', blank_cameras=('elbow',))
    assert made.live_cameras == ('wrist',)
    made.add_image('wrist', START, image(7))
    result = made.assemble(START)
    assert isinstance(result, Observation)
    assert result.blank_cameras == ('elbow',) and not result.images['elbow'].any()
    with pytest.raises(ContractError, match="'elbow' arrived, allowed are: wrist"):
        made.add_image('elbow', START, image())


@pytest.mark.parametrize('source', ['image', 'joints'])
def test_stamps_far_back_forget_everything(source):
    made = assembler(clock_jump_s=0.5)
    made.add_image('wrist', START, image())
    if source == 'image':
        assert made.add_image('wrist', START - 10**9, image())
        assert 'joint_states: none' in made.assemble(START - 10**9).reason
    else:
        assert made.add_joints(joints(START - 10**9, 0.0))
        assert 'no image' in made.assemble(START - 10**9).reason
    assert made.counts.clock_resets == 1


def test_a_late_message_is_counted_and_passed_over():
    made = assembler()
    made.add_image('wrist', START, image(1))
    assert not made.add_image('wrist', START - 100 * MS, image(2))
    assert not made.add_joints(joints(START + 590 * MS, 9.0))
    result = made.assemble(START)
    assert isinstance(result, Observation)
    assert result.images['wrist'][0, 0, 0] == 1 and result.joint_position[0] == pytest.approx(0.0)
    assert (made.counts.images_late, made.counts.joint_states_late) == (1, 1)


def test_decoding_waits_until_a_frame_is_used():
    made = assembler()
    decoded: list[int] = []

    def decoder(value: int):
        def decode() -> np.ndarray:
            decoded.append(value)
            return image(value)
        return decode

    for k in range(3 * FRAMES_KEPT):
        made.add_image('wrist', START + k * MS, decoder(k))
    result = made.assemble(START + 30 * MS)
    assert isinstance(result, Observation) and decoded == [3 * FRAMES_KEPT - 1]

    def broken() -> np.ndarray:
        raise ContractError('image: does not decode')

    made.add_image('wrist', START + 40 * MS, broken)
    refused = made.assemble(START + 40 * MS)
    assert isinstance(refused, ObservationRefused) and refused.camera == 'wrist'


@pytest.mark.parametrize(('options', 'text'), [
    ({'blank_cameras': ('nose',)}, 'nose arrived, cameras are: wrist'),
    ({'blank_cameras': ('wrist',)}, 'at least one must be real'), ({'max_skew_s': 0.0}, 'max_skew_s'),
    ({'max_age_s': float('nan')}, 'max_age_s')])
def test_settings_that_cannot_work_are_refused(options, text):
    with pytest.raises(ContractError, match=text):
        ObservationAssembler(('wrist',), NAMES, **options)


def test_other_joints_are_refused():
    with pytest.raises(ContractError, match='x, y arrived, a, b is allowed'):
        assembler().add_joints(JointMeasurement(START, ('x', 'y'), np.zeros(2), np.zeros(2)))


@pytest.mark.parametrize('beyond_ms', [-60, 0, 60])
def test_two_samples_a_moment_apart_are_no_velocity(beyond_ms):
    """Two publishers, or stamps that jitter: the difference of such samples is noise, not motion."""
    made = ObservationAssembler(('wrist',), NAMES, max_joint_gap_s=0.1, max_age_s=2.0)
    for k in range(-10, 11):
        made.add_joints(joints(START + k * 10 * MS, k * 0.001))
        made.add_joints(joints(START + k * 10 * MS + 1000, k * 0.001 + 1e-4))
    made.add_image('wrist', START + (100 + beyond_ms) * MS, image())
    result = made.assemble(START + 300 * MS)
    assert isinstance(result, Observation)
    assert result.joint_position[0] == pytest.approx(0.01 + beyond_ms * 1e-4, abs=6e-4)


def test_what_came_only_just_now_is_held_and_not_extrapolated():
    made = ObservationAssembler(('wrist',), NAMES, max_joint_gap_s=0.1)
    made.add_joints(joints(START, 0.2))
    made.add_joints(joints(START + 2000, 0.3))
    made.add_image('wrist', START + 50 * MS, image())
    late = made.assemble(START + 50 * MS)
    assert isinstance(late, Observation) and late.joint_position[0] == 0.3
    early = ObservationAssembler(('wrist',), NAMES, max_joint_gap_s=0.1)
    early.add_joints(joints(START, 0.2))
    early.add_joints(joints(START + 2000, 0.3))
    early.add_image('wrist', START - 50 * MS, image())
    result = early.assemble(START)
    assert isinstance(result, Observation) and result.joint_position[0] == 0.2
