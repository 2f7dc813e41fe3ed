"""Parameters of the node ``generator``."""

from typing import Any

import yaml

from cosmos3_ros.control.config import PREFIX_SCHEDULES
from cosmos3_ros.generator.policy import POLICIES

from .cameras import CAMERA_PARAMETERS
from .parameters import Parameter, ParameterError, ParameterTable
from .qos import qos_parameters

# numpy's RandomState, which draws the noise, takes seeds up to here.
SEED_LIMIT = 2**32

GENERATOR_TABLE = ParameterTable(
    Parameter('robot', str, 'panda', 'Robot that the chunks are for.', read_only=True),
    *CAMERA_PARAMETERS,
    Parameter('blank_cameras', list[str], [],
              'Camera slots without a camera, filled with black.', read_only=True),
    Parameter('policy', str, 'cosmos3', f'Policy that makes the chunks: {", ".join(POLICIES)}.',
              read_only=True),
    Parameter('policy_url', str, '',
              'Address of the server of openpi (ws://), vllm_omni or nim (http://).', read_only=True),
    Parameter('checkpoint', str, '', 'Checkpoint of a policy that runs here.', read_only=True),
    Parameter('device', str, '', "Torch device, e.g. cuda:0; empty takes the policy's own.",
              read_only=True),
    Parameter('policy_options', list[str], [],
              "Further arguments of the policy as name=value, e.g. ['steps=4'].", read_only=True),
    Parameter('seed', int, 0, 'Seed of the noise, recorded in every chunk.', range=(0, SEED_LIMIT - 1)),
    Parameter('seed_mode', str, 'fixed',
              'fixed: every chunk has the seed. per_chunk: chunk n has seed + n.',
              choices=('fixed', 'per_chunk')),
    Parameter('instruction', str, '', 'Instruction at activation; empty waits for one.', read_only=True),
    Parameter('replan_interval_s', float, 0.5, 'Time between two requests.', unit='s', range=(0.02, 60.0),
              read_only=True),
    Parameter('request_deadline_s', float, 0.0,
              'A chunk that took longer is thrown away, and a server is not waited for longer unless '
              'policy_options has timeout_s; 0 publishes every chunk.', unit='s',
              range=(0.0, 600.0)),
    Parameter('injected_latency_s', float, 0.0,
              'Publish every chunk this much later, to try out a slow policy.', unit='s',
              range=(0.0, 30.0)),
    Parameter('real_time_chunking', bool, False,
              'Tie each chunk to the one that plays while it is computed; cosmos3 only.', read_only=True),
    Parameter('prefix_decay', str, 'LINEAR',
              'With real_time_chunking: how the old chunk loses its say after the latency.',
              choices=PREFIX_SCHEDULES),
    Parameter('max_skew_s', float, 0.05, 'Largest distance of an image from the anchor.', unit='s',
              range=(0.001, 1.0), read_only=True),
    Parameter('max_age_s', float, 0.5, 'Largest age of the anchor.', unit='s', range=(0.01, 10.0),
              read_only=True),
    Parameter('max_joint_gap_s', float, 0.1, 'Largest gap of joint states around the anchor.', unit='s',
              range=(0.001, 1.0), read_only=True),
    Parameter('stop_on_scene_state', bool, False,
              'End execute_instruction when a trained reasoner reports done or failed.'),
    Parameter('scene_state_reports', int, 2,
              'So many reports in a row must say done or failed to end a goal.', range=(1, 100)),
    Parameter('stop_on_simulation_success', bool, True,
              'With policy oracle, end execute_instruction when the simulator reports success.'),
    Parameter('follow_simulation', bool, False,
              'In simulation: take each episode\'s instruction, unless another one was set.',
              read_only=True),
    *qos_parameters('images', 'joint_states', 'action_chunk', 'scene', 'simulation_state'),
)


def policy_options(items: list[str]) -> dict[str, Any]:
    """Return ``['steps=4', 'guidance=3.0']`` as keyword arguments; values are read as YAML.

    :raises ParameterError: An item without a name or an equals sign.
    """
    options = {}
    for item in items:
        name, equals, value = item.partition('=')
        if not equals or not name.strip():
            raise ParameterError(f'policy_options: {item!r} arrived, name=value is allowed')
        options[name.strip()] = yaml.safe_load(value)
    return options
