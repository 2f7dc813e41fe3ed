"""The policy ``vllm_omni``: action jobs of vLLM-Omni's ``/v1/videos``, where it has no robot endpoint.

A job is made with a form (prompt, picture, sampler, ``extra_params`` as JSON), asked for until it is
``completed``, and carries its actions in the field ``action``. The state goes into
``extra_params.robot_obs``: with it the server runs the contract that the DROID policy was trained with,
absolute joints after one clean state row; without it, as NVIDIA's notebooks do, another one that no robot
should follow (facts sheet 2c, 5; vLLM-Omni ``protocol/videos.py``, ``pipeline_cosmos3.py``). Where there
is a choice, its robot endpoint (policy ``openpi``) is the better one: no job, no polling, no PNG.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
import json
import logging
from typing import Any

from cosmos3_ros.contracts import Observation
from cosmos3_ros.remote.http_exchange import Body, ExchangeError

from . import droid_joint
from .http_actions import DOMAIN, MODE, SamplerSettings, encode_view, endpoint_of, read_action
from .multipart import encode_form
from .policy import PolicyError
from .remote_policy import RemoteAnswer, RemotePolicy, RemoteSettings

logger = logging.getLogger(__name__)

PATH = '/v1/videos'
PENDING = ('queued', 'in_progress')
# A single request of the exchange; a poll that hangs must not take the whole time of the answer.
REQUEST_TIMEOUT_S = 2.0
# Deleting an old job is a courtesy to the server's memory and disk, and may not cost more than this.
DELETE_TIMEOUT_S = 0.2
MOST_OLD_JOBS = 8


@dataclass(frozen=True, slots=True)
class _Request:
    form: Body
    seed: int


class VllmOmniPolicy(RemotePolicy):
    """See :func:`create_vllm_omni`."""

    name = 'vllm_omni'

    def __init__(
        self, settings: RemoteSettings, sampler: SamplerSettings, model: str, poll_interval_s: float,
        extra_params: Mapping[str, Any],
    ) -> None:
        super().__init__(settings, 'vllm_omni/v1/videos')
        self._endpoint = endpoint_of(settings.url, settings.api_key)
        self._sampler, self._model, self._poll_interval_s = sampler, model, poll_interval_s
        self._extra_params = dict(extra_params)
        self._finished: list[str] = []
        self._abandoned: list[str] = []

    def close(self) -> None:
        """Delete what jobs are left on the server."""
        if not self._client.closed:
            super().close()
            self._delete(self._abandoned + self._finished)

    def _compose(self, observation: Observation, instruction: str, seed: int) -> _Request:
        state = [float(x) for x in droid_joint.state_row(observation, self.joint_names)]
        sampler = {
            'num_inference_steps': self._sampler.steps, 'guidance_scale': float(self._sampler.guidance),
            'flow_shift': float(self._sampler.shift)}
        extra = {
            'action_mode': MODE, 'domain_name': DOMAIN, 'action_chunk_size': droid_joint.HORIZON,
            'raw_action_dim': droid_joint.WIDTH, **sampler, **self._extra_params,
            'robot_obs': {
                'prompt': instruction, 'observation/joint_position': [state[:droid_joint.ARM_JOINTS]],
                'observation/gripper_position': [[float(observation.gripper)]]}}
        fields = {
            'prompt': instruction, 'num_frames': str(droid_joint.HORIZON + 1),
            'fps': str(droid_joint.RATE_HZ),
            **{name: str(value) for name, value in sampler.items()}, 'seed': str(seed),
            'extra_params': json.dumps(extra)}
        if self._model:
            fields['model'] = self._model
        picture = encode_view(observation)
        return _Request(
            encode_form(fields, 'input_reference', 'observation.png', picture, 'image/png'), seed)

    def _exchange(self, request: _Request, deadline_s: float) -> RemoteAnswer:
        # A job that nobody waits for any more would be computed before the new one.
        self._delete(self._abandoned)
        job = self._client.request(
            lambda: self._send('POST', PATH, request.form, deadline_s), deadline_s, _was_not_taken)
        name = job.get('id')
        if not isinstance(name, str) or not name.replace('-', '').replace('_', '').isalnum():
            raise self._client.note(ExchangeError('broken', f'made a job with the id {str(name)[:50]!r}'))
        try:
            # While the server computes there is time to tidy up.
            self._delete(self._finished)
            job = self._await(job, name, deadline_s)
        except BaseException:
            self._abandoned = [*self._abandoned, name][-MOST_OLD_JOBS:]
            raise
        self._finished = [*self._finished, name][-MOST_OLD_JOBS:]
        try:
            actions = read_action(job.get('action'))
        except ExchangeError as error:
            raise self._client.note(error) from error
        return RemoteAnswer(actions, request.seed, self._sampler.steps, self._sampler.guidance)

    def _await(self, job: dict[str, Any], name: str, deadline_s: float) -> dict[str, Any]:
        while True:
            status = job.get('status')
            if job.get('id') != name:
                raise self._client.note(ExchangeError(
                    'broken', f'answered about job {str(job.get("id"))[:50]}, not {name}'))
            if status == 'completed':
                return job
            if status == 'failed':
                said = job.get('error')
                text = said.get('message') if isinstance(said, dict) else said
                raise self._client.note(ExchangeError('server', f'the job failed: {str(text)[:300]}'))
            if status not in PENDING:
                raise self._client.note(ExchangeError(
                    'broken', f'the job is {str(status)[:50]!r}; queued, in_progress, completed and failed '
                    'are known'))
            late = self._clock_s() + self._poll_interval_s >= deadline_s
            if not late and self._client.wait(self._poll_interval_s):
                raise self._client.note(ExchangeError('connection', 'the policy was closed meanwhile'))
            # On a busy machine a pause may last longer than it was asked to.
            if late or self._clock_s() >= deadline_s:
                raise self._client.note(ExchangeError(
                    'timeout', f'did not answer within {self._settings.timeout_s:g} s (option timeout_s); '
                    f'the job is {status}'))
            job = self._client.request(
                lambda: self._send('GET', f'{PATH}/{name}', None, deadline_s), deadline_s)

    def _send(self, method: str, path: str, body: Body | None, deadline_s: float) -> dict[str, Any]:
        limit_s = min(deadline_s, self._clock_s() + REQUEST_TIMEOUT_S)
        reply = self._endpoint.exchange(method, path, body, limit_s, self._clock_s)
        if not isinstance(reply, dict):
            raise ExchangeError('broken', f'answered with a {type(reply).__name__}, an object is needed')
        return reply

    def _delete(self, names: list[str]) -> None:
        """Delete jobs, empty the list; a server that does not is left in peace."""
        while names:
            name = names.pop()
            try:
                with suppress(ValueError):
                    self._endpoint.exchange(
                        'DELETE', f'{PATH}/{name}', None, self._clock_s() + DELETE_TIMEOUT_S, self._clock_s)
            except ExchangeError as error:
                logger.debug('job %s is not deleted: %s', name, error)
                if error.status == 0:  # it does not answer; the others would wait as long
                    names.clear()


def _was_not_taken(error: ExchangeError) -> bool:
    """Whether no job can have been made, so that asking again makes no second one."""
    return not error.sent or error.kind == 'busy' or error.status == 503


def create_vllm_omni(
    *, url: str, joint_names: Sequence[str], timeout_s: float = 5.0, api_key_variable: str = 'VLLM_API_KEY',
    retries: int = 2, backoff_s: float = 0.1, breaker_failures: int = 5, breaker_pause_s: float = 1.0,
    model: str = '', poll_interval_s: float = 0.02, steps: int = droid_joint.STEPS,
    guidance: float = droid_joint.GUIDANCE, shift: float = droid_joint.SHIFT,
    extra_params: Mapping[str, Any] | None = None,
) -> VllmOmniPolicy:
    """Build the policy; nothing is connected before the first request.

    :param url: ``http://host:port`` of ``vllm serve nvidia/Cosmos3-Nano-Policy-DROID --omni``.
    :param joint_names: The robot's seven arm joints, base to wrist.
    :param timeout_s: Longest time of a chunk: job, polling and further attempts.
    :param api_key_variable: Environment variable with the key, sent as a bearer token.
    :param retries: See :class:`RemoteSettings`, with the three after it.
    :param model: Name under which the server serves the model; empty takes its only one.
    :param poll_interval_s: Time between two questions after the job.
    :param steps: See :class:`SamplerSettings`, with the two after it.
    :param extra_params: Further fields of ``extra_params``, e.g. ``{guardrails: false}``.
    :raises PolicyError: A setting or the robot does not fit.
    """
    if not isinstance(poll_interval_s, int | float) or not 0.001 <= poll_interval_s <= 10.0:
        raise PolicyError(f'poll_interval_s: {poll_interval_s!r} arrived, 0.001 to 10 is allowed')
    if not isinstance(model, str):
        raise PolicyError(f'model: {model!r} arrived, a text is allowed')
    further = extra_params if extra_params is not None else {}
    if not isinstance(further, Mapping) or 'robot_obs' in further:
        raise PolicyError(f'extra_params: {further!r} arrived, a map without robot_obs is allowed')
    settings = RemoteSettings(
        url, joint_names, timeout_s, api_key_variable, retries, backoff_s, breaker_failures, breaker_pause_s,
        ('http', 'https'))
    return VllmOmniPolicy(settings, SamplerSettings(steps, guidance, shift), model, poll_interval_s, further)
