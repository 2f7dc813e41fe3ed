"""The fast path: the reasoner context once per instruction, then the generation tower alone.

On a CPU it runs eagerly; CUDA graphs come with the GPU backend's own work.
"""

from collections import OrderedDict
from typing import Any

from cosmos3_ros.model.generation_tower import BoundTower, GenerationTower
from cosmos3_ros.model.reasoner_context import ContextCache, compute_context

from .droid_joint import DOMAIN_ID, ROWS, WIDTH


class CompiledBackend:
    """Keeps contexts and, per context and shape, everything that is constant over requests.

    :param transformer: ``diffusers.Cosmos3OmniTransformer``.
    :param checkpoint_hash: Names the weights in the contexts' identity.
    :param capacity: Instructions kept.
    """

    name = 'compiled'

    def __init__(self, transformer: Any, checkpoint_hash: str, capacity: int = 8) -> None:
        self._tower = GenerationTower(transformer, DOMAIN_ID, WIDTH)
        self.contexts = ContextCache(
            lambda ids: compute_context(transformer, ids, checkpoint_hash), capacity)
        self._bound: OrderedDict[tuple[str, tuple[int, int, int]], BoundTower] = OrderedDict()
        self._capacity = capacity

    def branch(self, token_ids: Any, latent_shape: tuple[int, int, int]) -> BoundTower:
        """Return the network with the text ``token_ids``, int64 (n,)."""
        context = self.contexts.get(token_ids)
        key = (context.identity, latent_shape)
        if key not in self._bound:
            self._bound[key] = self._tower.bind(context, latent_shape, ROWS)
            if len(self._bound) > self._capacity:
                self._bound.popitem(last=False)
        self._bound.move_to_end(key)
        return self._bound[key]
