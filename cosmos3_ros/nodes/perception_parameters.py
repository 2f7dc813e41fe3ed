"""What can be set about perception."""

from collections.abc import Mapping
from typing import Any

from cosmos3_ros.reasoner.backend import backend_names

from .cameras import CAMERA_PARAMETERS
from .parameters import Parameter, ParameterTable
from .qos import qos_parameters


def _check(values: Mapping[str, Any]) -> str | None:
    if values['frames'] % 2:
        return f'frames: {values["frames"]} arrived, an even number is allowed'
    return None


PERCEPTION_TABLE = ParameterTable(
    Parameter('robot', str, 'panda', 'Robot whose camera slots are used.', read_only=True),
    *CAMERA_PARAMETERS,
    Parameter('clip_layout', str, 'separate',
              'separate: a clip per camera. composed: one clip of the picture that the policy sees.',
              choices=('separate', 'composed'), read_only=True),
    Parameter('backend', str, 'transformers', f'What runs the reasoner: {", ".join(backend_names())}.',
              read_only=True),
    Parameter('checkpoint', str, '', 'Checkpoint directory.', read_only=True),
    Parameter('device', str, 'cpu', 'Torch device, e.g. cpu or cuda:0.', read_only=True),
    Parameter('weights', str, 'dtype', 'Backend compiled: in the usual precision, or in eight bits.',
              choices=('dtype', 'fp8'), read_only=True),
    Parameter('answer_lookup', bool, False,
              'Backend compiled on a CPU: guess that an answer goes on as the last one, and check eight '
              'tokens in one pass. The same answers, but for words that are equally likely to a rounding.',
              read_only=True),
    Parameter('engines', str, 'engines', 'Backend tensorrt: directory that cosmos3 engine build wrote to.',
              read_only=True),
    Parameter('engine_precision', str, 'bf16', 'Backend tensorrt: precision of the language plans.',
              read_only=True),
    Parameter('video_pruning_rate', float, 0.0,
              'Share of vision tokens that Efficient Video Sampling drops; a server has its own setting.',
              range=(0.0, 0.95), read_only=True),
    Parameter('base_url', str, '', 'Backend openai: its server, e.g. http://localhost:8000/v1.',
              read_only=True),
    Parameter('model', str, '', 'Backend openai: model name; empty takes the first of the server.',
              read_only=True),
    Parameter('api_key_variable', str, 'OPENAI_API_KEY',
              'Backend openai: environment variable that holds the key.', read_only=True),
    Parameter('stream', bool, True,
              'Backend openai: take answers in pieces, up to the last bracket.', read_only=True),
    Parameter('request_options', str, '',
              'Backend openai: further fields of each request as JSON, e.g. what a server calls its pruning.',
              read_only=True),
    Parameter('prompts', str, '', 'YAML file of prompts; empty takes the shipped one.', read_only=True),
    Parameter('instruction', str, '',
              'Task that task_state refers to, until one arrives on the topic instruction.'),
    Parameter('period_s', float, 2.0, 'Time between two clips.', unit='s', range=(0.05, 3600.0)),
    Parameter('deadline_s', float, 5.0, 'A report that took longer is called late.', unit='s',
              range=(0.01, 600.0)),
    Parameter('ask_timeout_s', float, 20.0,
              'An answer of ~/ask that takes longer is given up, unless the request says otherwise.',
              unit='s', range=(0.01, 600.0)),
    Parameter('fps', float, 4.0, 'Frames per second of a clip.', unit='Hz', range=(0.1, 60.0),
              read_only=True),
    Parameter('frames', int, 8, 'Frames of a clip and camera, an even number.', range=(2, 256),
              read_only=True),
    Parameter('trained_clips', bool, False,
              'Show a checkpoint of cosmos3 train what it was trained on, whatever cameras, fps, frames, '
              'max_frame_pixels and max_new_tokens say.', read_only=True),
    Parameter('max_age_s', float, 1.0, 'A camera whose newest frame is older has no clip.', unit='s',
              range=(0.01, 60.0), read_only=True),
    Parameter('max_frame_pixels', int, 640 * 384, 'Larger frames are scaled down.', unit='pixels',
              range=(1024, 2**24), read_only=True),
    Parameter('max_new_tokens', int, 0,
              'Most tokens of an answer; 0 takes what the prompt says.', range=(0, 8192), read_only=True),
    *qos_parameters('images', 'scene', 'annotated'),
    check=_check,
)
