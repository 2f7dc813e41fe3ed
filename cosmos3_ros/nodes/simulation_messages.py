"""The simulator's privileged state as a message and back."""

from array import array

import numpy as np
from numpy.typing import NDArray

import cosmos3_ros.msg as msg
from cosmos3_ros.sim.snapshot import SimulationSnapshot

from .messages import to_ns, to_time


def _doubles(values: NDArray[np.float64]) -> 'array[float]':
    data = array('d')
    data.frombytes(values.tobytes())
    return data


def snapshot_to_message(snapshot: SimulationSnapshot) -> msg.SimulationState:
    """Return a snapshot as cosmos3_ros/SimulationState."""
    message = msg.SimulationState(
        task=snapshot.task, instruction=snapshot.instruction, seed=snapshot.seed, episode=snapshot.episode,
        success=snapshot.success, qpos=_doubles(snapshot.qpos), qvel=_doubles(snapshot.qvel),
        ctrl=_doubles(snapshot.ctrl), zone_xy=_doubles(snapshot.zone_xy))
    message.header.stamp = to_time(snapshot.stamp_ns)
    return message


def snapshot_from_message(message: msg.SimulationState) -> SimulationSnapshot:
    """Return cosmos3_ros/SimulationState as a snapshot.

    :raises ContractError: NaN, or a wrong shape.
    """
    return SimulationSnapshot(
        stamp_ns=to_ns(message.header.stamp), task=message.task, instruction=message.instruction,
        seed=message.seed, episode=message.episode, success=message.success,
        qpos=np.array(message.qpos, dtype=np.float64), qvel=np.array(message.qvel, dtype=np.float64),
        ctrl=np.array(message.ctrl, dtype=np.float64), zone_xy=np.array(message.zone_xy, dtype=np.float64))
