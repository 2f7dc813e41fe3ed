"""The quick reader of joint states says exactly what the careful one says, whatever arrives when."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from sensor_msgs.msg import JointState

from cosmos3_ros.contracts import ContractError
from cosmos3_ros.nodes.joint_reader import JointReader
from cosmos3_ros.nodes.messages import joint_measurement, to_time
from cosmos3_ros.robots import load_robot

ROBOT = load_robot('panda')
GRIPPER = ROBOT.gripper.joint_name
NAMES = (*ROBOT.joint_names, GRIPPER)
NUMBERS = st.floats(-3.0, 3.0) | st.sampled_from([float('nan'), float('inf')])


@st.composite
def joint_states(draw: st.DrawFn) -> JointState:
    names = draw(st.sampled_from([
        NAMES, (*NAMES[::-1], 'lift'), ('lift', *NAMES), NAMES[:-1], NAMES[1:], (*NAMES, NAMES[0])]))
    message = JointState(name=list(names))
    for field in ('position', 'velocity', 'effort'):
        count = draw(st.sampled_from([len(names)] * 6 + [0, 3]))
        setattr(message, field, draw(st.lists(NUMBERS, min_size=count, max_size=count)) if draw(
            st.booleans()) else [0.1] * count)
    message.header.stamp = to_time(draw(st.integers(0, 2**31 * 10**9 - 1)))
    return message


def outcome(read: object) -> object:
    try:
        m = read()
    except ContractError as error:
        return type(error), str(error)
    arrays = [None if a is None else a.tolist() for a in (m.position, m.velocity, m.effort)]
    return m.stamp_ns, m.joint_names, arrays, m.gripper


@given(st.lists(joint_states(), min_size=1, max_size=5), st.integers(-10**9, 10**9))
def test_it_says_what_the_careful_reader_says(messages, offset_ns):
    reader = JointReader(ROBOT.joint_names, ROBOT.gripper)
    for message in messages:
        careful = outcome(lambda: joint_measurement(
            message, ROBOT.joint_names, gripper_joint=GRIPPER,  # noqa: B023
            gripper_closed=ROBOT.gripper.to_normalized, offset_ns=offset_ns))
        assert outcome(lambda: reader.read(message, offset_ns)) == careful  # noqa: B023


@pytest.mark.parametrize('names', [NAMES, NAMES[::-1]])
def test_a_measurement_does_not_change_with_the_message(names):
    reader = JointReader(ROBOT.joint_names, ROBOT.gripper)
    message = JointState(name=list(names), position=[0.1] * 8, velocity=[0.2] * 8)
    reader.read(message, 0)
    second = reader.read(message, 0)
    for field in (message.position, message.velocity):
        np.frombuffer(field, dtype=np.float64)[:] = 9.0
    assert second.position.tolist() == [0.1] * 7 and second.velocity.tolist() == [0.2] * 7
