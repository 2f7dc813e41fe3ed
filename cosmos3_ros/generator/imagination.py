"""The two other questions that a checkpoint answers: what would be seen, and what was done.

``forward_dynamics``: an observation and a chunk in, a video out. ``inverse_dynamics``: a video in, the
actions behind it out. Both go through the same denoising loop as a policy; only what is given differs.
"""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import ActionChunk, Observation
from cosmos3_ros.model.video_codec import VideoCodec

from .action_contract import Array
from .checkpoint_policy import Cosmos3Policy
from .composed_view import compose_view, place_on_canvas
from .denoise import Request
from .film import Film
from .policy import PolicyError


class Imagination:
    """Asks a policy's model the other questions; keeps the whole VAE once it is used.

    :param policy: Its weights, texts and settings are used.
    :param load_codec: Makes the VAE when it is first needed; 1.4 GB for Nano in bfloat16.
    """

    def __init__(self, policy: Cosmos3Policy, load_codec: Callable[[], VideoCodec]) -> None:
        self._policy, self._load_codec = policy, load_codec
        self._codec: VideoCodec | None = None

    def imagine(self, observation: Observation, chunk: ActionChunk, *, seed: int) -> Film:
        """Return what the cameras would see if a chunk were carried out from an observation.

        :param chunk: In joints; of the same robot and rate as the policy's own.
        :raises PolicyError: It does not fit.
        """
        started, contract = perf_counter(), self._policy.actions
        layout = contract.layout.of_mode('forward_dynamics')
        if chunk.joint_names != contract.joint_names or chunk.horizon != layout.horizon:
            raise PolicyError(
                f'chunk {chunk.trace_id}: {chunk.horizon} rows of {", ".join(chunk.joint_names)} arrived, '
                f'{layout.horizon} of {", ".join(contract.joint_names)} are needed')
        given = np.vstack([
            contract.given_rows(observation),
            contract.write(chunk.positions, chunk.gripper, observation)]).astype(np.float32)
        latent = self._policy.encode(observation)
        latents = self._policy.backend.imagine(
            *self._policy.texts(chunk.instruction),
            Request(latent, given, layout.frames, self._policy.action_width, seed, layout=layout))
        return Film(
            stamp_ns=observation.stamp_ns, step_ns=layout.step_ns, frames=self._vae.decode(latents),
            instruction=chunk.instruction, identity=self._policy.identity, trace_id=chunk.trace_id,
            latency_s=perf_counter() - started)

    def infer_actions(
        self, observations: Sequence[Observation], instruction: str, *, seed: int,
    ) -> ActionChunk:
        """Return the chunk that leads along a recorded video.

        :param observations: One per video frame: the chunk's rows and one more, a period apart. Of all but
            the first, only the images are used.
        :raises PolicyError: Another number of observations, or actions that the robot cannot do.
        """
        started, contract = perf_counter(), self._policy.actions
        layout = contract.layout.of_mode('inverse_dynamics')
        if len(observations) != layout.video_frames:
            raise PolicyError(
                f'observations: {len(observations)} arrived, {layout.video_frames} are needed, one per frame')
        view = self._policy.view
        pixels = np.stack([place_on_canvas(compose_view(o.images, view), view) for o in observations])
        latents = self._vae.encode(pixels, view.latent_height, view.latent_width)
        rows: NDArray[np.float32] = self._policy.backend.denoise(
            *self._policy.texts(instruction),
            Request(latents, contract.given_rows(observations[0]), layout.frames, self._policy.action_width,
            seed,
                    layout=layout))
        return self._policy.chunk_of(rows, observations[0], instruction, seed, perf_counter() - started)

    @property
    def _vae(self) -> Any:
        if self._codec is None:
            self._codec = self._load_codec()
        return self._codec


def mean_error_rad(inferred: ActionChunk, positions: Array) -> Array:
    """Return the root mean square per joint, (N,), between inferred positions and recorded ones (H, N)."""
    return np.asarray(np.sqrt(np.mean((inferred.positions - positions) ** 2, axis=0)))
