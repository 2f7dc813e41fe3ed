"""Make a segment's torch module and fill it from a weight source."""

from typing import Any

from cosmos3_ros.resources import require

from .dimensions import Dimensions, Shapes
from .graphs.generation import GenerationSegment
from .graphs.language import LanguageSegment
from .graphs.vision import VisionTower, grid_constants
from .segments import Segment
from .weights import WeightSource

torch = require('torch', 'model')

_CONSTANTS = ('positions', 'cos', 'sin')


def make_module(
    segment: Segment, dimensions: Dimensions, shapes: Shapes, source: WeightSource, dtype: str = 'float32',
) -> Any:
    """Return the module of a segment with its weights in ``dtype``, on the CPU.

    Tensors are read and converted one by one, so no second copy of the segment is in memory.

    :raises EngineError: A weight is missing or has another shape.
    """
    kind = getattr(torch, dtype)
    with torch.device('meta'):
        module = _empty(segment, dimensions, shapes)
    filled: dict[str, Any] = {}
    for name, tensor in module.state_dict().items():
        if segment.tower == 'vision' and name in _CONSTANTS:
            continue
        filled[name] = torch.nn.Parameter(
            _read(source, name, tuple(tensor.shape), dimensions, shapes).to(kind), requires_grad=False)
    if segment.tower == 'vision':
        table = source.tensor('pos_embed.weight', (dimensions.vision_positions, dimensions.vision_hidden))
        constants = grid_constants(dimensions, shapes.frame_grid, table.float())
        filled |= {**constants, 'positions': constants['positions'].to(kind)}
    module.load_state_dict(filled, assign=True)
    return module.eval().requires_grad_(False)


def to_compute(module: Any, dtype: str) -> Any:
    """Convert a module's weights in place; rotary constants stay float32."""
    kind = getattr(torch, dtype)
    for parameter in module.parameters():
        parameter.data = parameter.data.to(kind)
    for name, buffer in module.named_buffers():
        if name == 'positions':
            buffer.data = buffer.data.to(kind)
    return module


def time_embedding(
    dimensions: Dimensions, source: WeightSource, timestep: float, scale: float = 0.001,
) -> Any:
    """Return the float32 embedding of a timestep, (1, hidden).

    Sinusoids of 256 channels (cosine first) of ``timestep * scale``, then two matrices with SiLU
    between, all in float32 (diffusers ``Timesteps``, ``TimestepEmbedding``).
    """
    half = 128
    rates = torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(half, dtype=torch.float32) / half)
    angles = torch.tensor([[timestep * scale]], dtype=torch.float32) * rates
    states = torch.cat((angles.cos(), angles.sin()), dim=-1)
    for i, width in ((1, 2 * half), (2, dimensions.hidden)):
        weight = source.tensor(f'time_embedder.linear_{i}.weight', (dimensions.hidden, width)).float()
        states = states.to(weight.device) @ weight.T + source.tensor(
            f'time_embedder.linear_{i}.bias', (dimensions.hidden,)).float()
        states = torch.nn.functional.silu(states) if i == 1 else states
    return states


def _empty(segment: Segment, dimensions: Dimensions, shapes: Shapes) -> Any:
    if segment.tower == 'vision':
        return VisionTower(dimensions, shapes.frame_grid)
    if segment.tower == 'language':
        return LanguageSegment(dimensions, segment.first, segment.last)
    return GenerationSegment(dimensions, shapes, segment.first, segment.last)


def _read(source: WeightSource, name: str, shape: tuple[int, ...], d: Dimensions, shapes: Shapes) -> Any:
    if name == 'patch_embed.proj.weight':
        patch = round((d.patch_values / 6) ** 0.5)
        return source.tensor(name, (shape[0], 3, 2, patch, patch)).reshape(shape)
    head, _, part = name.partition('.')
    if head == 'action_proj_in':
        value = _domain(source, head, part, (d.action_width, d.hidden), d, shapes)
        if part == 'weight':
            return value[:shapes.action_channels].clone()
        # The modality's embedding is added to every action row: one bias with the head's.
        return value + source.tensor('action_modality_embed', (d.hidden,))
    if head == 'action_proj_out':
        return _domain(source, head, part, (d.hidden, d.action_width), d, shapes)[
            ..., :shapes.action_channels].clone()
    return source.tensor(name, shape)


def _domain(
    source: WeightSource, head: str, part: str, sides: tuple[int, int], d: Dimensions, shapes: Shapes,
) -> Any:
    """Return one domain's matrix (input, output), or its bias."""
    if part == 'bias':
        return source.tensor(f'{head}.bias.weight', (d.domains, sides[1]))[shapes.domain].clone()
    # The table holds all domains; a copy lets go of the others.
    table = source.tensor(f'{head}.fc.weight', (d.domains, sides[0] * sides[1]))
    return table[shapes.domain].view(*sides).clone()
