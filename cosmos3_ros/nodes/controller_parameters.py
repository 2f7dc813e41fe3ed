"""What can be set about the controller."""

from collections.abc import Mapping
from typing import Any

from cosmos3_ros.control import ControllerConfig

from .command_output import COMMAND_INTERFACES
from .parameters import Parameter, ParameterTable
from .qos import qos_parameters

# Least gap between ticks that counts as a jump to the controller; as its own default.
CLOCK_FORWARD_NS = 200_000_000


def _threshold(name: str, text: str, unit: str, limit: float) -> Parameter:
    return Parameter(name, float, 0.0, f"{text} 0 takes the profile's.", unit=unit, range=(0.0, limit),
                     read_only=True)


CONTROLLER_TABLE = ParameterTable(
    Parameter('robot', str, 'panda', 'Robot, a shipped name or a YAML file.', read_only=True),
    Parameter('profile', str, 'commissioning', 'Profile that scales the limits.', read_only=True),
    Parameter('tracker', str, 'mpc', 'Tracker.', choices=('mpc', 'pid'), read_only=True),
    Parameter('rate_hz', float, 500.0, 'Rate of commands.', unit='Hz', range=(50.0, 1000.0),
              read_only=True),
    Parameter('command_interface', str, 'joint_state', 'Message type of joint_command.',
              choices=tuple(COMMAND_INTERFACES), read_only=True),
    Parameter('arm_on_activate', bool, False,
              'Arm as soon as the first joint state came. For simulation; on a real arm use ~/arm.',
              read_only=True),
    Parameter('speed_scale_required', bool, False, 'No motion until a speed_scale arrived.',
              read_only=True),
    Parameter('stop_on_stale_chunk', bool, False,
              'Latch a stop when chunks end. False holds at rest until the next chunk.', read_only=True),
    _threshold('joint_state_stale_s', 'Joint states older than this stop the arm.', 's', 10.0),
    _threshold('chunk_stale_s', 'Grace after the end of a chunk.', 's', 60.0),
    _threshold('tracking_error_rad', 'Deviation from the command that stops the arm.', 'rad', 3.2),
    Parameter('clock_jump_s', float, 0.1, 'A jump of the clock by more stops the arm.', unit='s',
              range=(0.01, 10.0), read_only=True),
    Parameter('overrun_stop_s', float, 0.05, 'A control tick later than this stops the arm.', unit='s',
              range=(0.001, 10.0), read_only=True),
    Parameter('rt_priority', int, 0, 'SCHED_FIFO priority of the control thread; 0 is normal.',
              range=(0, 98), read_only=True),
    Parameter('cpu_affinity', list[int], [-1],
              'Processors of the control thread; [-1] is any.', range=(-1, 1023), read_only=True),
    Parameter('trajectory_period_s', float, 0.02, 'Time between two messages of joint_trajectory.',
              unit='s', range=(0.002, 0.5), read_only=True),
    Parameter('trajectory_spacing_s', float, 0.02, 'Time between two points of joint_trajectory.',
              unit='s', range=(0.002, 0.1), read_only=True),
    Parameter('trajectory_points', int, 8, 'Points of joint_trajectory.', range=(2, 50), read_only=True),
    Parameter('state_rate_hz', float, 20.0, 'Rate of controller_state.', unit='Hz', range=(1.0, 100.0),
              read_only=True),
    *qos_parameters('joint_states', 'action_chunk', 'joint_command', 'controller_state', 'stop',
                    'speed_scale'),
)


def controller_config(values: Mapping[str, Any]) -> ControllerConfig:
    """Return what the parameters say about the controller itself."""
    return ControllerConfig(
        tracker=values['tracker'], rate_hz=values['rate_hz'],
        speed_scale_required=values['speed_scale_required'],
        stop_on_stale_chunk=values['stop_on_stale_chunk'],
        overrun_stop_ns=round(values['overrun_stop_s'] * 1e9),
        # Control time does not jump (see clock.py), so a gap between ticks is a stall of this process.
        clock_forward_ns=max(CLOCK_FORWARD_NS, round(2e9 * min(values['overrun_stop_s'], 5.0))),
        joint_state_stale_s=values['joint_state_stale_s'] or None,
        chunk_stale_s=values['chunk_stale_s'] or None,
        tracking_error_rad=values['tracking_error_rad'] or None)
