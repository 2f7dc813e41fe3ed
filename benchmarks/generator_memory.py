"""What a policy process holds on its device, counted at the shape of Cosmos3-Nano without any weights.

Tensors live on the meta device: sizes are exact, nothing is computed. The loop's intermediates are those
of the plain formulas, more than a GPU's layers need (``model/device_layers.py``); workspaces of libraries are
not in it.
"""

import argparse
import json
import sys
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cosmos3_ros.generator import text_branch
from cosmos3_ros.generator.compiled_loop import CompiledLoop
from cosmos3_ros.generator.droid_joint import LAYOUT
from cosmos3_ros.generator.guidance import Guidance
from cosmos3_ros.generator.sampler import schedule
from cosmos3_ros.model.generation_tower import GenerationTower
from cosmos3_ros.model.layer_functions import LayerFunctions
from cosmos3_ros.model.nano_weights import NANO_CONFIG, NANO_VAE
from cosmos3_ros.model.observation_encoder import ObservationEncoder
from cosmos3_ros.model.reasoner_context import ReasonerContext
from cosmos3_ros.model.tower_shape import TowerShape

GIGA = 1e9
META = torch.device('meta')


class MetaNano:
    """A :class:`WeightSource` of sizes."""

    def __init__(self) -> None:
        import diffusers

        self.config = NANO_CONFIG
        with META:
            model = diffusers.Cosmos3OmniTransformer(**NANO_CONFIG)
        self.tensors = {name: t.to(torch.bfloat16) for name, t in model.state_dict().items()}

    def get(self, name: str) -> Any:
        """Return a tensor without content; the time embedder's, which the host computes with, has zeros."""
        found = self.tensors[name]
        return torch.zeros(found.shape, dtype=found.dtype) if name.startswith('time_embedder') else found

    def rows(self, name: str, indices: Any) -> Any:
        """Return rows without content."""
        return self.tensors[name][:len(indices)]


class LiveBytes(TorchDispatchMode):
    """Follows the storages that operations make, and the most that lived at a time.

    :param known: Tensors that were there before: views of them are nothing new.
    """

    def __init__(self, known: Any) -> None:
        super().__init__()
        self._known = {t.untyped_storage()._cdata for t in known}
        self._live: dict[int, tuple[Any, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and look at what it made."""
        del types
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.device.type == 'meta':
                storage = leaf.untyped_storage()
                if storage._cdata not in self._known:
                    self._live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._live = {key: held for key, held in self._live.items() if not held[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return result


def size_of(tensors: Any) -> int:
    """Return the bytes of tensors, each storage once."""
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())


def count(dtype: str, tokens: int, *, batched: bool) -> tuple[dict[str, float], dict[str, float]]:
    """Return gigabytes per part, and of loop and encoder while they run."""
    source = MetaNano()
    shape = TowerShape.of(source.config)
    tower = GenerationTower(source, META, torch.bfloat16, LAYOUT.domain_id, LAYOUT.width, float8=False)
    layers = size_of(t for layer in tower.layers for t in layer if t is not None)
    matrices = shape.generation_parameters * 2
    if dtype == 'float8':
        layers -= matrices // 2  # a byte instead of two; scales are 3 MB
    def zeros(length: int) -> tuple[Any, ...]:
        return tuple(
            torch.zeros((length, shape.kv_heads, shape.head_dim), dtype=torch.bfloat16, device=META)
            for _ in range(shape.layers))

    context = [ReasonerContext(zeros(n), zeros(n), 'x') for n in (tokens, 10)]
    loop = CompiledLoop(
        tower, LayerFunctions.of(META), context, (9, 33, 40), schedule(4, 5.0), Guidance(3.0),
        batched=batched)
    held = size_of(
        t for branch in loop._branches for t in vars(branch).values() if isinstance(t, torch.Tensor))
    buffers = size_of(t for t in vars(loop).values() if isinstance(t, torch.Tensor))
    # Attention as one kernel: queries in, as many out, nothing else.
    text_branch.TextBranch.attend = _attend
    known = [t for layer in tower.layers for t in layer if t is not None] + [
        t for owner in (tower, loop, *loop._branches) for t in tree_leaves(list(vars(owner).values()))
        if isinstance(t, torch.Tensor)]
    with LiveBytes(known) as live, torch.no_grad():
        loop._fill()
    encoder, encoder_peak = count_encoder()
    return {
        'generation tower': layers / GIGA,
        'heads': size_of([*tower._proj_in, *tower._proj_out, tower._action_in, tower._action_out,
                          tower._action_in_bias, tower._action_out_bias, tower._norm]) / GIGA,
        'picture encoder': encoder / GIGA,
        'texts of an instruction (keys, values, room of one layer)': held / GIGA,
        'buffers': buffers / GIGA,
        # One runs after the other in the same memory.
        'work, the most of loop and encoder': max(live.peak, encoder_peak) / GIGA}, {
        'loop': live.peak / GIGA, 'encoder': encoder_peak / GIGA}


def _attend(_branch: Any, query: Any) -> Any:
    return torch.empty_like(query).flatten(1)


def count_encoder() -> tuple[int, int]:
    """Return the bytes of the VAE's encoder in its first-frame form, and the most of its intermediates."""
    import diffusers

    with META:
        vae = diffusers.AutoencoderKLWan(**NANO_VAE)
    vae = vae.to(torch.bfloat16)
    encoder = ObservationEncoder(vae, None, frame_only=True)
    held = [*vae.parameters(), *vae.buffers()]
    with LiveBytes(held) as live, torch.no_grad():
        encoder.encode_frame(torch.zeros((3, 544, 736), device=META))
    return size_of(held), live.peak


def never_loaded(source: MetaNano) -> dict[str, float]:
    """Return what the checkpoint holds and a policy process does not, in gigabytes."""
    def total(test: Any) -> float:
        return sum(t.numel() * 2 for name, t in source.tensors.items() if test(name)) / GIGA

    def understands(name: str) -> bool:
        return name.startswith('layers.') and not any(
            part in name for part in ('add_', 'moe_gen', 'norm_added'))
    heads = total(lambda name: name.startswith(('action_proj_in', 'action_proj_out')))
    return {
        'understanding tower': total(understands),
        'embeddings, language head': total(lambda name: name.startswith(('embed_tokens', 'lm_head'))),
        'other domains of the action heads': heads * 31 / 32,
        'sound': total(lambda name: name.startswith('audio')),
        'time embedder (on the host)': total(lambda name: name.startswith('time_embedder'))}


def main() -> int:
    """Print the table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--prompt-tokens', type=int, default=128)
    args = parser.parse_args()
    rows = {}
    for name, dtype, batched in (
            ('BF16, sequential branches', 'bfloat16', False), ('BF16, batched branches', 'bfloat16', True),
            ('FP8, sequential branches', 'float8', False), ('FP8, batched branches', 'float8', True)):
        parts, work = count(dtype, args.prompt_tokens, batched=batched)
        rows[name] = {**parts, 'sum': sum(parts.values()), 'while they run': work}
    sys.stdout.write(json.dumps({**rows, 'never loaded': never_loaded(MetaNano())}, indent=1) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
