"""The generation tower as TensorRT plans; the reasoner context once per instruction, in torch.

Plans are loaded only past the gate (:func:`engine.loaded_tower.open_tower`): what is missing, damaged, of
other weights, for another GPU, or drifts from torch, ends the start of the node with the reason. Nothing
else is tried instead. On an RTX GPU not executed by us; see :mod:`cosmos3_ros.engine.runtime`.
"""

from collections import OrderedDict
from collections.abc import Sequence
import logging
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.engine.denoising import EngineBranch, GenerationChain
from cosmos3_ros.engine.errors import EngineError
from cosmos3_ros.engine.executors import Executor, PlanExecutor
from cosmos3_ros.engine.loaded_tower import open_tower
from cosmos3_ros.engine.sources import EngineSource
from cosmos3_ros.model.checkpoint import Checkpoint
from cosmos3_ros.model.reasoner_context import ContextCache, ReasonerContext
from cosmos3_ros.model.tower_shape import TowerShape
from cosmos3_ros.model.understanding_tower import UnderstandingTower
from cosmos3_ros.model.weight_source import CheckpointWeights
from cosmos3_ros.resources import require

from .denoise import Request, denoise
from .guidance import Guidance
from .policy import PolicyError
from .request_pack import make_pack
from .sampler import Schedule

torch = require('torch', 'model')
logger = logging.getLogger(__name__)

PRECISIONS = {'bfloat16': 'bf16', 'float8': 'fp8', 'nvfp4': 'nvfp4'}
"""The policy's option ``dtype`` to the precision of plans."""


class TensorrtBackend:
    """Denoises with loaded segments.

    :param chain: Of the generation tower, past the gate.
    :param digest: Names the plans in a chunk's identity.
    :param understanding: Computes contexts.
    :param shape: For the positions of a request's tokens.
    :param capacity: Instructions kept.
    """

    name = 'tensorrt'

    def __init__(
        self, chain: GenerationChain, digest: str, understanding: UnderstandingTower, shape: TowerShape,
        device: str, plan: Schedule, guidance: Guidance, capacity: int = 8,
    ) -> None:
        self._chain, self.digest, self._understanding = chain, digest, understanding
        self._shape, self._device, self._capacity = shape, torch.device(device), capacity
        self._plan, self._guidance = plan, guidance
        self.contexts = ContextCache(self.compute_context, capacity)
        self._branches: OrderedDict[tuple[str, ...], EngineBranch] = OrderedDict()
        self.context_s = 0.0

    def denoise(
        self, conditional: Sequence[int], unconditional: Sequence[int], request: Request,
    ) -> NDArray[np.float32]:
        """Return the denoised action rows, float32 (rows, width); given rows come back as they are.

        :param conditional: Token ids of the instruction's prompt.
        :param unconditional: Token ids of the empty text.
        :raises PolicyError: The plans were built for other shapes, or the request asks for video.
        """
        asked, built = (request.layout.domain_id, request.layout.width), self._chain.shapes
        if asked != (built.domain, built.action_channels):
            raise PolicyError(
                f'request: domain {asked[0]} with {asked[1]} channels is asked for, the plans have the heads '
                f'of domain {built.domain} with {built.action_channels}; build with --domain {asked[0]} '
                f'--action-channels {asked[1]}')
        guided = any(self._guidance.active(t) for t in self._plan.timesteps)
        try:
            one = self._branch(conditional, request)
            other = self._branch(unconditional, request) if guided else one
            rows = denoise(one, other, request, self._plan, self._guidance)
        except EngineError as error:
            raise PolicyError(f'backend tensorrt: {error}') from error
        return rows[:, :request.layout.width].copy()

    def imagine(
        self, conditional: Sequence[int], unconditional: Sequence[int], request: Request,  # noqa: ARG002
    ) -> Any:
        """Refuse: plans are built for the mode policy.

        :raises PolicyError: Always.
        """
        raise PolicyError(
            f'backend tensorrt: the mode {request.layout.mode} asks for video, plans are built for the mode '
            'policy; set backend to compiled')

    def resample(self, plan: Schedule, guidance: Guidance, *, batched: bool) -> None:  # noqa: ARG002
        """Sample differently from now on; branches are always apart here."""
        self._plan, self._guidance = plan, guidance

    def forget(self) -> None:
        """Let go of contexts."""
        self.contexts = ContextCache(self.compute_context, self._capacity)
        self._branches.clear()

    def compute_context(self, ids: tuple[int, ...]) -> ReasonerContext:
        """Run the understanding tower; how long that took is ``context_s``."""
        started = perf_counter()
        context = self._understanding.contexts([ids])[0].on_host()
        if self._device.type == 'cuda':
            torch.cuda.synchronize(self._device)
        self.context_s = perf_counter() - started
        logger.info('reasoner context of %d tokens: %.2f s', context.length, self.context_s)
        return context

    def _branch(self, ids: Sequence[int], request: Request) -> EngineBranch:
        """Return the network with one text; contexts lie on the device as the plans read them."""
        context = self.contexts.get(tuple(ids))
        latent_shape = (request.frames, *request.clean_latent.shape[-2:])
        key = (context.identity, str(latent_shape), str(request.layout))
        if key not in self._branches:
            shape = self._shape
            pack = make_pack(
                context.length, latent_shape, request.layout, patch=shape.patch, margin=shape.margin,
                base_fps=shape.base_fps)
            keys, values = (
                torch.stack(list(parts)).transpose(1, 2).contiguous().to(self._device)
                for parts in (context.keys, context.values))
            self._branches[key] = self._chain.branch_of(pack, keys, values)
            if len(self._branches) > 2 * self._capacity:
                self._branches.popitem(last=False)
        self._branches.move_to_end(key)
        return self._branches[key]


def open_tensorrt(
    checkpoint: Checkpoint, engines: str | None, dtype: str, device: str, plan: Schedule,
    guidance: Guidance, *, understanding_resident: bool = False, executor: Executor | None = None,
) -> TensorrtBackend:
    """Load the generation tower's plans past the gate.

    :param engines: What ``cosmos3 engine build --out`` was.
    :param dtype: One of :data:`PRECISIONS`.
    :param device: ``cuda[:n]``.
    :param executor: What runs the plans; None is TensorRT on ``device``.
    :raises PolicyError: Settings that do not fit, or the gate's refusal.
    """
    if dtype not in PRECISIONS:
        raise PolicyError(
            f'dtype: {dtype} arrived, one of {", ".join(PRECISIONS)} is allowed with the backend tensorrt')
    if not engines:
        raise PolicyError(
            'engines: none arrived, the backend tensorrt needs the directory that "cosmos3 engine build '
            '--out" wrote')
    if executor is None and not device.startswith('cuda'):
        raise PolicyError(f'device: {device} arrived, the backend tensorrt needs a GPU: cuda or cuda:n')
    try:
        source = EngineSource.of_checkpoint(checkpoint)
        run_by = PlanExecutor(device=device) if executor is None else executor
        tower = open_tower(Path(engines), 'generation', PRECISIONS[dtype], source, run_by)
        chain = GenerationChain(
            tower.segments, tower.runners, tower.dimensions, tower.manifest.key.shapes, source.weights(),
            tower.compute)
    except EngineError as error:
        raise PolicyError(f'backend tensorrt: {error}') from error
    weights = CheckpointWeights(checkpoint)
    compute = getattr(torch, tower.compute)
    return TensorrtBackend(
        chain, tower.manifest.key.digest,
        UnderstandingTower(
            weights, run_by.device, compute, checkpoint.content_hash, resident=understanding_resident),
        TowerShape.of(weights.config), run_by.device, plan, guidance)
