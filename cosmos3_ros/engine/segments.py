"""Which graphs there are, what goes in and out of each, and how a tower is cut into segments."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from .dimensions import Dimensions, Shapes
from .errors import EngineError

Tower = Literal['vision', 'language', 'generation']
TOWERS: tuple[Tower, ...] = ('vision', 'language', 'generation')
Kind = Literal['compute', 'float32', 'int64', 'bool']
Range = tuple[int, int, int]

DEFAULT_SEGMENT_BYTES = 2_600_000_000  # six of Nano's layers in bfloat16, or five and the logits


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output of a graph.

    :param kind: Element type; ``compute`` is the precision's (bfloat16, float32).
    :param shape: Sizes, or names of sizes that vary within a :class:`Profile`.
    """

    name: str
    kind: Kind
    shape: tuple[int | str, ...]

    def sizes(self, values: dict[str, int]) -> tuple[int, ...]:
        """Return the shape with the names filled in."""
        return tuple(values[part] if isinstance(part, str) else part for part in self.shape)


@dataclass(frozen=True, slots=True)
class Profile:
    """A way to use a graph: smallest, usual and largest value of each varying size."""

    name: str
    ranges: dict[str, Range]

    def values(self, which: int) -> dict[str, int]:
        """Return all sizes at their smallest (0), usual (1) or largest (2)."""
        return {name: sizes[which] for name, sizes in self.ranges.items()}


def usual_passes(tower: Tower, shapes: Shapes) -> dict[str, dict[str, int]]:
    """Return the passes that a node makes, by name, with their sizes."""
    if tower == 'vision':
        return {'clip': {'frames': shapes.max_frames}}
    if tower == 'generation':
        return {'denoising step': {'text': min(256, shapes.max_context)}}
    prompt = _usual_prompt(shapes)
    return {
        'prefill': {'tokens': prompt, 'cached': 1, 'rows': shapes.vision_tokens, 'attended': prompt + 1},
        'decode': {'tokens': 1, 'cached': shapes.cache, 'rows': 1, 'attended': shapes.cache + 1}}


def _usual_prompt(shapes: Shapes) -> int:
    return max(2, shapes.max_prompt * 3 // 4)


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive layers of one tower: one ONNX file, one plan.

    :param index: Position in the chain, from 0.
    :param count: Segments of the tower.
    :param first: First layer; ``last`` is one past the last.
    :param weight_bytes: Of its weights in bfloat16.
    """

    tower: Tower
    index: int
    count: int
    first: int
    last: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    profiles: tuple[Profile, ...]
    weight_bytes: int

    @property
    def name(self) -> str:
        """Name of its files, e.g. ``language-1-of-6``."""
        return f'{self.tower}-{self.index + 1}-of-{self.count}'

    @property
    def first_input(self) -> str:
        """Name of the input that the segment before it produces."""
        return self.inputs[0].name


def cut_tower(
    tower: Tower, dimensions: Dimensions, shapes: Shapes, max_bytes: int = DEFAULT_SEGMENT_BYTES,
) -> tuple[Segment, ...]:
    """Return the segments of a tower, none heavier than ``max_bytes`` where a layer allows it.

    The weights of one segment are in memory while it is exported and built, several times over. The
    cut counts two bytes a weight whatever the precision, so that precisions compare stage by stage.

    :raises EngineError: Unknown tower, or the checkpoint has no such tower.
    """
    as_tower(tower)
    if tower == 'vision':
        return (_vision(dimensions, shapes),)
    if tower == 'generation' and not dimensions.action_width:
        raise EngineError('tower: generation arrived, but the checkpoint has no action heads')
    layer = _layer_parameters(dimensions) * 2
    ending = dimensions.vocabulary * dimensions.hidden * 2 if tower == 'language' else 0
    # Grouping evenly keeps peak memory even; the last segment carries the logits as well.
    per_segment = max(1, max_bytes // layer)
    count = min(dimensions.layers, -(-(dimensions.layers + -(-ending // layer)) // per_segment))
    bounds = _even_bounds(dimensions.layers, count, -(-ending // layer))
    make = _language if tower == 'language' else _generation
    return tuple(
        make(dimensions, shapes, i, count, first, last,
             (last - first) * layer + (ending if last == dimensions.layers else 0))
        for i, (first, last) in enumerate(pairwise(bounds)))


def as_tower(name: str) -> Tower:
    """Return ``name`` as a tower.

    :raises EngineError: There is no such tower.
    """
    for tower in TOWERS:
        if tower == name:
            return tower
    raise EngineError(f'tower: {name!r} arrived, one of {", ".join(TOWERS)} is allowed')


def _even_bounds(layers: int, count: int, ending: int) -> list[int]:
    """Cut ``layers`` layers and an ending worth ``ending`` layers into ``count`` similar parts."""
    total = layers + ending
    inner = [min(layers - (count - i), round(total * i / count)) for i in range(1, count)]
    return [0, *inner, layers]


def _layer_parameters(d: Dimensions) -> int:
    attention = d.hidden * d.head_dim * (2 * d.heads + 2 * d.kv_heads)
    return attention + 3 * d.hidden * d.intermediate


def _vision(d: Dimensions, shapes: Shapes) -> Segment:
    width, joined = d.vision_hidden, d.vision_hidden * d.vision_merge ** 2
    block = 4 * width * width + 2 * width * d.vision_intermediate
    merger = joined * (joined + d.hidden)
    patches = shapes.frame_grid[0] * shapes.frame_grid[1]
    tokens = patches // d.vision_merge ** 2
    return Segment(
        'vision', 0, 1, 0, d.vision_layers,
        (Port('patches', 'compute', ('frames', patches, d.patch_values)),),
        (Port('tokens', 'compute', ('frames', tokens, d.hidden)),
         Port('deepstack', 'compute', (len(d.deepstack), 'frames', tokens, d.hidden))),
        (Profile('clip', {'frames': (1, shapes.max_frames, shapes.max_frames)}),),
        2 * (d.vision_layers * block + (1 + len(d.deepstack)) * merger + d.patch_values * width))


def _language(
    d: Dimensions, shapes: Shapes, index: int, count: int, first: int, last: int, size: int,
) -> Segment:
    cache = (last - first, d.kv_heads)
    inputs = [
        Port('hidden', 'compute', ('tokens', d.hidden)),
        Port('cos', 'float32', ('tokens', d.head_dim)), Port('sin', 'float32', ('tokens', d.head_dim)),
        Port('mask', 'bool', ('tokens', 'attended')),
        Port('cache_keys', 'compute', (*cache, 'cached', d.head_dim)),
        Port('cache_values', 'compute', (*cache, 'cached', d.head_dim))]
    if first < len(d.deepstack):
        inputs += [
            Port('slot', 'int64', ('tokens',)),
            Port('deepstack', 'compute', (len(d.deepstack), 'rows', d.hidden))]
    ends = last == d.layers
    if ends:
        inputs.append(Port('pick', 'compute', (1, 'tokens')))
    outputs = (
        Port('logits', 'float32', (1, d.vocabulary)) if ends
        else Port('states', 'compute', ('tokens', d.hidden)),
        Port('keys', 'compute', (*cache, 'tokens', d.head_dim)),
        Port('values', 'compute', (*cache, 'tokens', d.head_dim)))
    usual, most, rows = _usual_prompt(shapes), shapes.max_prompt, shapes.vision_tokens
    # One profile for prefill and decode: with two, TensorRT-RTX 1.7.1 stores most weights twice (650
    # instead of 397 MB for one of Nano's layers). An empty cache is one masked slot, because no size
    # may be zero.
    profile = Profile('prefill or decode', {
        'tokens': (1, usual, most), 'cached': (1, 1, shapes.cache), 'rows': (1, rows, rows),
        'attended': (2, usual + 1, most + shapes.cache)})
    return Segment('language', index, count, first, last, tuple(inputs), outputs, (profile,), size)


def _generation(
    d: Dimensions, shapes: Shapes, index: int, count: int, first: int, last: int, size: int,
) -> Segment:
    tokens = shapes.generated_tokens
    context = (last - first, d.kv_heads, 'text', d.head_dim)
    inputs: tuple[Port, ...] = (
        Port('patches', 'compute', (shapes.generated_patches, d.latent_values)),
        Port('action', 'compute', (shapes.action_rows, shapes.action_channels)),
        Port('time', 'compute', (1, d.hidden)),
    ) if first == 0 else (Port('hidden', 'compute', (tokens, d.hidden)),)
    inputs += (
        Port('cos', 'float32', (tokens, d.head_dim)), Port('sin', 'float32', (tokens, d.head_dim)),
        Port('context_keys', 'compute', context), Port('context_values', 'compute', context))
    outputs = (
        Port('patch_velocity', 'float32', (shapes.generated_patches - shapes.clean_patches, d.latent_values)),
        Port('action_velocity', 'float32', (shapes.action_rows - shapes.clean_rows, shapes.action_channels)),
    ) if last == d.layers else (Port('states', 'compute', (tokens, d.hidden)),)
    usual = min(256, shapes.max_context)
    return Segment(
        'generation', index, count, first, last, inputs, outputs,
        (Profile('step', {'text': (1, usual, shapes.max_context)}),), size)
