"""The policy ``cosmos3``: load a checkpoint and put its parts together."""

from collections.abc import Mapping, Sequence
from functools import partial
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import ModelIdentity
from cosmos3_ros.model.checkpoint import Checkpoint, CheckpointError
from cosmos3_ros.model.loading import check_device, load_tokenizer, load_transformer, load_vae, torch_dtype
from cosmos3_ros.model.memory_need import check_memory
from cosmos3_ros.model.modelopt_weights import open_weights
from cosmos3_ros.model.observation_encoder import ObservationEncoder
from cosmos3_ros.model.picture_encoder import PictureEncoder
from cosmos3_ros.model.prompt_tokens import prompt_tokens
from cosmos3_ros.model.sampling import Sampling
from cosmos3_ros.model.tower_shape import TowerShape
from cosmos3_ros.model.video_codec import VideoCodec
from cosmos3_ros.model.weight_source import CheckpointWeights
from cosmos3_ros.resources import require
from cosmos3_ros.robots import Robot, load_robot

from . import droid_joint, eef_delta
from .action_contract import ActionContract
from .action_layout import ActionLayout
from .checkpoint_policy import Cosmos3Policy
from .compiled_backend import CompiledBackend
from .composed_view import View, place_on_canvas
from .diffusers_backend import DiffusersBackend
from .eef_settings import gather_settings
from .graph_pool import GraphPool
from .guidance import Guidance
from .imagination import Imagination
from .option_types import check_types
from .parallel_backend import on_devices
from .policy import PolicyError
from .prompt import PROMPT_VARIANTS
from .request_pack import make_pack
from .sampler import Schedule, schedule
from .tensorrt_backend import open_tensorrt

torch = require('torch', 'model')
logger = logging.getLogger(__name__)

BACKENDS = ('compiled', 'diffusers', 'tensorrt')
UNDERSTANDING = ('streamed', 'resident')
BRANCHES = ('auto', 'batched', 'sequential')
FLOAT8 = 'float8'
# Steps, shift and guidance where neither a parameter nor the checkpoint says any.
SAMPLING: dict[str, Sampling] = {
    contract.CONTRACT: Sampling(steps=contract.STEPS, shift=contract.SHIFT, guidance=contract.GUIDANCE)
    for contract in (droid_joint, eef_delta)}


def create_cosmos3(
    *,
    checkpoint: str,
    joint_names: Sequence[str] | None = None,
    robot: Robot | str | None = None,
    revision: str | None = None,
    contract: str | None = None,
    action: Mapping[str, Any] | None = None,
    backend: str = 'compiled',
    device: str = 'cpu',
    dtype: str = 'float32',
    steps: int | None = None,
    shift: float | None = None,
    guidance: float | None = None,
    guidance_interval: Sequence[float] | None = None,
    prompt_variant: str | None = None,
    understanding: str = 'streamed',
    branches: str = 'auto',
    guidance_device: str | None = None,
    engines: str | None = None,
    torch_threads: int = 1,
) -> Cosmos3Policy:
    """Load a checkpoint and build the policy.

    :param checkpoint: Directory, packaged name or Hub id; see :meth:`Checkpoint.open`.
    :param joint_names: The robot's arm joints, base to wrist; None takes those of ``robot``.
    :param robot: The robot, or its name; the contract ``eef_delta`` needs its kinematics.
    :param contract: For a checkpoint that does not say its own: ``droid_joint`` or ``eef_delta``.
    :param action: Of the contract ``eef_delta``: see :data:`eef_settings.NAMES`.
    :param backend: ``compiled`` (text once, then the generation tower alone), ``diffusers``
        (the reference: everything at every step; chunks agree to 1e-5 rad) or ``tensorrt`` (as
        ``compiled``, the generation tower as plans; see ``docs/engine.md``).
    :param device: ``cpu`` or ``cuda[:n]``.
    :param dtype: ``float32``, ``bfloat16``, ``float16``, or with the backend ``compiled`` ``float8``: the
        generation tower's matrices in float8, the rest in bfloat16. With ``tensorrt`` what the plans were
        built in: ``bfloat16``, ``float8`` or ``nvfp4``. Samples stay float32.
    :param steps: Denoising steps; None takes the checkpoint's own (``sampling`` in its
        ``cosmos3_ros.json``), and where it says none the contract's: 4 for ``droid_joint``, 30 for
        ``eef_delta``.
    :param shift: Flow shift of the noise levels; None likewise: 5 and 10.
    :param guidance: Classifier-free guidance scale, 1 is off; None likewise: 3 and 1.
    :param guidance_interval: Timesteps between which guidance is on; None takes the checkpoint's, and where
        it says none, always; ``[0, 1001]`` is always whatever it says.
    :param prompt_variant: One of :data:`prompt.PROMPT_VARIANTS`; None takes the checkpoint's.
    :param understanding: With ``compiled``: ``streamed`` runs the understanding tower layer by layer for a
        new instruction and keeps nothing of it; ``resident`` keeps it on the device.
    :param branches: With ``compiled``: the two branches of guidance ``batched`` or ``sequential``; ``auto``
        takes what was faster on an H200: ``batched`` for ``float8``, else ``sequential``.
    :param guidance_device: With ``compiled``: a second device, which holds the tower too and computes the
        branch of the empty text at the same time.
    :param engines: With ``tensorrt``: what ``cosmos3 engine build --out`` was.
    :param torch_threads: CPU threads of torch in this process, 1 by default so that a controller on
        the same machine keeps its core; 0 leaves torch's setting alone.
    :raises PolicyError: A setting or the robot does not fit.
    :raises CheckpointError: The checkpoint cannot be used (also a ``ValueError``).
    """
    check_types(locals(), {
        'checkpoint': 'text', 'revision': 'text or none', 'contract': 'text or none', 'backend': 'text',
        'device': 'text', 'dtype': 'text', 'steps': 'integer or none', 'shift': 'number or none',
        'guidance': 'number or none', 'guidance_interval': 'pair or none', 'prompt_variant': 'text or none',
        'torch_threads': 'integer', 'understanding': 'text', 'branches': 'text', 'action': 'mapping or none',
        'guidance_device': 'text or none',
        'engines': 'text or none'})
    for name, value, allowed in (
            ('backend', backend, BACKENDS), ('understanding', understanding, UNDERSTANDING),
            ('branches', branches, BRANCHES)):
        if value not in allowed:
            raise PolicyError(f'{name}: {value!r} arrived, one of {", ".join(allowed)} is allowed')
    if dtype == FLOAT8 and backend == 'diffusers':
        raise PolicyError(f'dtype: {FLOAT8} arrived, the backend {backend} has no such form; use compiled')
    if guidance_device is not None and backend != 'compiled':
        raise PolicyError(
            f'guidance_device: {guidance_device!r} arrived, the backend {backend} uses one device; use '
            'compiled')
    if not 0 <= torch_threads <= 256:
        raise PolicyError(f'torch_threads: {torch_threads} arrived, 0 to 256 is allowed')
    opened = Checkpoint.open(checkpoint, revision=revision, contract=contract, parts=('generator',))
    if backend == 'tensorrt' and opened.contract != droid_joint.CONTRACT:
        raise PolicyError(
            f'backend: tensorrt arrived, plans are built for the contract {droid_joint.CONTRACT}, the '
            f'checkpoint has {opened.contract}; use compiled')
    actions = bind_contract(opened, robot, joint_names, action)
    plan, scale = choose_sampling(
        opened, steps=steps, shift=shift, guidance=guidance, guidance_interval=guidance_interval)
    variant = prompt_variant or opened.prompt_variant
    if variant not in PROMPT_VARIANTS:
        raise PolicyError(
            f'prompt_variant: {variant!r} arrived, one of {", ".join(PROMPT_VARIANTS)} is allowed')
    if torch_threads > 0:
        torch.set_num_threads(torch_threads)
    check_device(device)
    if guidance_device is not None:
        check_device(guidance_device)
    if device.startswith('cuda') and backend != 'tensorrt':  # plans say themselves what they take
        _check_memory(opened, actions.layout, device, backend, dtype, understanding)
    compiled, view, pool = backend != 'diffusers', View.of(*opened.view), GraphPool(device)
    made, width = _make_backend(
        opened, backend, device, dtype, plan, scale, understanding, branches, pool, actions.layout,
        guidance_device, engines)
    engine = f'{backend}/{dtype}/{device}' + (f'/{made.digest}' if backend == 'tensorrt' else '')
    precision = 'bfloat16' if backend == 'tensorrt' else _activations(dtype)
    policy = Cosmos3Policy(
        identity=ModelIdentity(opened.label, engine, opened.trained),
        actions=actions, backend=made,
        encoder=picture_encoder(load_vae(opened, 'cpu', precision), device, view, compiled, pool),
        tokenize=partial(prompt_tokens, load_tokenizer(opened)), view=view,
        plan=plan, guidance=scale,
        prompt_variant=variant, action_width=width)
    policy.imagination = Imagination(
        policy, lambda: VideoCodec(load_vae(opened, 'cpu', precision), device))
    if not opened.trained:
        logger.warning('checkpoint %s is not trained: its chunks mean nothing', opened.label)
    return policy


def choose_sampling(
    checkpoint: Checkpoint, *, steps: int | None = None, shift: float | None = None,
    guidance: float | None = None, guidance_interval: Sequence[float] | None = None,
) -> tuple[Schedule, Guidance]:
    """Return sampler and guidance: what was asked for, else the checkpoint's own, else the contract's.

    :raises PolicyError: A value is not allowed.
    """
    asked = {'steps': steps, 'shift': shift, 'guidance': guidance, 'guidance_interval': guidance_interval}
    chosen = {**SAMPLING[checkpoint.contract].document(), **checkpoint.sampling.document(),
              **{name: value for name, value in asked.items() if value is not None}}
    ends = chosen.get('guidance_interval')
    return (schedule(chosen['steps'], float(chosen['shift'])),
            Guidance(float(chosen['guidance']), None if ends is None else (ends[0], ends[1])))


def bind_contract(
    checkpoint: Checkpoint, robot: Robot | str | None, joint_names: Sequence[str] | None,
    action: Mapping[str, Any] | None,
) -> ActionContract:
    """Return the checkpoint's contract for a robot.

    :raises PolicyError: Nobody speaks the checkpoint's contract, or the robot is not one for it.
    """
    found = load_robot(robot) if isinstance(robot, str) else robot
    if checkpoint.contract not in SAMPLING:
        raise PolicyError(
            f'checkpoint {checkpoint.name}: its contract is {checkpoint.contract}, this policy speaks '
            f'{", ".join(SAMPLING)}. Change the parameter checkpoint')
    names = tuple(joint_names) if joint_names is not None else found.joint_names if found else ()
    if found is not None and names != found.joint_names:
        raise PolicyError(
            f'joint_names: {", ".join(names)} arrived, robot {found.name} has {", ".join(found.joint_names)}')
    if checkpoint.contract == droid_joint.CONTRACT:
        if action:
            raise PolicyError(
                f'action: {", ".join(map(str, action))} arrived, a checkpoint with the contract '
                f'{droid_joint.CONTRACT} takes none')
        if found is not None and droid_joint.CONTRACT not in found.action_contracts:
            raise PolicyError(
                f'robot {found.name}: it accepts {", ".join(found.action_contracts)}, this checkpoint '
                'answers '
                f'{droid_joint.CONTRACT}. Change the parameter robot or checkpoint')
        return droid_joint.DroidJoint(names)
    if found is None:
        raise PolicyError(
            f'robot: none is named; a checkpoint with the contract {eef_delta.CONTRACT} needs the '
            'kinematics of one')
    return eef_delta.EefDelta(found, gather_settings(action or {}, checkpoint.action, checkpoint.directory))


def picture_encoder(vae: Any, device: str, view: View, frame_only: bool, pool: GraphPool) -> Any:
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


def branch_batching(branches: str, dtype: str) -> bool:
    """Return whether both branches go through the matrices together."""
    return dtype == FLOAT8 if branches == 'auto' else branches == 'batched'


def _check_memory(
    checkpoint: Checkpoint, layout: ActionLayout, device: str, backend: str, dtype: str, understanding: str,
) -> None:
    config = CheckpointWeights(checkpoint).config
    shape, view = TowerShape.of(config), View.of(*checkpoint.view)
    pack = make_pack(
        0, (layout.frames, view.latent_height, view.latent_width), layout, patch=shape.patch,
        margin=shape.margin, base_fps=shape.base_fps)
    need = check_memory(
        shape, int(config.get('vocab_size', 151936)), pack.generated_tokens, backend, dtype, understanding,
        torch.cuda.mem_get_info(device)[0])
    logger.info('%s on %s', need, device)


def _activations(dtype: str) -> str:
    return 'bfloat16' if dtype == FLOAT8 else dtype


def _make_backend(
    checkpoint: Checkpoint, backend: str, device: str, dtype: str, plan: Schedule, guidance: Guidance,
    understanding: str, branches: str, pool: GraphPool, layout: ActionLayout,
    guidance_device: str | None, engines: str | None,
) -> tuple[Any, int]:
    """Return the backend and the padded width of an action row."""
    source = open_weights(checkpoint)
    if backend == 'diffusers':
        if 'quantization_config' in source.config:
            raise PolicyError(
                f'checkpoint {checkpoint.name}: it is quantised, the backend diffusers does not read that; '
                'use compiled')
        transformer = load_transformer(checkpoint, device, dtype)
        return DiffusersBackend(transformer, plan, guidance), int(transformer.config.action_dim)
    if backend == 'tensorrt':
        plans = open_tensorrt(
            checkpoint, engines, dtype, device, plan, guidance,
            understanding_resident=understanding == 'resident')
        return plans, int(source.config['action_dim'])
    precision = torch_dtype(_activations(dtype))

    def compiled(where: str, memory: GraphPool) -> CompiledBackend:
        return CompiledBackend(
            source, where, precision, checkpoint.content_hash, plan, guidance, float8=dtype == FLOAT8,
            understanding_resident=understanding == 'resident', batched=branch_batching(branches, dtype),
            pool=memory, layout=layout)

    made = on_devices(compiled, device, pool, guidance_device, plan, guidance)
    return made, int(source.config['action_dim'])


__all__ = ['BACKENDS', 'CheckpointError', 'create_cosmos3']
