"""One denoising step of the generation tower, some consecutive layers at a time.

Reads the reasoner context as tensors, so the plan serves every instruction of up to the built length.
"""

from typing import Any

import torch
from torch import nn

from ..dimensions import Dimensions, Shapes
from .blocks import GatedMlp, RmsNorm, attend, rotate


class _Attention(nn.Module):
    def __init__(self, d: Dimensions) -> None:
        super().__init__()
        self.add_q_proj = nn.Linear(d.hidden, d.heads * d.head_dim, bias=False)
        self.add_k_proj = nn.Linear(d.hidden, d.kv_heads * d.head_dim, bias=False)
        self.add_v_proj = nn.Linear(d.hidden, d.kv_heads * d.head_dim, bias=False)
        self.to_add_out = nn.Linear(d.heads * d.head_dim, d.hidden, bias=False)
        self.norm_added_q = RmsNorm(d.head_dim, d.rms_eps)
        self.norm_added_k = RmsNorm(d.head_dim, d.rms_eps)
        self.width = d.head_dim

    def forward(self, states: Any, cos: Any, sin: Any, keys: Any, values: Any) -> Any:
        split = (-1, self.width)
        query = rotate(self.norm_added_q(self.add_q_proj(states).unflatten(-1, split)), cos, sin)
        key = rotate(self.norm_added_k(self.add_k_proj(states).unflatten(-1, split)), cos, sin)
        value = self.add_v_proj(states).unflatten(-1, split)
        return self.to_add_out(attend(
            query, torch.cat((keys, key.transpose(0, 1)), dim=1),
            torch.cat((values, value.transpose(0, 1)), dim=1)))


class _Layer(nn.Module):
    def __init__(self, d: Dimensions) -> None:
        super().__init__()
        self.self_attn = _Attention(d)
        self.mlp_moe_gen = GatedMlp(d.hidden, d.intermediate)
        self.input_layernorm_moe_gen = RmsNorm(d.hidden, d.rms_eps)
        self.post_attention_layernorm_moe_gen = RmsNorm(d.hidden, d.rms_eps)

    def forward(self, states: Any, cos: Any, sin: Any, keys: Any, values: Any) -> Any:
        states = states + self.self_attn(self.input_layernorm_moe_gen(states), cos, sin, keys, values)
        return states + self.mlp_moe_gen(self.post_attention_layernorm_moe_gen(states))


class DomainHead(nn.Module):
    """One domain's slice of diffusers' ``DomainAwareLinear``: a plain matrix stored (input, output)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, rows: Any) -> Any:
        """Return (rows, outputs)."""
        return rows @ self.weight + self.bias


class GenerationSegment(nn.Module):
    """Layers ``first`` .. ``last - 1``; the first segment embeds, the last reads velocities.

    :param first: First layer; parameters keep the checkpoint's layer numbers.
    :param last: One past the last layer.
    """

    def __init__(self, dimensions: Dimensions, shapes: Shapes, first: int, last: int) -> None:
        super().__init__()
        d = dimensions
        self.layers = nn.ModuleDict({str(i): _Layer(d) for i in range(first, last)})
        self.begins, self.ends = first == 0, last == d.layers
        self.patches, self.clean = shapes.generated_patches, shapes.clean_patches
        self.clean_rows = shapes.clean_rows
        if self.begins:
            self.proj_in = nn.Linear(d.latent_values, d.hidden)
            self.action_proj_in = DomainHead(shapes.action_channels, d.hidden)
        if self.ends:
            self.norm_moe_gen = RmsNorm(d.hidden, d.rms_eps)
            self.proj_out = nn.Linear(d.hidden, d.latent_values)
            self.action_proj_out = DomainHead(d.hidden, shapes.action_channels)

    def forward(self, *inputs: Any) -> Any:
        """Return hidden states (generated, hidden), or velocities of noisy patches and noisy rows.

        :param inputs: The first segment: ``patches`` (patches, latent values), ``action`` (rows,
            channels) and ``time`` (1, hidden), the timestep's embedding; the others: ``hidden``. Then
            ``cos`` and ``sin`` float32 (generated, head width), ``context_keys`` and
            ``context_values`` (layers, key/value heads, text, head width), positions applied.
        """
        *head, cos, sin, keys, values = inputs
        hidden = self._embed(*head) if self.begins else head[0]
        cos, sin = cos[:, None], sin[:, None]
        for i, layer in enumerate(self.layers.values()):
            hidden = layer(hidden, cos, sin, keys[i], values[i])
        if not self.ends:
            return hidden
        hidden = self.norm_moe_gen(hidden)
        return (
            self.proj_out(hidden[self.clean:self.patches]).float(),
            self.action_proj_out(hidden[self.patches + self.clean_rows:]).float())

    def _embed(self, patches: Any, action: Any, time: Any) -> Any:
        vision = self.proj_in(patches)
        rows = self.action_proj_in(action)
        # The observed frame and a state row are clean: they carry no time.
        given = self.clean_rows
        parts = (vision[:self.clean], vision[self.clean:] + time, *([rows[:given]] if given else []))
        return torch.cat((*parts, rows[given:] + time))
