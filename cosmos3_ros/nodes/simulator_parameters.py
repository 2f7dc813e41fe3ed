"""What can be set about the simulator."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cosmos3_ros.sim.configuration import CUBE_COLOURS, SimulationConfig
from cosmos3_ros.sim.tasks import TASKS

from .command_input import COMMAND_INPUTS
from .parameters import Parameter, ParameterTable
from .qos import qos_parameters
from .simulator_cameras import CAMERA_PROCESS_PARAMETERS

SIMULATOR_TABLE = ParameterTable(
    Parameter('robot', str, 'panda', 'The arm that is simulated.', choices=('panda',), read_only=True),
    Parameter('task', str, 'pick_place', 'Task of the first episode.', choices=TASKS, read_only=True),
    Parameter('seed', int, 0, 'Seed of the first episode.', range=(0, 2**62), read_only=True),
    Parameter('cubes', list[str], list(CUBE_COLOURS), 'Colours of the cubes on the table.',
              read_only=True),
    Parameter('command_interface', str, 'joint_state', 'Message type of joint_command.',
              choices=tuple(COMMAND_INPUTS), read_only=True),
    Parameter('command_timeout_s', float, 0.1, 'Without a command for this long the arm brakes and '
              'holds.', unit='s', range=(0.005, 10.0), read_only=True),
    Parameter('max_command_jump_rad', float, 0.25, 'A command farther than this from the measured '
              'position is refused.', unit='rad', range=(0.01, 10.0), read_only=True),
    Parameter('physics_rate_hz', int, 500, 'Integration steps per second.', unit='Hz',
              range=(500, 1000), read_only=True),
    Parameter('clock_rate_hz', float, 100.0, 'Rate of /clock.', unit='Hz', range=(10.0, 500.0),
              read_only=True),
    Parameter('joint_state_rate_hz', float, 200.0, 'Rate of joint_states.', unit='Hz',
              range=(1.0, 500.0), read_only=True),
    Parameter('state_rate_hz', float, 30.0, 'Rate of simulation_state.', unit='Hz',
              range=(1.0, 100.0), read_only=True),
    Parameter('camera_rate_hz', float, 15.0, 'Rate of each camera.', unit='Hz', range=(1.0, 60.0),
              read_only=True),
    Parameter('render', bool, True, 'Start the render process; False simulates without cameras.',
              read_only=True),
    Parameter('image_width', int, 640, 'Width of the wrist images.', unit='pixels', range=(64, 1280),
              read_only=True),
    Parameter('image_height', int, 360, 'Height of the wrist images.', unit='pixels', range=(64, 720),
              read_only=True),
    Parameter('exterior_divisor', int, 2, 'The exterior images are this much smaller.', range=(1, 4),
              read_only=True),
    Parameter('shadows', bool, False, 'Draw shadows; about three times the rendering cost.',
              read_only=True),
    Parameter('light_variation', float, 0.0, 'Variation of the light per episode.', range=(0.0, 1.0),
              read_only=True),
    Parameter('colour_variation', float, 0.0, 'Variation of the colours per episode.',
              range=(0.0, 1.0), read_only=True),
    Parameter('lockstep', bool, False, 'Time stands still until a command comes or ~/step is called.',
              read_only=True),
    Parameter('lockstep_command_s', float, 0.002, 'Simulated time per command with lockstep.',
              unit='s', range=(0.001, 0.1), read_only=True),
    Parameter('rt_priority', int, 0, 'SCHED_FIFO priority of the physics thread; 0 is normal.',
              range=(0, 98), read_only=True),
    *(replace(row, default='reliable') if row.name == 'qos.joint_states.reliability' else row
      for row in qos_parameters('joint_states', 'joint_command', 'simulation_state')),
    *CAMERA_PROCESS_PARAMETERS,
)


def simulation_config(values: Mapping[str, Any]) -> SimulationConfig:
    """Return the world that the parameters describe.

    :raises SimulationError: They contradict each other or lie outside the world's own ranges.
    """
    return SimulationConfig(
        physics_rate_hz=values['physics_rate_hz'], cubes=tuple(values['cubes']),
        command_timeout_s=values['command_timeout_s'],
        max_command_jump_rad=values['max_command_jump_rad'], light_variation=values['light_variation'],
        colour_variation=values['colour_variation'], image_width=values['image_width'],
        image_height=values['image_height'], exterior_divisor=values['exterior_divisor'],
        shadows=values['shadows'])
