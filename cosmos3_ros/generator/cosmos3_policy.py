"""The policy ``cosmos3``: a checkpoint's generator in this process."""

from collections.abc import Callable, Sequence
from functools import partial
import logging
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import ActionChunk, ModelIdentity, Observation
from cosmos3_ros.model.checkpoint import Checkpoint, CheckpointError
from cosmos3_ros.model.loading import check_device, load_tokenizer, load_transformer, load_vae, torch_dtype
from cosmos3_ros.model.memory_need import check_memory
from cosmos3_ros.model.observation_encoder import ObservationEncoder
from cosmos3_ros.model.picture_encoder import PictureEncoder
from cosmos3_ros.model.prompt_tokens import prompt_tokens
from cosmos3_ros.model.sequence_pack import SequencePack
from cosmos3_ros.model.tower_shape import TowerShape
from cosmos3_ros.model.weight_source import CheckpointWeights
from cosmos3_ros.resources import require

from . import droid_joint
from .compiled_backend import CompiledBackend
from .composed_view import View, compose_view, place_on_canvas
from .denoise import Request
from .diffusers_backend import DiffusersBackend
from .guidance import Guidance
from .option_types import check_types
from .policy import PolicyError
from .prefix import Prefix
from .prompt import PROMPT_VARIANTS, UNCONDITIONAL, build_prompt
from .sampler import Schedule, schedule

torch = require('torch', 'model')
logger = logging.getLogger(__name__)

BACKENDS = ('compiled', 'diffusers')
UNDERSTANDING = ('streamed', 'resident')
BRANCHES = ('auto', 'batched', 'sequential')
FLOAT8 = 'float8'
VIDEO_COMPRESSION = 4
TEXTS_KEPT = 64


class Cosmos3Policy:
    """See :func:`create_cosmos3`. Fits :class:`policy.Policy`."""

    name = 'cosmos3'
    contract = droid_joint.CONTRACT
    step_ns = droid_joint.STEP_NS
    horizon = droid_joint.HORIZON
    camera_slots = droid_joint.CAMERA_SLOTS

    def __init__(
        self, *, identity: ModelIdentity, joint_names: tuple[str, ...], backend: Any,
        encoder: Any, tokenize: Callable[[str], tuple[int, ...]], view: View,
        plan: Schedule, guidance: Guidance, prompt_variant: str, action_width: int,
    ) -> None:
        self.identity = identity
        self.joint_names = joint_names
        self.backend = backend
        self._encoder = encoder
        self._tokenize = tokenize
        self._view = view
        self._plan = plan
        self._guidance = guidance
        self._variant = prompt_variant
        self._action_width = action_width
        self._token_ids: dict[str, tuple[int, ...]] = {}
        self.stages_ms: dict[str, float] = {}
        """Of the last request; on CUDA the encoder's work counts where it is waited for, in denoise."""
        self._requests = 0
        self._closed = False

    def warm_up(self) -> None:
        """Run a request twice on grey pictures and refuse a machine that does not repeat itself.

        :raises PolicyError: The two chunks differ, or the model cannot answer at all.
        """
        grey = np.full((self._view.height * 2 // 3, self._view.width, 3), 127, np.uint8)
        observation = Observation(
            stamp_ns=0, images=dict.fromkeys(self.camera_slots, grey), joint_names=self.joint_names,
            joint_position=np.zeros(len(self.joint_names)), gripper=0.0, skew_ns=0)
        first, second = (self.generate(observation, 'warm up', seed=0) for _ in range(2))
        if first.positions.tobytes() != second.positions.tobytes():
            raise PolicyError(
                f'{self.identity.engine}: the same request gave two different chunks, largest difference '
                f'{np.abs(first.positions - second.positions).max():.3g} rad')
        logger.info('%s on %s answers in %.3f s', self.identity.checkpoint, self.identity.engine,
                    second.latency_s)

    def generate(
        self, observation: Observation, instruction: str, *, seed: int, prefix: Prefix | None = None,
    ) -> ActionChunk:
        """Compute one chunk; see :meth:`policy.Policy.generate`.

        :param prefix: What the chunk has to agree with; see :meth:`Prefix.from_chunk`.
        """
        if self._closed:
            raise PolicyError('policy cosmos3: it is closed')
        started = perf_counter()
        state = droid_joint.state_row(observation, self.joint_names)
        picture = compose_view(observation.images, self._view)
        ids = self.tokens_of(instruction)
        composed = perf_counter()
        latent = self._encoder.encode(picture)
        encoded = perf_counter()
        frames = self.horizon // VIDEO_COMPRESSION + 1
        rows = self.backend.denoise(
            ids, self._ids(UNCONDITIONAL),
            Request(latent, state, frames, self._action_width, seed, prefix))
        denoised = perf_counter()
        self.stages_ms = {
            'compose': (composed - started) * 1e3, 'encode': (encoded - composed) * 1e3,
            'denoise': (denoised - encoded) * 1e3}
        positions, gripper = droid_joint.read_rows(rows)
        self._requests += 1
        return ActionChunk(
            stamp_ns=observation.stamp_ns, step_ns=self.step_ns, joint_names=self.joint_names,
            positions=positions, gripper=gripper, contract=self.contract, instruction=instruction,
            seed=seed, steps=self._plan.steps, guidance=self._guidance.scale, policy=self.name,
            identity=self.identity, trace_id=f'cosmos3-{observation.stamp_ns}-{self._requests}',
            latency_s=perf_counter() - started)

    def resample(self, plan: Schedule, guidance: Guidance, *, batched: bool = True) -> None:
        """Sample differently from now on, with the same weights.

        :param batched: With ``compiled``: both branches of guidance in one pass.
        """
        self._plan, self._guidance = plan, guidance
        self.backend.resample(plan, guidance, batched=batched)

    def tokens_of(self, instruction: str) -> tuple[int, ...]:
        """Return the token ids that an instruction's prompt comes to."""
        return self._ids(build_prompt(
            instruction, self._variant, (self._view.canvas_height, self._view.canvas_width)))

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
        del self.backend, self._encoder, self._tokenize


def create_cosmos3(
    *,
    checkpoint: str,
    joint_names: Sequence[str],
    revision: str | None = None,
    contract: str | None = None,
    backend: str = 'compiled',
    device: str = 'cpu',
    dtype: str = 'float32',
    steps: int = droid_joint.STEPS,
    shift: float = droid_joint.SHIFT,
    guidance: float = droid_joint.GUIDANCE,
    guidance_interval: Sequence[float] | None = None,
    prompt_variant: str | None = None,
    understanding: str = 'streamed',
    branches: str = 'auto',
    torch_threads: int = 1,
) -> Cosmos3Policy:
    """Load a checkpoint and build the policy.

    :param checkpoint: Directory, packaged name or Hub id; see :meth:`Checkpoint.open`.
    :param joint_names: The robot's seven arm joints, base to wrist.
    :param backend: ``compiled`` (text once, then the generation tower alone) or ``diffusers``
        (the reference: everything at every step). Chunks agree to 1e-5 rad.
    :param device: ``cpu`` or ``cuda[:n]``.
    :param dtype: ``float32``, ``bfloat16``, ``float16``, or with the backend ``compiled`` ``float8``: the
        generation tower's matrices in float8, the rest in bfloat16. Samples stay float32.
    :param steps: Denoising steps; the DROID policy is used with 4.
    :param shift: Flow shift of the noise levels.
    :param guidance: Classifier-free guidance scale; 1 is off.
    :param guidance_interval: Timesteps between which guidance is on; None is always.
    :param prompt_variant: One of :data:`prompt.PROMPT_VARIANTS`; None takes the checkpoint's.
    :param understanding: With ``compiled``: ``streamed`` runs the understanding tower layer by layer for a
        new instruction and keeps nothing of it; ``resident`` keeps it on the device.
    :param branches: With ``compiled``: the two branches of guidance ``batched`` or ``sequential``; ``auto``
        takes what was faster on an H200: ``batched`` for ``float8``, else ``sequential``.
    :param torch_threads: CPU threads of torch in this process, 1 by default so that a controller on
        the same machine keeps its core; 0 leaves torch's setting alone.
    :raises PolicyError: A setting or the robot does not fit.
    :raises CheckpointError: The checkpoint cannot be used (also a ``ValueError``).
    """
    check_types(locals(), {
        'checkpoint': 'text', 'revision': 'text or none', 'contract': 'text or none', 'backend': 'text',
        'device': 'text', 'dtype': 'text', 'steps': 'integer', 'shift': 'number', 'guidance': 'number',
        'guidance_interval': 'pair or none', 'prompt_variant': 'text or none', 'torch_threads': 'integer',
        'understanding': 'text', 'branches': 'text'})
    joints = droid_joint.check_robot(joint_names)
    for name, value, allowed in (
            ('backend', backend, BACKENDS), ('understanding', understanding, UNDERSTANDING),
            ('branches', branches, BRANCHES)):
        if value not in allowed:
            raise PolicyError(f'{name}: {value!r} arrived, one of {", ".join(allowed)} is allowed')
    if dtype == FLOAT8 and backend != 'compiled':
        raise PolicyError(f'dtype: {FLOAT8} arrived, the backend {backend} has no such form; use compiled')
    if not 0 <= torch_threads <= 256:
        raise PolicyError(f'torch_threads: {torch_threads} arrived, 0 to 256 is allowed')
    interval = None if guidance_interval is None else (guidance_interval[0], guidance_interval[1])
    plan, scale = schedule(steps, float(shift)), Guidance(float(guidance), interval)
    opened = Checkpoint.open(checkpoint, revision=revision, contract=contract, parts=('generator',))
    if opened.contract != droid_joint.CONTRACT:
        raise PolicyError(
            f'checkpoint {opened.name}: its contract is {opened.contract}, this policy speaks '
            f'{droid_joint.CONTRACT}. Change the parameter checkpoint')
    variant = prompt_variant or opened.prompt_variant
    if variant not in PROMPT_VARIANTS:
        raise PolicyError(
            f'prompt_variant: {variant!r} arrived, one of {", ".join(PROMPT_VARIANTS)} is allowed')
    if torch_threads > 0:
        torch.set_num_threads(torch_threads)
    check_device(device)
    if device.startswith('cuda'):
        _check_memory(opened, device, backend, dtype, understanding)
    compiled, view, pool = backend == 'compiled', View.of(*opened.view), graph_pool(device)
    made, width = _make_backend(opened, backend, device, dtype, plan, scale, understanding, branches, pool)
    policy = Cosmos3Policy(
        identity=ModelIdentity(opened.label, f'{backend}/{dtype}/{device}', opened.trained),
        joint_names=joints, backend=made,
        encoder=picture_encoder(load_vae(opened, 'cpu', _activations(dtype)), device, view, compiled, pool),
        tokenize=partial(prompt_tokens, load_tokenizer(opened)), view=view,
        plan=plan, guidance=scale,
        prompt_variant=variant, action_width=width)
    if not opened.trained:
        logger.warning('checkpoint %s is not trained: its chunks mean nothing', opened.label)
    return policy


def picture_encoder(vae: Any, device: str, view: View, frame_only: bool, pool: Any = None) -> Any:
    """Return what encodes pictures: on the device in one go, or step by step as the reference does."""
    encoder = ObservationEncoder(vae, device, frame_only=frame_only)
    if not frame_only:
        return ReferenceEncoder(encoder, view)
    return PictureEncoder(
        encoder, (view.height, view.width), (view.canvas_height, view.canvas_width),
        (view.latent_height, view.latent_width), pool)


class ReferenceEncoder:
    """Canvas on the host, the VAE's own encoder: the yardstick of :class:`PictureEncoder`."""

    def __init__(self, encoder: ObservationEncoder, view: View) -> None:
        self._encoder, self._view = encoder, view

    def encode(self, picture: NDArray[np.uint8]) -> Any:
        """Return float32 latents; see :meth:`PictureEncoder.encode`."""
        return self._encoder.encode(
            place_on_canvas(picture, self._view), self._view.latent_height, self._view.latent_width)


def _check_memory(checkpoint: Checkpoint, device: str, backend: str, dtype: str, understanding: str) -> None:
    config = CheckpointWeights(checkpoint).config
    shape, view = TowerShape.of(config), View.of(*checkpoint.view)
    pack = SequencePack(
        0, (droid_joint.HORIZON // VIDEO_COMPRESSION + 1, view.latent_height, view.latent_width),
        droid_joint.ROWS, patch=shape.patch)
    need = check_memory(
        shape, int(config.get('vocab_size', 151936)), pack.generated_tokens, backend, dtype, understanding,
        torch.cuda.mem_get_info(device)[0])
    logger.info('%s on %s', need, device)


def graph_pool(device: str) -> Any:
    """Return a name for memory that CUDA graphs share, or None without CUDA."""
    return torch.cuda.graph_pool_handle() if device.startswith('cuda') else None


def branch_batching(branches: str, dtype: str) -> bool:
    """Return whether both branches go through the matrices together."""
    return dtype == FLOAT8 if branches == 'auto' else branches == 'batched'


def _activations(dtype: str) -> str:
    return 'bfloat16' if dtype == FLOAT8 else dtype


def _make_backend(
    checkpoint: Checkpoint, backend: str, device: str, dtype: str, plan: Schedule, guidance: Guidance,
    understanding: str, branches: str, pool: Any,
) -> tuple[Any, int]:
    """Return the backend and the padded width of an action row."""
    if backend == 'diffusers':
        transformer = load_transformer(checkpoint, device, dtype)
        return DiffusersBackend(transformer, plan, guidance), int(transformer.config.action_dim)
    precision = torch_dtype(_activations(dtype))
    source = CheckpointWeights(checkpoint)
    made = CompiledBackend(
        source, device, precision, checkpoint.content_hash, plan, guidance, float8=dtype == FLOAT8,
        understanding_resident=understanding == 'resident', batched=branch_batching(branches, dtype),
        pool=pool)
    return made, int(source.config['action_dim'])


__all__ = ['BACKENDS', 'CheckpointError', 'Cosmos3Policy', 'create_cosmos3']
