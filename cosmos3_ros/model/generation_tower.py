"""The generation tower alone: what ``Cosmos3OmniTransformer.forward`` computes for video and actions.

Only what changes between requests is computed: the text's keys and values are a reasoner context, time
embeddings and rotary tables are constants, of the action heads one domain's is kept. Projections that
read the same input are one matrix (facts sheet 11). Several branches (texts) go through the matrices
together and attend apart.
"""

from typing import Any, NamedTuple

from cosmos3_ros.resources import require

from .layer_math import add, feed_forward, multiply, normalise, quantise_rows, rotate
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
            self.layers = tuple(self._layer(i) for i in range(self.shape.layers))
            self._norm = self._tensor('norm_moe_gen.weight')
            self._proj_in = self._tensor('proj_in.weight'), self._tensor('proj_in.bias')
            self._proj_out = self._tensor('proj_out.weight'), self._tensor('proj_out.bias')
            self._load_action_heads(domain_id)
            self._load_time_embedder()
        del self._source

    def _tensor(self, name: str, dtype: Any = None) -> Any:
        return self._source.get(name).to(self.device, dtype or self.dtype)

    def _layer(self, index: int) -> Layer:
        def read(*names: str) -> Any:
            parts = [self._tensor(f'layers.{index}.{name}.weight') for name in names]
            return parts[0] if len(parts) == 1 else torch.cat(parts)

        def matrix(*names: str) -> tuple[Any, Any]:
            if not self.float8:
                return read(*names), None
            parts = [self._quantised(f'layers.{index}.{name}.weight') for name in names]
            return (torch.cat([weight for weight, _ in parts]),
                    torch.cat([scale for _, scale in parts]).t().contiguous())

        feed = ('mlp_moe_gen.gate_proj', 'mlp_moe_gen.up_proj')[0 if self.shape.gated else 1:]
        return Layer(
            read('input_layernorm_moe_gen'), read('self_attn.norm_added_q'), read('self_attn.norm_added_k'),
            read('post_attention_layernorm_moe_gen'),
            *matrix('self_attn.add_q_proj', 'self_attn.add_k_proj', 'self_attn.add_v_proj'),
            *matrix('self_attn.to_add_out'), *matrix(*feed), *matrix('mlp_moe_gen.down_proj'))

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


def prepare_attention(
    terms: list[Any], table: tuple[Any, Any], layer: Layer, shape: TowerShape, keys: list[Any],
    values: list[Any],
) -> tuple[Any, Any]:
    """Return queries (tokens, heads, width) and the layer's input, and write keys and values.

    :param terms: What the layer's input is the sum of: one or two of (branches * generated, hidden), branch
        after branch.
    :param keys: Per branch (generated, key/value heads, width), written.
    :param values: Likewise.
    """
    hidden = terms[0] if len(terms) == 1 else add(*terms)
    joined = multiply(normalise(hidden, layer.norm_in, shape), layer.qkv, layer.qkv_scale)
    query, key, value = joined.unflatten(-1, (-1, shape.head_dim)).split(
        (shape.heads, shape.kv_heads, shape.kv_heads), dim=1)
    key = rotate(normalise(key, layer.norm_key, shape), *table)
    tokens = len(hidden) // len(keys)
    for i, (key_room, value_room) in enumerate(zip(keys, values, strict=True)):
        key_room.copy_(key[i * tokens:(i + 1) * tokens])
        value_room.copy_(value[i * tokens:(i + 1) * tokens])
    return rotate(normalise(query, layer.norm_query, shape), *table), hidden


def finish_layer(
    mixed: list[Any], hidden: list[Any], layer: Layer, shape: TowerShape,
) -> tuple[Any, Any]:
    """Return the layer's result as two terms: the residual and the feed-forward.

    Their sum is left to whoever reads it next: it then costs no pass over memory of its own.

    :param mixed: Per branch the attention's result, (kept, heads * width).
    :param hidden: Per branch the layer's input, (kept, hidden).
    """
    states = add(torch.cat(hidden), multiply(torch.cat(mixed), layer.out, layer.out_scale))
    return states, feed_forward(
        normalise(states, layer.norm_out, shape), (layer.up, layer.up_scale), (layer.down, layer.down_scale),
        shape)
