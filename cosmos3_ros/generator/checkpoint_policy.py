"""A checkpoint's generator as a policy in this process."""

from collections.abc import Callable
import logging
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import ActionChunk, ModelIdentity, Observation

from . import droid_joint
from .action_contract import ActionContract, check_finite
from .composed_view import View, compose_view
from .denoise import Request
from .guidance import Guidance
from .policy import PolicyError
from .prefix import Prefix, continue_chunk
from .prompt import UNCONDITIONAL, build_prompt
from .sampler import Schedule

logger = logging.getLogger(__name__)

TEXTS_KEPT = 64


class Cosmos3Policy:
    """See :func:`cosmos3_policy.create_cosmos3`. Fits :class:`policy.Policy`.

    :param actions: The checkpoint's action contract for this robot.
    :param backend: Denoises requests.
    :param encoder: Turns a composed picture into latents.
    :param tokenize: Turns a prompt into token ids.
    :param action_width: Padded width of an action row.
    """

    name = 'cosmos3'
    camera_slots = droid_joint.CAMERA_SLOTS

    def __init__(
        self, *, identity: ModelIdentity, actions: ActionContract, backend: Any,
        encoder: Any, tokenize: Callable[[str], tuple[int, ...]], view: View,
        plan: Schedule, guidance: Guidance, prompt_variant: str, action_width: int,
    ) -> None:
        self.identity = identity
        self.actions = actions
        self.backend = backend
        self.view = view
        self.action_width = action_width
        self._encoder = encoder
        self._tokenize = tokenize
        self._plan = plan
        self._guidance = guidance
        self._variant = prompt_variant
        self._token_ids: dict[str, tuple[int, ...]] = {}
        self.stages_ms: dict[str, float] = {}
        """Of the last request; on CUDA the encoder's work counts where it is waited for, in denoise."""
        self.imagination: Any = None
        """Answers the other questions (see ``imagination.py``); set by the factory."""
        self._requests = 0
        self._closed = False

    @property
    def contract(self) -> str:
        """See :class:`policy.Policy`."""
        return self.actions.name

    @property
    def joint_names(self) -> tuple[str, ...]:
        """See :class:`policy.Policy`."""
        return self.actions.joint_names

    @property
    def step_ns(self) -> int:
        """See :class:`policy.Policy`."""
        return self.actions.layout.step_ns

    @property
    def horizon(self) -> int:
        """See :class:`policy.Policy`."""
        return self.actions.layout.horizon

    def warm_up(self) -> None:
        """Run a request twice on grey pictures and refuse a machine that does not repeat itself.

        What is compared are the model's rows: an untrained or a startled model may ask for poses out of
        reach, which is no reason not to start.

        :raises PolicyError: The two answers differ, or the model cannot answer at all.
        """
        grey = np.full((self.view.height * 2 // 3, self.view.width, 3), 127, np.uint8)
        observation = Observation(
            stamp_ns=0, images=dict.fromkeys(self.camera_slots, grey), joint_names=self.joint_names,
            joint_position=np.zeros(len(self.joint_names)), gripper=0.0, skew_ns=0)
        first, second = (self._denoise(observation, 'warm up', 0, None) for _ in range(2))
        check_finite(first.astype(np.float64))
        if first.tobytes() != second.tobytes():
            raise PolicyError(
                f'{self.identity.engine}: the same request gave two different answers, largest difference '
                f'{np.abs(first - second).max():.3g}')
        logger.info('%s on %s answers in %.3f s', self.identity.checkpoint, self.identity.engine,
                    sum(self.stages_ms.values()) / 1e3)

    def generate(
        self, observation: Observation, instruction: str, *, seed: int, prefix: Prefix | None = None,
    ) -> ActionChunk:
        """Compute one chunk; see :meth:`policy.Policy.generate`.

        :param prefix: What the chunk has to agree with; see :meth:`prefix_of`.
        """
        started = perf_counter()
        rows = self._denoise(observation, instruction, seed, prefix)
        denoised = perf_counter()
        chunk = self.chunk_of(rows, observation, instruction, seed, denoised - started)
        self.stages_ms['read'] = (perf_counter() - denoised) * 1e3
        return chunk

    def prefix_of(
        self, previous: ActionChunk, observation: Observation, delay_s: float, *, decay: str = 'LINEAR',
    ) -> Prefix:
        """Return what a chunk from ``observation`` has to agree with while ``previous`` plays on.

        :param delay_s: Expected time from the observation to the new chunk's first command.
        :param decay: See :func:`control.realtime_chunking.weigh_prefix`.
        :raises PolicyError: The previous chunk is newer, or moves other joints.
        """
        return continue_chunk(self.actions, previous, observation, delay_s, decay=decay)

    def chunk_of(
        self, rows: NDArray[np.float32], observation: Observation, instruction: str, seed: int,
        latency_s: float,
    ) -> ActionChunk:
        """Return denoised rows as a chunk.

        :raises PolicyError: The rows are not finite, or the robot cannot do what they say.
        """
        positions, gripper = self.actions.read(rows, observation)
        self._requests += 1
        return ActionChunk(
            stamp_ns=observation.stamp_ns, step_ns=self.step_ns, joint_names=self.joint_names,
            positions=positions, gripper=gripper, contract=self.contract, instruction=instruction,
            seed=seed, steps=self._plan.steps, guidance=self._guidance.scale, policy=self.name,
            identity=self.identity, trace_id=f'cosmos3-{observation.stamp_ns}-{self._requests}',
            latency_s=latency_s)

    def encode(self, observation: Observation) -> Any:
        """Return the latent of an observation, float32 (1, 48, 1, h, w)."""
        return self._encoder.encode(compose_view(observation.images, self.view))

    def _denoise(
        self, observation: Observation, instruction: str, seed: int, prefix: Prefix | None,
    ) -> NDArray[np.float32]:
        if self._closed:
            raise PolicyError('policy cosmos3: it is closed')
        started = perf_counter()
        layout = self.actions.layout
        given = self.actions.given_rows(observation)
        picture = compose_view(observation.images, self.view)
        texts = self.texts(instruction)
        composed = perf_counter()
        latent = self._encoder.encode(picture)
        encoded = perf_counter()
        rows: NDArray[np.float32] = self.backend.denoise(
            *texts, Request(latent, given, layout.frames, self.action_width, seed, prefix, layout))
        self.stages_ms = {
            'compose': (composed - started) * 1e3, 'encode': (encoded - composed) * 1e3,
            'denoise': (perf_counter() - encoded) * 1e3}
        return rows

    def resample(self, plan: Schedule, guidance: Guidance, *, batched: bool = True) -> None:
        """Sample differently from now on, with the same weights.

        :param batched: With ``compiled``: both branches of guidance in one pass.
        """
        self._plan, self._guidance = plan, guidance
        self.backend.resample(plan, guidance, batched=batched)

    def tokens_of(self, instruction: str) -> tuple[int, ...]:
        """Return the token ids that an instruction's prompt comes to."""
        layout = self.actions.layout
        return self._ids(build_prompt(
            instruction, self._variant, (self.view.canvas_height, self.view.canvas_width),
            frames=layout.video_frames, rate_hz=layout.rate_hz))

    def texts(self, instruction: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the token ids of the instruction's prompt and of the empty text."""
        return self.tokens_of(instruction), self._ids(UNCONDITIONAL)

    def _ids(self, text: str) -> tuple[int, ...]:
        if text not in self._token_ids:
            if len(self._token_ids) >= TEXTS_KEPT:
                self._token_ids.clear()
            self._token_ids[text] = self._tokenize(text)
        return self._token_ids[text]

    def close(self) -> None:
        """Let go of the weights."""
        if self._closed:
            return
        self._closed = True
        self.imagination = None
        del self.backend, self._encoder, self._tokenize
