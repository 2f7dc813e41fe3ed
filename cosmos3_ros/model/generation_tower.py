"""The generation tower alone: what ``Cosmos3OmniTransformer.forward`` computes for video and actions.

Only what changes between requests is computed: the text's keys and values are a reasoner context, time
embeddings and rotary tables are constants, of the action heads one domain's is kept. Projections that
read the same input are one matrix (facts sheet 11). Several branches (texts) go through the matrices
together and attend apart.

Query heads stand in another order than in the checkpoint, those of one key/value head apart: (group,
key/value head) instead of (key/value head, group). The queries of a token's group are then further rows of
one longer sequence per key/value head, without a copy, and attention's blocks of rows are all full but the
last of the whole: of 3093 tokens, 97 blocks of 128 rows for each of 8 heads instead of 25 for each of 32,
which is six rounds of an H200's 132 processors instead of seven.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from cosmos3_ros.resources import require

from .layer_math import feed_forward, multiply, normalise, quantise_rows, rotate
from .tower_shape import TowerShape
from .weight_source import WeightSource

torch = require('torch', 'model')
functional = require('torch.nn.functional', 'model')


class Layer(NamedTuple):
    """One layer's weights; a scale is None where the matrix is not float8."""

    norm_in: Any
    norm_query: Any
    norm_key: Any
    norm_out: Any
    qkv: Any
    qkv_scale: Any
    out: Any
    out_scale: Any
    up: Any
    up_scale: Any
    down: Any
    down_scale: Any


class GenerationTower:
    """Weights of the generation tower, fused, with one domain's action heads.

    :param source: Where the weights lie; each tensor is read once and released.
    :param dtype: Of activations, and of weights unless ``float8``.
    :param domain_id: Action head to keep.
    :param action_channels: Channels of an action row that are used.
    :param float8: Quantise the layers' matrices, one scale per output, unless the source has them in float8;
        everything else keeps ``dtype``.
    """

    def __init__(
        self, source: WeightSource, device: Any, dtype: Any, domain_id: int, action_channels: int, *,
        float8: bool = False,
    ) -> None:
        self.shape = TowerShape.of(source.config)
        self.device, self.dtype, self.float8 = torch.device(device), dtype, float8
        self.action_channels = action_channels
        self._source = source
        with torch.no_grad():
            # What stays comes before anything that goes again: else it would hold on to the allocator's
            # segments, in holes that what was read, widened and quantised left behind.
            rooms = [self._room() for _ in range(self.shape.layers)]
            self.layers = tuple(self._layer(i, room) for i, room in enumerate(rooms))
            if self.device.type == 'cuda':
                torch.cuda.empty_cache()
            self._norm = self._tensor('norm_moe_gen.weight')
            self._proj_in = self._tensor('proj_in.weight'), self._tensor('proj_in.bias')
            self._proj_out = self._tensor('proj_out.weight'), self._tensor('proj_out.bias')
            self._load_action_heads(domain_id)
            self._load_time_embedder()
        del self._source

    def _tensor(self, name: str, dtype: Any = None) -> Any:
        return self._source.get(name).to(self.device, dtype or self.dtype)

    def _room(self) -> list[Any]:
        """Return empty matrices of a layer: query, key and value; out; gate and up; down."""
        shape = self.shape
        mixed, own = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        wide = shape.intermediate * (2 if shape.gated else 1)
        sizes = ((mixed + 2 * own, shape.hidden), (shape.hidden, mixed), (wide, shape.hidden),
                 (shape.hidden, shape.intermediate))
        kind = torch.float8_e4m3fn if self.float8 else self.dtype
        return [torch.empty(size, dtype=kind, device=self.device) for size in sizes]

    def _layer(self, index: int, room: list[Any]) -> Layer:
        def name(part: str) -> str:
            return f'layers.{index}.{part}.weight'

        def matrix(place: Any, *parts: str) -> tuple[Any, Any]:
            scales, first = [], 0
            for part in parts:
                if self.float8:
                    weight, scale = self._quantised(name(part))
                else:
                    weight, scale = self._source.get(name(part)), None
                if part.endswith('add_q_proj'):
                    weight, scale = regroup_heads(weight, 0, self.shape), (
                        None if scale is None else regroup_heads(scale, 0, self.shape))
                elif part.endswith('to_add_out'):
                    weight = regroup_heads(weight, 1, self.shape)
                place[first:first + len(weight)].copy_(weight)
                first += len(weight)
                scales.append(scale)
            return place, torch.cat(scales).t().contiguous() if self.float8 else None

        feed = ('mlp_moe_gen.gate_proj', 'mlp_moe_gen.up_proj')[0 if self.shape.gated else 1:]
        return Layer(
            self._tensor(name('input_layernorm_moe_gen')), self._tensor(name('self_attn.norm_added_q')),
            self._tensor(name('self_attn.norm_added_k')),
            self._tensor(name('post_attention_layernorm_moe_gen')),
            *matrix(room[0], 'self_attn.add_q_proj', 'self_attn.add_k_proj', 'self_attn.add_v_proj'),
            *matrix(room[1], 'self_attn.to_add_out'), *matrix(room[2], *feed),
            *matrix(room[3], 'mlp_moe_gen.down_proj'))

    def _quantised(self, name: str) -> tuple[Any, Any]:
        """Return a float8 matrix and its scales (outputs, 1): the checkpoint's own where it has them."""
        ready = getattr(self._source, 'quantised', None)
        found = None if ready is None else ready(name)
        if found is None:
            quantised: tuple[Any, Any] = quantise_rows(self._tensor(name))
            return quantised
        weight, scale = found
        return weight.to(self.device), scale.to(self.device)

    def _load_action_heads(self, domain_id: int) -> None:
        used, shape = self.action_channels, self.shape
        # Stored [input, output]; the bias of the input head and the modality's embedding are one sum.
        self._action_in = self._source.rows('action_proj_in.fc.weight', [domain_id]).view(
            shape.action_width, shape.hidden)[:used].to(self.device, self.dtype).contiguous()
        self._action_in_bias = (
            self._source.rows('action_proj_in.bias.weight', [domain_id])[0].to(self.device, self.dtype)
            + self._tensor('action_modality_embed'))
        self._action_out = self._source.rows('action_proj_out.fc.weight', [domain_id]).view(
            shape.hidden, shape.action_width)[:, :used].to(self.device, self.dtype).contiguous()
        self._action_out_bias = self._source.rows(
            'action_proj_out.bias.weight', [domain_id])[0, :used].to(self.device, self.dtype).contiguous()

    def _load_time_embedder(self) -> None:
        # In float32 whatever the rest is, as diffusers keeps it (``_keep_in_fp32_modules``); on the host,
        # where its few products cost nothing and come out the same for every device.
        self._time = [
            (self._source.get(f'time_embedder.linear_{i}.weight').to('cpu', torch.float32),
             self._source.get(f'time_embedder.linear_{i}.bias').to('cpu', torch.float32)) for i in (1, 2)]

    def time_embeddings(self, timesteps: tuple[int, ...]) -> Any:
        """Return the embeddings of timesteps, (steps, hidden)."""
        project = require('diffusers.models.embeddings', 'model').get_timestep_embedding
        rows = []
        for timestep in timesteps:  # one at a time: the reference's result, bit for bit
            scaled = torch.tensor([float(timestep)]) * self.shape.timestep_scale
            wave = project(scaled, 256, flip_sin_to_cos=True, downscale_freq_shift=0)
            rows.append(functional.linear(
                functional.silu(functional.linear(wave, *self._time[0])), *self._time[1]))
        return torch.cat(rows).to(self.device, self.dtype)

    def embed_vision(self, patches: Any) -> Any:
        """Return hidden states of (tokens, patch width), without time."""
        return functional.linear(patches.to(self.dtype), *self._proj_in)

    def embed_action(self, rows: Any) -> Any:
        """Return hidden states of (rows, used channels), without time."""
        return torch.addmm(self._action_in_bias, rows.to(self.dtype), self._action_in)

    def read_vision(self, states: Any) -> Any:
        """Return patch velocities of vision tokens, float32."""
        return functional.linear(self.finish(states), *self._proj_out).float()

    def read_action(self, states: Any) -> Any:
        """Return velocities of action rows, used channels only, float32."""
        return torch.addmm(self._action_out_bias, self.finish(states), self._action_out).float()

    def finish(self, states: Any) -> Any:
        """Apply the last norm."""
        return normalise(states, self._norm, self.shape)


def regroup_heads(matrix: Any, axis: int, shape: TowerShape) -> Any:
    """Return a matrix whose query heads stand as (group, key/value head); see the module.

    :param axis: Along which the checkpoint's heads stand: (key/value head, group).
    """
    split = matrix.unflatten(axis, (shape.kv_heads, shape.heads // shape.kv_heads, shape.head_dim))
    return split.transpose(axis, axis + 1).flatten(axis, axis + 2)


def project(terms: Sequence[Any], layer: Layer, shape: TowerShape) -> tuple[Any, Any]:
    """Return queries, keys and values side by side, before norm and rotation, and the layer's input.

    :param terms: What the layer's input is the sum of, see :func:`finish_layer`: (branches * generated,
        hidden), branch after branch.
    """
    hidden = sum_terms(terms)
    return multiply(normalise(hidden, layer.norm_in, shape), layer.qkv, layer.qkv_scale), hidden


def place_heads(
    joined: Any, table: tuple[Any, Any], layer: Layer, shape: TowerShape, text: tuple[Any, Any],
    room: tuple[Any, Any],
) -> Any:
    """Return one branch's queries (generated, heads, width); put all keys and values into their room.

    :param joined: From :func:`project`, (generated, (heads + 2 * key/value heads) * width).
    :param text: Keys and values of the text, (text, key/value heads, width).
    :param room: Likewise (text + generated, key/value heads, width), written.
    """
    query, key, value = joined.unflatten(-1, (-1, shape.head_dim)).split(
        (shape.heads, shape.kv_heads, shape.kv_heads), dim=1)
    for place, first, own in zip(
            room, text, (rotate(normalise(key, layer.norm_key, shape), *table), value), strict=True):
        place.copy_(torch.cat([first, own]))
    return rotate(normalise(query, layer.norm_query, shape), *table)


def finish_layer(
    mixed: list[Any], hidden: list[Any], layer: Layer, shape: TowerShape,
) -> tuple[Any, ...]:
    """Return what the layer's result is the sum of: one term, or two where that saves a pass over memory.

    :param mixed: Per branch the attention's result, (kept, heads * width).
    :param hidden: Per branch the layer's input, (kept, hidden); may be written over.
    """
    states = stack(hidden) + multiply(stack(mixed), layer.out, layer.out_scale)
    return (states + feed_forward(
        normalise(states, layer.norm_out, shape), (layer.up, layer.up_scale), (layer.down, layer.down_scale),
        shape),)


def sum_terms(terms: Sequence[Any]) -> Any:
    """Return the sum of one or two tensors."""
    return terms[0] if len(terms) == 1 else terms[0] + terms[1]


def stack(parts: list[Any]) -> Any:
    """Return matrices below one another; one alone is returned as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)
