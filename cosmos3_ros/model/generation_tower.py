"""The generation tower alone, over a reasoner context.

Computes what ``Cosmos3OmniTransformer.forward`` computes for video and actions, less what does not
change between steps: the understanding tower, time embeddings, rotary tables, index tensors, and
the action heads of other domains (facts sheet 11). Projections that read the same input are one
matrix. In the last step of a request only the action rows are asked for, so the last layer
computes only theirs.
"""

from dataclasses import dataclass
from typing import Any

from cosmos3_ros.resources import require

from .reasoner_context import ReasonerContext, rotary, rotate
from .sequence_pack import SequencePack

torch = require('torch', 'model')
functional = require('torch.nn.functional', 'model')


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    qkv: Any
    out: Any
    gate_up: Any
    down: Any
    norm_in: Any
    norm_out: Any
    norm_q: Any
    norm_k: Any


class GenerationTower:
    """Weights of the generation tower, fused, with one domain's action heads.

    :param transformer: ``diffusers.Cosmos3OmniTransformer`` of Nano's or Super's kind (SwiGLU).
    :param domain_id: Action head to keep.
    :param action_channels: Channels of an action row that are used.
    :raises ValueError: A transformer of Edge's kind, whose layers differ.
    """

    def __init__(self, transformer: Any, domain_id: int, action_channels: int) -> None:
        config = transformer.config
        if config.hidden_act != 'silu':
            raise ValueError(
                f'backend compiled: layers with hidden_act {config.hidden_act} arrived, silu is allowed; '
                'use the backend diffusers')
        self._transformer = transformer
        self.dtype, self.device = transformer.dtype, transformer.device
        self._eps = config.rms_norm_eps
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._head_dim = config.head_dim
        self.patch, self.channels = config.latent_patch_size, config.latent_channel
        self.margin = config.unified_3d_mrope_temporal_modality_margin
        self.base_fps = float(config.base_fps)
        self._layers = [_fuse(layer) for layer in transformer.layers]
        self._norm = transformer.norm_moe_gen.weight
        head_in, head_out = transformer.action_proj_in, transformer.action_proj_out
        used = action_channels
        # Stored [input, output]; the bias of the input head and the modality's embedding are one sum.
        self._action_in = head_in.fc.weight[domain_id].view(head_in.input_size, -1)[:used].contiguous()
        self._action_in_bias = head_in.bias.weight[domain_id] + transformer.action_modality_embed
        self._action_out = head_out.fc.weight[domain_id].view(
            head_out.input_size, -1)[:, :used].contiguous()
        self._action_out_bias = head_out.bias.weight[domain_id][:used]
        self.action_channels = used
        self._times: dict[int, Any] = {}

    def time_embedding(self, timestep: int) -> Any:
        """Return the embedding of a timestep, (1, hidden), computed once."""
        if timestep not in self._times:
            model = self._transformer
            scaled = torch.tensor([float(timestep)], device=self.device) * model.config.timestep_scale
            kind = next(model.time_embedder.parameters()).dtype
            self._times[timestep] = model.time_embedder(model.time_proj(scaled).to(kind)).to(self.dtype)
        return self._times[timestep]

    def bind(self, context: ReasonerContext, latent_shape: tuple[int, int, int], rows: int) -> 'BoundTower':
        """Return the tower over one context, ready for requests of one shape."""
        return BoundTower(self, context, SequencePack(
            text_length=context.length, latent_shape=latent_shape, action_rows=rows, patch=self.patch,
            margin=self.margin, base_fps=self.base_fps))

    def rotary_table(self, pack: SequencePack) -> tuple[Any, Any]:
        """Return cosines and sines of the generated tokens."""
        return rotary(self._transformer, pack.generated_positions.to(self.device), self.dtype)

    def embed(self, patches: Any, action: Any, time: Any, clean_patches: int) -> Any:
        """Return the first hidden states, (generated, hidden).

        :param patches: (vision tokens, patch width).
        :param action: (rows, used channels).
        """
        vision = self._transformer.proj_in(patches.to(self.dtype))
        vision[clean_patches:] += time
        rows = torch.addmm(self._action_in_bias, action.to(self.dtype), self._action_in)
        rows[1:] += time
        return torch.cat([vision, rows])

    def run(self, hidden: Any, memory: list[tuple[Any, Any]], table: tuple[Any, Any], keep: int) -> Any:
        """Run all layers and the last norm.

        :param memory: Per layer, keys and values (key/value heads, text + generated, head width)
            whose text part is filled.
        :param keep: Tokens, counted from the end, whose result is asked for.
        """
        last = len(self._layers) - 1
        for i, layer in enumerate(self._layers):
            hidden = self._step(layer, hidden, memory[i], table, keep if i == last else len(hidden))
        return functional.rms_norm(hidden, self._norm.shape, self._norm, self._eps)

    def _step(
        self, w: _Layer, hidden: Any, memory: tuple[Any, Any], table: tuple[Any, Any], keep: int,
    ) -> Any:
        tokens = len(hidden)
        normed = functional.rms_norm(hidden, w.norm_in.shape, w.norm_in, self._eps)
        joined = functional.linear(normed, w.qkv).unflatten(-1, (-1, self._head_dim))
        query, key, value = joined.split((self._heads, self._kv_heads, self._kv_heads), dim=1)
        query = functional.rms_norm(query[-keep:], w.norm_q.shape, w.norm_q, self._eps)
        key = functional.rms_norm(key, w.norm_k.shape, w.norm_k, self._eps)
        cos, sin = table
        keys, values = memory
        keys[:, -tokens:] = rotate(key, cos, sin).transpose(0, 1)
        values[:, -tokens:] = value.transpose(0, 1)
        mixed = functional.scaled_dot_product_attention(
            rotate(query, cos[-keep:], sin[-keep:]).transpose(0, 1)[None], keys[None], values[None],
            enable_gqa=True)
        hidden = hidden[-keep:] + functional.linear(mixed[0].transpose(0, 1).flatten(1), w.out)
        normed = functional.rms_norm(hidden, w.norm_out.shape, w.norm_out, self._eps)
        gate, up = functional.linear(normed, w.gate_up).chunk(2, dim=-1)
        return hidden + functional.linear(functional.silu(gate) * up, w.down)

    def read_vision(self, states: Any) -> Any:
        """Return patch velocities of vision tokens."""
        return self._transformer.proj_out(states)

    def read_action(self, states: Any) -> Any:
        """Return velocities of action rows, used channels only."""
        return torch.addmm(self._action_out_bias, states, self._action_out)

    def new_memory(self, context: ReasonerContext, generated: int) -> list[tuple[Any, Any]]:
        """Return keys and values with the context in place and room for what is generated."""
        memory = []
        for key, value in zip(context.keys, context.values, strict=True):
            pair = []
            for part in (key, value):
                room = torch.empty(
                    (part.shape[1], part.shape[0] + generated, part.shape[2]), dtype=self.dtype,
                    device=self.device)
                room[:, :part.shape[0]] = part.transpose(0, 1).to(self.device, self.dtype)
                pair.append(room)
            memory.append((pair[0], pair[1]))
        return memory


class BoundTower:
    """The tower over one context and one shape: what :class:`denoise.Branch` asks for."""

    def __init__(self, tower: GenerationTower, context: ReasonerContext, pack: SequencePack) -> None:
        self._tower, self._pack = tower, pack
        with torch.inference_mode():
            self._table = tower.rotary_table(pack)
            self._memory = tower.new_memory(context, pack.generated_tokens)

    def velocity(self, vision: Any, action: Any, timestep: int, *, want_video: bool) -> tuple[Any, Any]:
        """Return velocities of video (1, C, T, h, w) and actions (rows, width), float32.

        Clean parts and unused channels are zero. Without ``want_video`` the video's are all zero.
        """
        tower, pack = self._tower, self._pack
        with torch.inference_mode():
            states = tower.run(
                tower.embed(
                    to_patches(vision, pack), action[:, :tower.action_channels],
                    tower.time_embedding(timestep), pack.patches_per_frame),
                self._memory, self._table,
                pack.generated_tokens if want_video else pack.action_rows - 1)
            v_action = torch.zeros_like(action)
            v_action[1:, :tower.action_channels] = tower.read_action(states[-(pack.action_rows - 1):])
            v_vision = torch.zeros_like(vision)
            if want_video:
                noisy = tower.read_vision(states[pack.patches_per_frame:pack.vision_tokens])
                v_vision[:, :, 1:] = from_patches(noisy, pack, tower.channels)
        return v_vision, v_action


def to_patches(latents: Any, pack: SequencePack) -> Any:
    """Turn (1, C, T, h, w) into (tokens, patch^2 * C), channels fastest, odd edges padded with zeros."""
    _, rows, columns = pack.grid
    size = pack.patch
    padded = functional.pad(
        latents[0], (0, columns * size - latents.shape[-1], 0, rows * size - latents.shape[-2]))
    split = padded.unflatten(-1, (columns, size)).unflatten(-3, (rows, size))  # C T rows p columns q
    return split.permute(1, 2, 4, 3, 5, 0).flatten(3).flatten(0, 2)


def from_patches(patches: Any, pack: SequencePack, channels: int) -> Any:
    """Turn noisy patches back into (1, C, T - 1, h, w)."""
    frames, rows, columns = pack.grid
    size = pack.patch
    split = patches.reshape(frames - 1, rows, columns, size, size, channels)
    latents = split.permute(5, 0, 1, 3, 2, 4).reshape(channels, frames - 1, rows * size, columns * size)
    return latents[None, :, :, :pack.latent_shape[1], :pack.latent_shape[2]].float()


def _fuse(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp_moe_gen
    return _Layer(
        qkv=torch.cat([m.weight for m in (attention.add_q_proj, attention.add_k_proj, attention.add_v_proj)]),
        out=attention.to_add_out.weight,
        gate_up=torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]), down=mlp.down_proj.weight,
        norm_in=layer.input_layernorm_moe_gen.weight, norm_out=layer.post_attention_layernorm_moe_gen.weight,
        norm_q=attention.norm_added_q.weight, norm_k=attention.norm_added_k.weight)
