"""Contracts survive the way through messages; joint states are put in order or refused in words."""

import cosmos3_ros.msg as msg
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import JointState

from cosmos3_ros.contracts import (
    ActionChunk,
    ContractError,
    ControllerMode,
    ControllerState,
    ModelIdentity,
    Plausibility,
    SceneObject,
    SceneReport,
    StopReason,
    TaskState,
)
from cosmos3_ros.nodes.messages import (
    NonFiniteError,
    chunk_from_message,
    chunk_to_message,
    controller_state_from_message,
    controller_state_to_message,
    joint_measurement,
    other_joints,
    scene_from_message,
    scene_to_message,
    to_ns,
    to_time,
)

NAMES = ('a', 'b', 'c')
FINITE = st.floats(-1e6, 1e6)
IDENTITY = ModelIdentity('tiny@1', 'test/float32', False)


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_time_and_back(stamp_ns):
    assert to_ns(to_time(stamp_ns)) == stamp_ns


def chunk(rows: int, values: list[float]) -> ActionChunk:
    return ActionChunk(
        stamp_ns=123_456_789_012, step_ns=66_666_667, joint_names=NAMES,
        positions=np.resize(values, (rows, 3)), gripper=np.linspace(0, 1, rows), contract='droid_joint',
        instruction='näh', seed=2**63, steps=4, guidance=3.0, policy='p', identity=IDENTITY, trace_id='t',
        latency_s=0.5)


@given(st.integers(1, 40), st.lists(FINITE, min_size=1, max_size=9))
def test_chunk_survives_the_wire(rows, values):
    before = chunk(rows, values)
    wire = deserialize_message(serialize_message(chunk_to_message(before)), msg.ActionChunk)
    after = chunk_from_message(wire)
    for field in ActionChunk.__dataclass_fields__:
        assert np.array_equal(getattr(before, field), getattr(after, field)), field
    assert chunk_from_message(wire, offset_ns=-5).stamp_ns == before.stamp_ns - 5


@pytest.mark.parametrize(('field', 'value', 'text'), [
    ('horizon', 5, '9 values arrived, horizon 5'), ('step_ns', 0, 'positive number'),
    ('joint_names', ['a', 'a', 'b'], 'each name may stand once'),
    ('gripper', [0.0, 0.5, 1.5], r'0 \(open\)'),
    ('positions', [float('nan')] * 9, 'nan arrived')])
def test_chunk_that_contradicts_itself_is_refused(field, value, text):
    message = chunk_to_message(chunk(3, [0.0]))
    setattr(message, field, value)
    with pytest.raises(ContractError, match=text):
        chunk_from_message(message)


def report(**changes: object) -> SceneReport:
    fields = {
        'stamp_ns': 5, 'clip_start_ns': 3, 'clip_frames': 2, 'cameras': ('wrist',), 'instruction': 'i',
        'caption': 'c',
        'objects': (SceneObject('cube', 'wrist', (1.0, 2.0, 3.0, 4.0), (0.1, 0.2, 0.3, 0.4)),),
        'next_action': 'n', 'task_state': TaskState.DONE, 'hazards': ('h',),
        'plausibility': Plausibility.IMPOSSIBLE, 'parsed': False, 'reason': 'r', 'raw_text': '{',
        'identity': IDENTITY, 'latency_s': 1.0}
    return SceneReport(**{**fields, **changes})


def test_scene_survives_the_wire():
    wire = deserialize_message(serialize_message(scene_to_message(report())), msg.SceneReport)
    assert scene_from_message(wire) == report()


def test_unknown_enum_value_is_refused():
    message = scene_to_message(report())
    message.task_state = 77
    with pytest.raises(ContractError, match='77'):
        scene_from_message(message)


def test_enums_are_those_of_the_messages():
    for contract, message, prefix in (
            (ControllerMode, msg.ControllerState, 'MODE_'), (StopReason, msg.ControllerState, 'REASON_'),
            (TaskState, msg.SceneReport, 'TASK_'), (Plausibility, msg.SceneReport, 'PLAUSIBILITY_')):
        for member in contract:
            assert getattr(message, prefix + member.name) == member


def test_controller_state_survives_the_wire():
    before = ControllerState(
        stamp_ns=10**12, mode=ControllerMode.STOPPED, stop_reason=StopReason.OPERATOR, stop_detail='d',
        speed_scale=0.5, chunk_age_s=0.25, chunk_trace_id='t', joint_names=NAMES,
        commanded_position=np.arange(3.0), tracking_error=np.ones(3), active_limits=('a:velocity',),
        chunks_accepted=1, chunks_rejected=2, last_rejection='l', plans_committed=3, plans_rejected=4,
        overruns=5, seam={'position': 1.0, 'velocity': 2.0, 'acceleration': 3.0, 'jerk': 4.0})
    wire = deserialize_message(serialize_message(controller_state_to_message(before)), msg.ControllerState)
    after = controller_state_from_message(wire)
    for field in ControllerState.__dataclass_fields__:
        assert np.array_equal(getattr(before, field), getattr(after, field)), field


@given(st.permutations([*NAMES, 'gripper', 'stranger']), st.lists(FINITE, min_size=5, max_size=5))
def test_joint_states_in_any_order(names, values):
    by_name = dict(zip(names, values, strict=True))
    message = JointState(name=names, position=values, velocity=[2 * v for v in values])
    message.header.stamp.sec = 3
    measured = joint_measurement(message, NAMES, gripper_joint='gripper', gripper_closed=lambda x: x / 1e6)
    assert measured.position.tolist() == [by_name[name] for name in NAMES]
    assert measured.velocity.tolist() == [2 * by_name[name] for name in NAMES]
    assert measured.effort is None
    assert measured.gripper == min(1.0, max(0.0, by_name['gripper'] / 1e6))
    assert measured.stamp_ns == 3 * 10**9
    assert other_joints(message, NAMES, 'gripper') == ('stranger',)


@pytest.mark.parametrize(('change', 'text'), [
    ({'name': ['a', 'b', 'x']}, 'c missing among a, b, x'), ({'name': ['a', 'b', 'b']}, 'may stand once'),
    ({'name': []}, 'missing among no names'), ({'position': [0.0]}, '1 values of position arrived for 3'),
    ({'velocity': [0.0]}, '1 values of velocity arrived'), ({'velocity': []}, 'no velocities')])
def test_joint_states_that_do_not_fit_are_refused(change, text):
    fields = {'name': list(NAMES), 'position': [0.0] * 3, 'velocity': [0.0] * 3, **change}
    with pytest.raises(ContractError, match=text) as caught:
        joint_measurement(JointState(**fields), NAMES)
    assert not isinstance(caught.value, NonFiniteError)


@pytest.mark.parametrize('field', ['position', 'velocity', 'effort'])
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_nonfinite_is_told_apart(field, value):
    fields = {'name': [*NAMES, 'other'], **{f: [0.0] * 4 for f in ('position', 'velocity', 'effort')}}
    fields[field] = [0.0, value, 0.0, 0.0]
    with pytest.raises(NonFiniteError, match=f'{field} of b is'):
        joint_measurement(JointState(**fields), NAMES)
    fields[field] = [0.0, 0.0, 0.0, value]
    joint_measurement(JointState(**fields), NAMES)


def test_velocity_may_be_missing_where_it_is_not_needed():
    message = JointState(name=list(NAMES), position=[1.0, 2.0, 3.0])
    assert not joint_measurement(message, NAMES, velocity_required=False).velocity.any()
