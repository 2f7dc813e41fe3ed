"""One network step for a batch of requests, over the weights of ``diffusers.Cosmos3OmniTransformer``.

diffusers' own ``forward`` packs the tokens of one request per call. Here requests of the same video size
stand side by side, texts may differ in length: shorter ones are padded at the end, which the causal
understanding tower does not see and which is hidden from the generation tower. The layers' own modules
are called, so gradients, adapters (LoRA) and autocast work as they do there; a test holds every sample to
``forward``, to 1e-6 in float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cosmos3_ros.resources import require

from .device_transfer import send
from .layer_math import rotary_table, rotate
from .sequence_pack import SequencePack
from .tower_shape import TowerShape

torch = require('torch', 'model')
functional = require('torch.nn.functional', 'model')
checkpointing = require('torch.utils.checkpoint', 'model')


# Padding is hidden without a mask, which would exclude the fast kernels: keys get some columns more, far
# below zero where there is padding, and queries ones to meet them, so that exp() of the product is exactly 0.
_COLUMNS = 8
_FAR = -1e4


@dataclass(frozen=True, slots=True, eq=False)
class TextContexts:
    """Keys and values of some texts, padded to the longest.

    :param keys: Per layer (texts, longest, key/value heads, head width), rotary positions applied.
    :param values: Likewise, without positions.
    :param lengths: Tokens of each text.
    """

    keys: tuple[Any, ...]
    values: tuple[Any, ...]
    lengths: tuple[int, ...]

    def select(self, indices: Sequence[int]) -> 'TextContexts':
        """Return those of the texts with these indices, in that order, with all of their padding.

        So every batch of a training run has the same shape, and compiled layers are compiled once.
        """
        rows = send(torch.tensor(list(indices)), self.keys[0].device)
        return TextContexts(
            tuple(k.index_select(0, rows) for k in self.keys),
            tuple(v.index_select(0, rows) for v in self.values), tuple(self.lengths[i] for i in indices))


class BatchedStep:
    """Runs both towers over batches.

    :param transformer: ``diffusers.Cosmos3OmniTransformer``, possibly with adapters; not copied.
    """

    def __init__(self, transformer: Any) -> None:
        self.transformer = transformer
        self.shape = TowerShape.of(transformer.config)
        self._tables: dict[tuple[Any, ...], tuple[Any, Any]] = {}
        self._packs: dict[tuple[Any, ...], SequencePack] = {}

    def compile_layers(self, *, few_shapes: bool = False) -> None:
        """Compile the generation tower's layers; all share one graph per length of text.

        :param few_shapes: Texts and batches come in very few lengths: each gets a graph of its own.
        """
        self._layer = torch.compile(  # type: ignore[method-assign]
            self._layer, dynamic=False if few_shapes else None)

    def contexts(self, texts: Sequence[Sequence[int]]) -> TextContexts:
        """Run the understanding tower; with gradients if its weights have them.

        :param texts: Token ids of each, as :func:`prompt_tokens.prompt_tokens` returns them.
        """
        model, lengths = self.transformer, tuple(len(ids) for ids in texts)
        longest = max(lengths)
        device = model.embed_tokens.weight.device
        ids = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in texts], device=device)
        hidden = model.embed_tokens(ids)
        cos, sin = self._table(
            ('text', longest, hidden.dtype, str(device)), SequencePack(longest, (1, 1, 1), 1), device,
            hidden.dtype)
        keys, values = [], []
        for i, layer in enumerate(model.layers):
            attention = layer.self_attn
            normed = layer.input_layernorm(hidden)
            key = attention.norm_k(self._heads(attention.to_k(normed)))
            value = self._heads(attention.to_v(normed))
            shared = attention.k_norm_und_for_gen
            turned = rotate(key, cos, sin)
            keys.append(turned if shared is None else rotate(shared(key), cos, sin))
            values.append(value)
            if i + 1 == len(model.layers):
                break  # of the last layer only keys and values are read
            query = rotate(attention.norm_q(self._heads(attention.to_q(normed))), cos, sin)
            mixed = functional.scaled_dot_product_attention(
                *(t.transpose(1, 2) for t in (query, turned, value)), is_causal=True, enable_gqa=True)
            hidden = hidden + attention.to_out(mixed.transpose(1, 2).flatten(-2))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return TextContexts(tuple(keys), tuple(values), lengths)

    def velocity(
        self, contexts: TextContexts, vision: Any, action: Any, timesteps: Any, domain_ids: Any, *,
        fps: float = 15.0,
    ) -> tuple[Any, Any]:
        """Return velocities of video (batch, C, T, h, w) and actions (batch, rows, width), float32.

        Frame 0 and row 0 are clean: they get no time, and zero as their velocity.

        :param contexts: One text per sample.
        :param vision: (batch, C, T, h, w) latents; T may be 1, the observation alone.
        :param action: (batch, rows, width), padded to the checkpoint's width.
        :param timesteps: (batch,) 0..1000, one for both modalities; or (batch, 2): video's and actions'.
        :param domain_ids: int64 (batch,) action heads.
        :param fps: Of video and actions.
        """
        model = self.transformer
        batch, _, frames, height, width = vision.shape
        rows = action.shape[1]
        pack = self._pack(contexts.lengths[0], (frames, height, width), rows, fps)
        dtype = model.embed_tokens.weight.dtype
        times = self._time(timesteps.view(batch, -1).expand(-1, 2), dtype)
        tokens = model.proj_in(to_patches(vision, pack).to(dtype))
        tokens = torch.cat([
            tokens[:, :pack.patches_per_frame],
            tokens[:, pack.patches_per_frame:] + times[:, :1]], dim=1)
        states = self._domain_linear(model.action_proj_in, action, domain_ids)
        states = states + model.action_modality_embed
        states = torch.cat([states[:, :1], states[:, 1:] + times[:, 1:]], dim=1)
        hidden = torch.cat([tokens, states], dim=1)
        cos, sin = self._generated_tables(contexts.lengths, pack, dtype, vision.device)
        padding = self._padding(contexts, hidden)
        for layer, key, value in zip(model.layers, contexts.keys, contexts.values, strict=True):
            if model.gradient_checkpointing and torch.is_grad_enabled():
                hidden = checkpointing.checkpoint(
                    self._layer, layer, hidden, key, value, cos, sin, padding, use_reentrant=False)
            else:
                hidden = self._layer(layer, hidden, key, value, cos, sin, padding)
        hidden = model.norm_moe_gen(hidden)
        vision_out = model.proj_out(hidden[:, pack.patches_per_frame:pack.vision_tokens])
        action_out = self._domain_linear(
            model.action_proj_out, hidden[:, pack.vision_tokens + 1:], domain_ids)
        video = from_patches(vision_out.float(), pack, frames - 1)
        return (
            torch.cat([torch.zeros_like(vision[:, :, :1], dtype=video.dtype), video], dim=2),
            functional.pad(action_out.float(), (0, 0, 1, 0)))

    def _layer(
        self, layer: Any, hidden: Any, text_key: Any, text_value: Any, cos: Any, sin: Any, padding: Any,
    ) -> Any:
        attention = layer.self_attn
        normed = layer.input_layernorm_moe_gen(hidden)
        query = rotate(attention.norm_added_q(self._heads(attention.add_q_proj(normed))), cos, sin)
        key = rotate(attention.norm_added_k(self._heads(attention.add_k_proj(normed))), cos, sin)
        value = self._heads(attention.add_v_proj(normed))
        key = torch.cat([text_key.to(key.dtype), key], dim=1)
        value = torch.cat([text_value.to(value.dtype), value], dim=1)
        width = self.shape.head_dim
        if padding is not None:
            query = functional.pad(query, (0, _COLUMNS), value=1.0)
            columns = padding[:, :, None, None].to(key.dtype)
            key = torch.cat([key, columns.expand(*key.shape[:3], _COLUMNS)], dim=-1)
            value = functional.pad(value, (0, _COLUMNS))
        mixed = functional.scaled_dot_product_attention(
            *(t.transpose(1, 2) for t in (query, key, value)), scale=width ** -0.5, enable_gqa=True)
        mixed = mixed[..., :width]
        hidden = hidden + attention.to_add_out(mixed.transpose(1, 2).flatten(-2))
        return hidden + layer.mlp_moe_gen(layer.post_attention_layernorm_moe_gen(hidden))

    def _heads(self, projected: Any) -> Any:
        return projected.unflatten(-1, (-1, self.shape.head_dim))

    def _time(self, timesteps: Any, dtype: Any) -> Any:
        """Return (batch, 2, hidden): in float32 whatever the rest is (``_keep_in_fp32_modules``)."""
        model = self.transformer
        with torch.autocast(timesteps.device.type, enabled=False):
            wave = model.time_proj(timesteps.flatten().float() * self.shape.timestep_scale)
            embedded = model.time_embedder(wave.to(next(model.time_embedder.parameters()).dtype))
        return embedded.to(dtype).unflatten(0, timesteps.shape)

    @staticmethod
    def _domain_linear(head: Any, states: Any, domain_ids: Any) -> Any:
        """``DomainAwareLinear`` without its check of the ids, which waits for the device.

        Never under autocast: absolute joint angles rounded to bfloat16 are wrong by up to 10 mrad.
        """
        with torch.autocast(states.device.type, enabled=False):
            weight = head.fc(domain_ids).view(-1, head.input_size, head.output_size)
            return torch.bmm(states.to(weight.dtype), weight) + head.bias(domain_ids).unsqueeze(1)

    def _pack(self, length: int, latents: tuple[int, int, int], rows: int, fps: float) -> SequencePack:
        key = (length, latents, rows, fps)
        if key not in self._packs:
            self._packs[key] = SequencePack(
                length, latents, rows, fps=fps, patch=self.shape.patch, margin=self.shape.margin,
                base_fps=self.shape.base_fps)
        return self._packs[key]

    def _generated_tables(
        self, lengths: tuple[int, ...], pack: SequencePack, dtype: Any, device: Any,
    ) -> tuple[Any, Any]:
        """Return rotary tables of the generated tokens, (N, head width), or (batch, N, head width).

        They differ by the text's length alone, and lengths are few: one table for each is kept.
        """
        distinct = sorted(set(lengths))
        packs = [self._pack(n, pack.latent_shape, pack.action_rows, pack.fps) for n in distinct]
        tables = [
            self._table(
                ('generated', p.text_length, p.latent_shape, p.action_rows, p.fps, dtype, str(device)), p,
                device, dtype) for p in packs]
        if len(distinct) == 1:
            return tables[0]
        which = send(torch.tensor([distinct.index(n) for n in lengths]), device)
        cos, sin = (torch.stack(part).index_select(0, which) for part in zip(*tables, strict=True))
        return cos, sin

    def _table(self, key: tuple[Any, ...], pack: SequencePack, device: Any, dtype: Any) -> tuple[Any, Any]:
        if key not in self._tables:
            positions = pack.text_positions if key[0] == 'text' else pack.generated_positions
            self._tables[key] = rotary_table(self.shape, positions, device, dtype)
        return self._tables[key]

    @staticmethod
    def _padding(contexts: TextContexts, hidden: Any) -> Any:
        """Return (batch, padded text + generated): far below 0 where a text is padding, else 0; or None."""
        longest = contexts.keys[0].shape[1]
        if min(contexts.lengths) == longest:
            return None
        beyond = torch.arange(longest)[None] >= torch.tensor(contexts.lengths)[:, None]
        return send(functional.pad(beyond * _FAR, (0, hidden.shape[1])), hidden.device)


def to_patches(latents: Any, pack: SequencePack) -> Any:
    """Turn (batch, C, T, h, w) into (batch, tokens, patch^2 * C); see :func:`patches.to_patches`."""
    _, rows, columns = pack.grid
    size = pack.patch
    padded = functional.pad(
        latents, (0, columns * size - latents.shape[-1], 0, rows * size - latents.shape[-2]))
    split = padded.unflatten(-1, (columns, size)).unflatten(-3, (rows, size))  # B C T rows p columns q
    return split.permute(0, 2, 3, 5, 4, 6, 1).flatten(4).flatten(1, 3)


def from_patches(patches: Any, pack: SequencePack, frames: int) -> Any:
    """Turn (batch, tokens, patch^2 * C) of ``frames`` whole frames back into (batch, C, frames, h, w)."""
    _, rows, columns = pack.grid
    size = pack.patch
    split = patches.unflatten(1, (frames, rows, columns)).unflatten(-1, (size, size, -1))
    latents = split.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)
    return latents[..., :pack.latent_shape[1], :pack.latent_shape[2]]
