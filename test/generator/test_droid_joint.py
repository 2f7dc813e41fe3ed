"""The contract's rows: what goes in, what comes out, and the noise between."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import pytest

from cosmos3_ros.contracts import Observation
from cosmos3_ros.generator import droid_joint
from cosmos3_ros.generator.noise import draw_noise
from cosmos3_ros.generator.policy import POLICIES, PolicyError, create_policy

JOINTS = tuple(f'j{i}' for i in range(7))


@settings(deadline=None)
@given(order=st.permutations(range(9)), gripper=st.floats(0, 1))
def test_the_state_row_is_in_the_models_order_whatever_the_observations(order, gripper):
    names = (*JOINTS, 'finger', 'lift')
    observation = Observation(
        0, {'wrist': np.zeros((1, 1, 3), np.uint8)}, tuple(names[i] for i in order),
        np.array([i / 8 for i in order]), gripper, 0)
    row = droid_joint.state_row(observation, JOINTS)
    assert row.dtype == np.float32 and row[:7].tolist() == [i / 8 for i in range(7)]
    assert row[7] == np.float32(1.0 - gripper)


def test_a_missing_joint_is_named():
    observation = Observation(
        0, {'wrist': np.zeros((1, 1, 3), np.uint8)}, JOINTS[:6], np.zeros(6), 0.0, 0)
    with pytest.raises(PolicyError, match=r'no joint j6; it carries j0, j1, .*parameter robot'):
        droid_joint.state_row(observation, JOINTS)


@settings(deadline=None)
@given(rows=hnp.arrays(np.float32, (33, 64), elements=st.floats(-10, 10, width=32)))
def test_rows_become_positions_as_they_are_and_a_gripper_in_range(rows):
    positions, gripper = droid_joint.read_rows(rows)
    assert positions.shape == (32, 7) and gripper.shape == (32,)
    assert (positions == rows[1:, :7]).all()
    assert (gripper == np.clip(1.0 - rows[1:, 7].astype(float), 0, 1)).all()


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_no_chunk_with_a_value_that_is_not_finite(value):
    rows = np.zeros((33, 64), np.float32)
    rows[5, 3] = value
    with pytest.raises(PolicyError, match=f'answered {value} in row 4, channel 3'):
        droid_joint.read_rows(rows)
    rows[5, 3], rows[5, 20] = 0.0, value  # a channel that the contract does not use
    droid_joint.read_rows(rows)


@pytest.mark.parametrize('joints', [JOINTS[:6], (*JOINTS, 'j7'), (*JOINTS[:6], 'j0'), ()])
def test_only_a_robot_with_seven_joints(joints):
    with pytest.raises(PolicyError, match='contract droid_joint moves 7 joints'):
        droid_joint.check_robot(joints)


def test_noise_is_numpys_frozen_stream():
    # The first numbers of RandomState(0), as they have been since NumPy 1.0.
    np.testing.assert_allclose(
        draw_noise(0, (4,)), [1.764052345967664, 0.4001572083672233, 0.9787379841057392, 2.240893199201458],
        rtol=1e-7)
    assert draw_noise(0, (4,)).dtype == np.float32
    # Video and actions are drawn apart from the same seed, so they begin alike.
    assert (draw_noise(7, (1, 48, 9, 3, 4)).ravel()[:33 * 64] == draw_noise(7, (33, 64)).ravel()).all()


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_noise_depends_on_the_seed_only(seed):
    assert (draw_noise(seed, (8,)) == draw_noise(seed, (8,))).all()
    assert (draw_noise(seed, (8,)) != draw_noise((seed + 1) % 2**32, (8,))).any()


@pytest.mark.parametrize('seed', [-1, 2**32, 1.5, True, 'a', None])
def test_bad_seeds(seed):
    with pytest.raises(PolicyError, match='seed: '):
        draw_noise(seed, (1,))


def test_unknown_policies_and_options():
    assert {'oracle', 'cosmos3'} <= set(POLICIES)
    with pytest.raises(PolicyError, match=r"policy: 'gpt' arrived, one of cosmos3, .*openpi, oracle, replay"):
        create_policy('gpt')
    pytest.importorskip('torch', reason="the extra 'model' is not installed")
    with pytest.raises(PolicyError, match=r'policy cosmos3: .*colour.*options are checkpoint, joint_names'):
        create_policy('cosmos3', checkpoint='x', joint_names=JOINTS, colour='red')
