"""The policy ``nim``: NVIDIA's Cosmos 3 NIM with the profile Nano-DROID, one ``POST /v1/infer`` per chunk.

Request and reply as NVIDIA documents them for that profile: domain, chunk size and state go into
``action_params``; width, action space, image size, rates and state flags belong to the profile and are left
out (facts sheet 5; docs.nvidia.com/nim/cosmos, page Action). The service is stateless, so a request that
failed may be made again.
"""

import base64
from collections.abc import Sequence
from typing import Any

from cosmos3_ros.contracts import Observation
from cosmos3_ros.remote.http_exchange import ExchangeError

from . import droid_joint
from .http_actions import DOMAIN, MODE, SamplerSettings, encode_view, endpoint_of, read_action
from .remote_policy import RemoteAnswer, RemotePolicy, RemoteSettings

PATH = '/v1/infer'


class NimPolicy(RemotePolicy):
    """See :func:`create_nim`."""

    name = 'nim'

    def __init__(self, settings: RemoteSettings, sampler: SamplerSettings) -> None:
        super().__init__(settings, 'nim/v1/infer')
        self._endpoint = endpoint_of(settings.url, settings.api_key)
        self._sampler = sampler

    def _compose(self, observation: Observation, instruction: str, seed: int) -> dict[str, Any]:
        joints = droid_joint.state_row(observation, self.joint_names)[:droid_joint.ARM_JOINTS]
        picture = base64.b64encode(encode_view(observation)).decode()
        return {
            'model_mode': MODE, 'prompt': instruction, 'input_reference': f'data:image/png;base64,{picture}',
            'action_params': {
                'domain_name': DOMAIN, 'action_chunk_size': droid_joint.HORIZON,
                'observation': {
                    'observation/joint_position': [float(joint) for joint in joints],
                    'observation/gripper_position': float(observation.gripper)}},
            'num_inference_steps': self._sampler.steps, 'guidance_scale': float(self._sampler.guidance),
            'flow_shift': float(self._sampler.shift), 'seed': seed}

    def _exchange(self, request: dict[str, Any], deadline_s: float) -> RemoteAnswer:
        def send() -> RemoteAnswer:
            reply = self._endpoint.exchange('POST', PATH, request, deadline_s, self._clock_s)
            if not isinstance(reply, dict):
                raise ExchangeError('broken', f'answered with a {type(reply).__name__}, an object is needed')
            return RemoteAnswer(
                read_action(reply.get('action')), request['seed'], self._sampler.steps,
                self._sampler.guidance)

        return self._client.request(send, deadline_s)


def create_nim(
    *, url: str, joint_names: Sequence[str], timeout_s: float = 5.0, api_key_variable: str = 'NVIDIA_API_KEY',
    retries: int = 1, backoff_s: float = 0.1, breaker_failures: int = 5, breaker_pause_s: float = 1.0,
    steps: int = droid_joint.STEPS, guidance: float = droid_joint.GUIDANCE, shift: float = droid_joint.SHIFT,
) -> NimPolicy:
    """Build the policy; nothing is connected before the first request.

    :param url: ``http://host:port`` of a NIM started with ``NIM_MODEL_VARIANT=nano-droid``.
    :param joint_names: The robot's seven arm joints, base to wrist.
    :param timeout_s: Longest time of a request, further attempts included.
    :param api_key_variable: Environment variable with the key, sent as a bearer token.
    :param retries: See :class:`RemoteSettings`, with the three after it.
    :param steps: See :class:`SamplerSettings`, with the two after it.
    :raises PolicyError: A setting or the robot does not fit.
    """
    settings = RemoteSettings(
        url, joint_names, timeout_s, api_key_variable, retries, backoff_s, breaker_failures, breaker_pause_s,
        ('http', 'https'))
    return NimPolicy(settings, SamplerSettings(steps, guidance, shift))
