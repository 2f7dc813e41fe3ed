"""What is measured: variants of a policy, each as one that answers requests, and what it is asked."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from cosmos3_ros.contracts import ModelIdentity, Observation
from cosmos3_ros.model.nano_weights import RandomNano
from cosmos3_ros.resources import require

from . import droid_joint
from .checkpoint_policy import Cosmos3Policy
from .compiled_backend import CompiledBackend
from .composed_view import DROID_VIEW
from .cosmos3_policy import BRANCHES, FLOAT8, branch_batching, create_cosmos3, picture_encoder
from .diffusers_backend import DiffusersBackend
from .graph_pool import GraphPool
from .guidance import Guidance
from .parallel_backend import on_devices
from .sampler import schedule

torch = require('torch', 'model')

NANO_RANDOM = 'nano-random'
JOINTS = tuple(f'joint{i}' for i in range(1, droid_joint.ARM_JOINTS + 1))
EMPTY_TEXT_TOKENS = 10  # the empty text through Nano's chat template


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of the table.

    :param backend: ``compiled`` or ``diffusers``.
    :param interval: Timesteps between which guidance is on; None is always.
    :param guidance_device: A second device, which denoises with the empty text; None: both on one.
    """

    name: str
    backend: str
    dtype: str
    steps: int = droid_joint.STEPS
    interval: tuple[float, float] | None = None
    branches: str = BRANCHES[0]
    guidance_device: str | None = None


def droid_variants(device: str) -> tuple[Variant, ...]:
    """Return the variants that make sense on a device; the last one is the yardstick."""
    if not device.startswith('cuda'):
        return (Variant('compiled float32', 'compiled', 'float32'),
                Variant('compiled float32, guidance interval', 'compiled', 'float32', interval=(960, 1001)),
                Variant('compiled float32, 2 steps', 'compiled', 'float32', steps=2),
                Variant('diffusers float32', 'diffusers', 'float32'))
    return (Variant('compiled BF16', 'compiled', 'bfloat16'),
            Variant('compiled BF16, guidance interval', 'compiled', 'bfloat16', interval=(960, 1001)),
            Variant('compiled BF16, 2 steps', 'compiled', 'bfloat16', steps=2),
            Variant('compiled FP8', 'compiled', FLOAT8),
            Variant('compiled FP8, guidance interval', 'compiled', FLOAT8, interval=(960, 1001)),
            Variant('compiled FP8, 2 steps', 'compiled', FLOAT8, steps=2),
            Variant('diffusers BF16', 'diffusers', 'bfloat16'))


def make_policy(
    checkpoint: str, device: str, variant: Variant, source: RandomNano | None, sibling: Any,
) -> Cosmos3Policy:
    """Return a variant's policy.

    :param source: Random weights; None reads the checkpoint.
    :param sibling: A policy with the same weights, which from now on samples as the variant says.
    """
    plan, guidance = schedule(variant.steps, droid_joint.SHIFT), Guidance(
        droid_joint.GUIDANCE, variant.interval)
    if sibling is not None:
        sibling.resample(plan, guidance, batched=branch_batching(variant.branches, variant.dtype))
        made: Cosmos3Policy = sibling
        return made
    if source is None:
        return create_cosmos3(
            checkpoint=checkpoint, joint_names=JOINTS, backend=variant.backend, device=device,
            dtype=variant.dtype, steps=variant.steps, shift=droid_joint.SHIFT, guidance=droid_joint.GUIDANCE,
            guidance_interval=variant.interval, branches=variant.branches,
            guidance_device=variant.guidance_device, torch_threads=0)
    backend: Any
    pool = GraphPool(device)
    if variant.backend == 'diffusers':
        backend = DiffusersBackend(source.transformer(), plan, guidance)
    else:
        def compiled(where: str, memory: GraphPool) -> CompiledBackend:
            return CompiledBackend(
                source, where, torch.bfloat16, NANO_RANDOM, plan, guidance, float8=variant.dtype == FLOAT8,
                batched=branch_batching(variant.branches, variant.dtype), pool=memory)

        backend = on_devices(compiled, device, pool, variant.guidance_device, plan, guidance)
    return Cosmos3Policy(
        identity=ModelIdentity(NANO_RANDOM, f'{variant.backend}/{variant.dtype}/{device}', False),
        actions=droid_joint.DroidJoint(JOINTS), backend=backend,
        encoder=picture_encoder(source.vae(), device, DROID_VIEW, variant.backend == 'compiled', pool),
        tokenize=_count_tokens, view=DROID_VIEW, plan=plan, guidance=guidance, prompt_variant='plain',
        action_width=int(source.config['action_dim']))


def _count_tokens(text: str) -> tuple[int, ...]:
    """Turn a prompt that :func:`instruction_of` made into as many ids as it says."""
    if not text:
        return tuple(range(1000, 1000 + EMPTY_TEXT_TOKENS))
    count = int(text.split()[1])
    return tuple((7919 * i + 13) % 150000 for i in range(count))


def instruction_of(policy: Cosmos3Policy, tokens: int) -> str:
    """Return an instruction whose prompt has ``tokens`` tokens, or the nearest number above."""
    if policy.identity.checkpoint == NANO_RANDOM:
        return f'prompt {tokens} tokens'
    instruction = 'put the red cube into the blue bowl'
    while len(policy.tokens_of(instruction)) < tokens:
        instruction += ' and wait'
    return instruction


def droid_observation(seed: int = 0) -> Observation:
    """Return noise in three cameras of 640 x 360, as the DROID robots have them, and a pose."""
    random = np.random.default_rng(seed)
    return Observation(
        stamp_ns=0, skew_ns=0, joint_names=JOINTS, gripper=0.25,
        joint_position=np.array([0.0, -0.5, 0.1, -2.0, 0.2, 1.5, 0.7]),
        images={slot: random.integers(0, 256, (360, 640, 3), dtype=np.uint8)
                for slot in droid_joint.CAMERA_SLOTS})
