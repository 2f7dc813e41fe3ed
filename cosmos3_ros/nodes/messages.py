"""Contracts as messages and messages as contracts. Every check of a contract applies on the way in."""

from array import array
from collections.abc import Callable, Sequence
from typing import Any

from builtin_interfaces.msg import Time
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import JointState

from cosmos3_ros.contracts import (
    ActionChunk,
    ContractError,
    ControllerMode,
    ControllerState,
    JointMeasurement,
    ModelIdentity,
    Plausibility,
    SceneObject,
    SceneReport,
    StopReason,
    TaskState,
)
import cosmos3_ros.msg as msg

NS_PER_S = 1_000_000_000


class NonFiniteError(ContractError):
    """A joint state holds NaN or infinity: not malformed but meaningless, so the arm must stop."""


def to_ns(stamp: Any) -> int:
    """Return a builtin_interfaces/Time (or Duration) as nanoseconds."""
    return int(stamp.sec) * NS_PER_S + int(stamp.nanosec)


def to_time(stamp_ns: int) -> Time:
    """Return nanoseconds as builtin_interfaces/Time."""
    sec, nanosec = divmod(int(stamp_ns), NS_PER_S)
    return Time(sec=sec, nanosec=nanosec)


def _doubles(values: NDArray[np.float64]) -> 'array[float]':
    # Assigning an ndarray to a message field walks over its elements with checks; this copies memory.
    data = array('d')
    data.frombytes(np.ascontiguousarray(values, dtype=np.float64).tobytes())
    return data


def chunk_to_message(chunk: ActionChunk) -> msg.ActionChunk:
    """Return a chunk as cosmos3_ros/ActionChunk."""
    message = msg.ActionChunk(
        step_ns=chunk.step_ns, joint_names=list(chunk.joint_names), horizon=chunk.horizon,
        positions=_doubles(chunk.positions), gripper=_doubles(chunk.gripper), contract=chunk.contract,
        instruction=chunk.instruction, seed=chunk.seed, steps=chunk.steps, guidance=chunk.guidance,
        policy=chunk.policy, checkpoint=chunk.identity.checkpoint, engine=chunk.identity.engine,
        trained=chunk.identity.trained, trace_id=chunk.trace_id, latency_s=chunk.latency_s)
    message.header.stamp = to_time(chunk.stamp_ns)
    return message


def chunk_from_message(message: msg.ActionChunk, *, offset_ns: int = 0) -> ActionChunk:
    """Return cosmos3_ros/ActionChunk as a chunk.

    :param offset_ns: Added to the stamp (see ``clock.ControlClock``).

    :raises ContractError: The message does not fit the contract.
    """
    columns = len(message.joint_names)
    positions = np.frombuffer(message.positions, dtype=np.float64)
    if len(positions) != message.horizon * columns:
        raise ContractError(
            f'positions: {len(positions)} values arrived, horizon {message.horizon} * '
            f'{columns} joints is {message.horizon * columns}')
    return ActionChunk(
        stamp_ns=to_ns(message.header.stamp) + offset_ns, step_ns=message.step_ns,
        joint_names=tuple(message.joint_names), positions=positions.reshape(message.horizon, columns),
        gripper=np.frombuffer(message.gripper, dtype=np.float64), contract=message.contract,
        instruction=message.instruction, seed=message.seed, steps=message.steps,
        guidance=message.guidance, policy=message.policy,
        identity=ModelIdentity(message.checkpoint, message.engine, message.trained),
        trace_id=message.trace_id, latency_s=message.latency_s)


def objects_to_messages(objects: Sequence[SceneObject]) -> list[msg.SceneObject]:
    """Return objects as cosmos3_ros/SceneObject."""
    return [
        msg.SceneObject(label=item.label, camera=item.camera, box_px=np.array(item.box_px, np.float64),
                        box_normalized=np.array(item.box_normalized, np.float64))
        for item in objects]


def scene_to_message(report: SceneReport) -> msg.SceneReport:
    """Return a report as cosmos3_ros/SceneReport."""
    message = msg.SceneReport(
        clip_start=to_time(report.clip_start_ns), clip_frames=report.clip_frames,
        cameras=list(report.cameras), instruction=report.instruction, caption=report.caption,
        objects=objects_to_messages(report.objects),
        next_action=report.next_action, task_state=int(report.task_state), hazards=list(report.hazards),
        plausibility=int(report.plausibility), parsed=report.parsed, reason=report.reason,
        raw_text=report.raw_text, checkpoint=report.identity.checkpoint, engine=report.identity.engine,
        trained=report.identity.trained, latency_s=report.latency_s)
    message.header.stamp = to_time(report.stamp_ns)
    return message


def scene_from_message(message: msg.SceneReport) -> SceneReport:
    """Return cosmos3_ros/SceneReport as a report.

    :raises ContractError: An enum value or a box is outside its range.
    """
    try:
        task_state = TaskState(message.task_state)
        plausibility = Plausibility(message.plausibility)
    except ValueError as error:
        raise ContractError(f'scene: {error}') from error
    return SceneReport(
        stamp_ns=to_ns(message.header.stamp), clip_start_ns=to_ns(message.clip_start),
        clip_frames=message.clip_frames, cameras=tuple(message.cameras), instruction=message.instruction,
        caption=message.caption,
        objects=tuple(
            SceneObject(item.label, item.camera, _box(item.box_px), _box(item.box_normalized))
            for item in message.objects),
        next_action=message.next_action, task_state=task_state, hazards=tuple(message.hazards),
        plausibility=plausibility, parsed=message.parsed, reason=message.reason,
        raw_text=message.raw_text,
        identity=ModelIdentity(message.checkpoint, message.engine, message.trained),
        latency_s=message.latency_s)


def _box(values: Sequence[float]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(value) for value in values)
    return x1, y1, x2, y2


_SEAM_FIELDS = {
    'position': 'seam_position_rad', 'velocity': 'seam_velocity_rad_s',
    'acceleration': 'seam_acceleration_rad_s2', 'jerk': 'seam_jerk_rad_s3',
}


def controller_state_to_message(state: ControllerState, *, offset_ns: int = 0) -> msg.ControllerState:
    """Return the controller's state as cosmos3_ros/ControllerState.

    :param offset_ns: Taken from the stamp (see ``clock.ControlClock``).
    """
    message = msg.ControllerState(
        mode=int(state.mode), stop_reason=int(state.stop_reason), stop_detail=state.stop_detail,
        speed_scale=float(state.speed_scale), chunk_age_s=float(state.chunk_age_s),
        chunk_trace_id=state.chunk_trace_id, joint_names=list(state.joint_names),
        commanded_position=_doubles(state.commanded_position),
        tracking_error=_doubles(state.tracking_error), active_limits=list(state.active_limits),
        chunks_accepted=state.chunks_accepted, chunks_rejected=state.chunks_rejected,
        last_rejection=state.last_rejection, plans_committed=state.plans_committed,
        plans_rejected=state.plans_rejected, overruns=state.overruns)
    for name, field in _SEAM_FIELDS.items():
        setattr(message, field, float(state.seam.get(name, 0.0)))
    message.header.stamp = to_time(max(0, state.stamp_ns - offset_ns))
    return message


def controller_state_from_message(message: msg.ControllerState) -> ControllerState:
    """Return cosmos3_ros/ControllerState as the controller's state.

    :raises ContractError: An enum value is outside its range.
    """
    try:
        mode, reason = ControllerMode(message.mode), StopReason(message.stop_reason)
    except ValueError as error:
        raise ContractError(f'controller_state: {error}') from error
    return ControllerState(
        stamp_ns=to_ns(message.header.stamp), mode=mode, stop_reason=reason,
        stop_detail=message.stop_detail, speed_scale=message.speed_scale,
        chunk_age_s=message.chunk_age_s, chunk_trace_id=message.chunk_trace_id,
        joint_names=tuple(message.joint_names),
        commanded_position=np.array(message.commanded_position, dtype=np.float64),
        tracking_error=np.array(message.tracking_error, dtype=np.float64),
        active_limits=tuple(message.active_limits), chunks_accepted=message.chunks_accepted,
        chunks_rejected=message.chunks_rejected, last_rejection=message.last_rejection,
        plans_committed=message.plans_committed, plans_rejected=message.plans_rejected,
        overruns=message.overruns,
        seam={name: getattr(message, field) for name, field in _SEAM_FIELDS.items()})


def joint_measurement(
    message: JointState,
    joint_names: Sequence[str],
    *,
    gripper_joint: str = '',
    gripper_closed: Callable[[float], float] | None = None,
    velocity_required: bool = True,
    offset_ns: int = 0,
) -> JointMeasurement:
    """Return a JointState in the robot's joint order. Joints of other devices are passed over.

    :param joint_names: The robot's joints, in its order.
    :param gripper_joint: Joint whose position tells the gripper's opening; empty for none.
    :param gripper_closed: Maps that position to 0 open .. 1 closed.
    :param velocity_required: False takes zeros where the message has no velocities.
    :param offset_ns: Added to the stamp (see ``clock.ControlClock``).
    :raises ContractError: A joint is missing or stands twice, or lengths disagree.
    :raises NonFiniteError: A position, velocity or effort of the robot is NaN or infinite.
    """
    index: dict[str, int] = {name: i for i, name in enumerate(message.name)}
    if len(index) != len(message.name):
        raise ContractError(f'joint_states: {list(message.name)} arrived, each name may stand once')
    missing = [name for name in joint_names if name not in index]
    if missing:
        raise ContractError(
            f'joint_states: {", ".join(missing)} missing among {", ".join(message.name) or "no names"}; '
            'the parameter robot says which joints are needed')
    order = [index[name] for name in joint_names]
    columns: dict[str, NDArray[np.float64] | None] = {}
    for field in ('position', 'velocity', 'effort'):
        values = np.asarray(getattr(message, field), dtype=np.float64)
        if len(values) == 0 and field != 'position':
            columns[field] = None
            continue
        if len(values) != len(message.name):
            raise ContractError(
                f'joint_states: {len(values)} values of {field} arrived for {len(message.name)} names')
        picked = values[order]
        if not np.isfinite(picked).all():
            joint = joint_names[int(np.flatnonzero(~np.isfinite(picked))[0])]
            raise NonFiniteError(f'joint_states: {field} of {joint} is {picked[~np.isfinite(picked)][0]}')
        columns[field] = picked
    velocity = columns['velocity']
    if velocity is None:
        if velocity_required:
            raise ContractError('joint_states: no velocities arrived, the controller needs them')
        velocity = np.zeros(len(order))
    gripper = None
    if gripper_joint and gripper_joint in index and gripper_closed is not None:
        travel = float(message.position[index[gripper_joint]])
        if not np.isfinite(travel):
            raise NonFiniteError(f'joint_states: position of {gripper_joint} is {travel}')
        gripper = min(1.0, max(0.0, float(gripper_closed(travel))))
    position = columns['position']
    assert position is not None
    return JointMeasurement(
        stamp_ns=to_ns(message.header.stamp) + offset_ns, joint_names=tuple(joint_names), position=position,
        velocity=velocity, effort=columns['effort'], gripper=gripper)


def other_joints(message: JointState, joint_names: Sequence[str], gripper_joint: str = '') -> tuple[str, ...]:
    """Return the names in ``message`` that are neither the robot's nor its gripper's."""
    known = {*joint_names, gripper_joint}
    return tuple(name for name in message.name if name not in known)
