"""The fast path: the reasoner context once per instruction, then the generation tower alone.

Resident are the generation tower, one domain's heads and the contexts. On CUDA a layer has kernels of its
own and the denoising loop is one graph per instruction; on a CPU plain formulas run.
"""

from collections import OrderedDict
from collections.abc import Sequence
import logging
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.model.generation_tower import GenerationTower
from cosmos3_ros.model.host_trace import HostTrace
from cosmos3_ros.model.layer_functions import LayerFunctions
from cosmos3_ros.model.patches import to_patches
from cosmos3_ros.model.reasoner_context import ContextCache, ReasonerContext
from cosmos3_ros.model.understanding_tower import UnderstandingTower
from cosmos3_ros.model.weight_source import WeightSource
from cosmos3_ros.resources import require

from .action_layout import ActionLayout
from .compiled_loop import CompiledLoop
from .denoise import Request
from .droid_joint import LAYOUT
from .graph_pool import GraphPool
from .guidance import Guidance
from .noise import draw_noise
from .policy import PolicyError
from .sampler import Schedule

torch = require('torch', 'model')
logger = logging.getLogger(__name__)

NOISES_KEPT = 4  # 2.3 MB each at the DROID policy's size


class CompiledBackend:
    """Keeps contexts and, per instruction, the loop with everything that is constant over requests.

    :param source: Where the weights lie.
    :param checkpoint_hash: Names the weights in the contexts' identity.
    :param float8: Quantise the generation tower; see :class:`GenerationTower`.
    :param understanding_resident: Keep the understanding tower on the device; see
        :class:`UnderstandingTower`.
    :param batched: Both branches of guidance in one pass.
    :param capacity: Instructions kept.
    :param pool: Memory of CUDA graphs, shared with the picture encoder's: one runs after the other. None
        gives the backend one of its own.
    :param layout: The action contract: its domain's heads are kept, of their channels the used ones.
    """

    name = 'compiled'

    def __init__(
        self, source: WeightSource, device: Any, dtype: Any, checkpoint_hash: str, plan: Schedule,
        guidance: Guidance, *, float8: bool = False, understanding_resident: bool = False,
        batched: bool = True, capacity: int = 8, pool: GraphPool | None = None, layout: ActionLayout = LAYOUT,
    ) -> None:
        self.heads = (layout.domain_id, layout.width)
        """Domain and channels of the action heads that are loaded."""
        self._tower = GenerationTower(source, device, dtype, *self.heads, float8=float8)
        self._understanding = UnderstandingTower(
            source, device, dtype, checkpoint_hash, resident=understanding_resident)
        self.contexts = ContextCache(self.compute_context, capacity)
        self._plan, self._guidance, self._batched = plan, guidance, batched
        self._capacity = capacity
        self._loops: OrderedDict[tuple[str, ...], CompiledLoop] = OrderedDict()
        self._traces: dict[str, HostTrace] = {}
        self._noises: OrderedDict[tuple[int, ...], tuple[Any, Any]] = OrderedDict()
        self._functions = LayerFunctions.of(self._tower.device)
        self._pool = pool or GraphPool(str(device))
        self.context_s = 0.0

    def denoise(
        self, conditional: Sequence[int], unconditional: Sequence[int], request: Request,
    ) -> NDArray[np.float32]:
        """Return the denoised action rows, float32 (rows, width); given rows come back as they are.

        :param conditional: Token ids of the instruction's prompt.
        :param unconditional: Token ids of the empty text.
        :raises PolicyError: The request is of another domain than the heads that were kept.
        """
        loop = self.prepare(conditional, unconditional, request)
        rows: NDArray[np.float32] = loop.run().cpu().numpy().copy()
        return rows

    def imagine(self, conditional: Sequence[int], unconditional: Sequence[int], request: Request) -> Any:
        """Return the denoised latents, float32 (1, 48, T, h, w), of a request that asks for video."""
        loop = self.prepare(conditional, unconditional, request)
        loop.run()
        return loop.film()

    def prepare(
        self, conditional: Sequence[int], unconditional: Sequence[int], request: Request, *,
        by_step: bool = False,
    ) -> CompiledLoop:
        """Return the loop of a request with everything that the request brings in place.

        :param by_step: Its steps are going to be run one by one, from outside.
        """
        asked = (request.layout.domain_id, request.layout.width)
        if asked != self.heads:
            raise PolicyError(
                f'request: domain {asked[0]} with {asked[1]} channels is asked for, the heads of domain '
                f'{self.heads[0]} with {self.heads[1]} were loaded')
        loop, given = self._loop(conditional, unconditional, request, by_step), request.given_rows
        with torch.no_grad():
            vision, action = self._noise(request, loop)
            loop.clean.copy_(request.clean_latent)
            loop.noise.copy_(vision)
            loop.action.copy_(action)
            loop.action[:len(given)].copy_(torch.from_numpy(given.copy()))
            if request.prefix is None:
                loop.prefix_weights.zero_()
            else:
                loop.prefix_rows.copy_(torch.from_numpy(request.prefix.rows.copy()))
                loop.prefix_weights.copy_(torch.from_numpy(request.prefix.weights.copy())[:, None])
        return loop

    def resample(self, plan: Schedule, guidance: Guidance, *, batched: bool) -> None:
        """Sample differently from now on."""
        self._plan, self._guidance, self._batched = plan, guidance, batched
        self._drop_loops()

    def forget(self) -> None:
        """Let go of everything that came from earlier requests: contexts, loops, graphs, noise."""
        self.contexts = ContextCache(self.compute_context, self._capacity)
        self._drop_loops()
        self._noises.clear()

    def _drop_loops(self) -> None:
        # A graph's fixed outputs lie in the pool's memory: they go before the graph that made them.
        for loop in self._loops.values():
            loop.release()
        self._loops.clear()
        self._traces.clear()

    def _loop(
        self, conditional: Sequence[int], unconditional: Sequence[int], request: Request, by_step: bool,
    ) -> CompiledLoop:
        needed = [tuple(conditional)]
        if any(self._guidance.active(t) for t in self._plan.timesteps):
            needed.append(tuple(unconditional))
        contexts = [self.contexts.get(ids) for ids in needed]
        latent_shape = (request.frames, *request.clean_latent.shape[-2:])
        key = (*(c.identity for c in contexts), str(latent_shape), str(request.layout), str(by_step))
        if key not in self._loops:
            alike = str((len(contexts), latent_shape, request.layout))
            loop = CompiledLoop(
                self._tower, self._functions, contexts, latent_shape, self._plan, self._guidance,
                batched=self._batched, layout=request.layout, trace=self._traces.get(alike))
            if loop.trace is not None:  # it holds the first loop of its kind
                self._traces[alike] = loop.trace
            if self._tower.device.type == 'cuda':
                (loop.capture_steps if by_step else loop.capture)(self._pool)
            self._loops[key] = loop
            if len(self._loops) > self._capacity:
                self._loops.popitem(last=False)[1].release()
        self._loops.move_to_end(key)
        return self._loops[key]

    def _noise(self, request: Request, loop: CompiledLoop) -> tuple[Any, Any]:
        _, channels, _, height, width = request.clean_latent.shape
        layout, clean = request.layout, loop.pack.clean_frames
        key = (request.seed, request.frames, clean, height, width, layout.rows, request.action_width)
        if key not in self._noises:
            vision = torch.from_numpy(draw_noise(request.seed, (1, channels, request.frames, height, width)))
            action = torch.from_numpy(draw_noise(request.seed, (layout.rows, request.action_width)))
            device = self._tower.device
            self._noises[key] = (
                to_patches(vision[:, :, clean:].to(device), loop.pack),
                action[:, :layout.width].contiguous().to(device))
            if len(self._noises) > NOISES_KEPT:
                self._noises.popitem(last=False)
        self._noises.move_to_end(key)
        return self._noises[key]

    def compute_context(self, ids: tuple[int, ...]) -> ReasonerContext:
        """Run the understanding tower; how long that took is ``context_s``."""
        started = perf_counter()
        # Kept on the host: each loop holds its own copy, laid out as it needs it.
        context = self._understanding.contexts([ids])[0].on_host()
        if self._tower.device.type == 'cuda':
            torch.cuda.synchronize(self._tower.device)
            torch.cuda.empty_cache()  # or loops, which stay, would lie in the holes that layers left
        self.context_s = perf_counter() - started
        logger.info('reasoner context of %d tokens: %.2f s, %.1f MB', context.length, self.context_s,
                    context.size_bytes / 1e6)
        return context
