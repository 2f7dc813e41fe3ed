"""Stored inputs of a segment and what float32 torch makes of them: what the gate compares with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cosmos3_ros.resources import require

from .dimensions import Dimensions, Shapes
from .errors import EngineError
from .graphs.blocks import rotary_table
from .modules import time_embedding
from .segments import Segment, Tower
from .weights import WeightSource

torch = require('torch', 'model')

Tensors = dict[str, Any]
"""Port name -> torch tensor."""

Cases = dict[str, Tensors]
"""Case name -> inputs, or outputs."""

_PROMPT = 24
_SPARE = 8
_TEXT = 12
_TIMESTEP = 937.0  # the second of the four steps at shift 5 (facts sheet 2b.6)


def seeded_inputs(
    tower: Tower, dimensions: Dimensions, shapes: Shapes, source: WeightSource, seed: int,
) -> Cases:
    """Return inputs of a tower's first segment, drawn from ``seed``.

    Values are representable in bfloat16, so that every precision starts from the same numbers. The
    language model's ``decode`` case is completed by :func:`continue_decode` once its prefill ran.
    """
    stream = torch.Generator().manual_seed(seed)
    if tower == 'vision':
        shape = (shapes.max_frames, shapes.frame_grid[0] * shapes.frame_grid[1], dimensions.patch_values)
        return {'clip': {'patches': _round(torch.rand(shape, generator=stream) * 2.0 - 1.0)}}
    if tower == 'language':
        return _language_inputs(dimensions, shapes, source, stream)
    return _generation_inputs(dimensions, shapes, source, stream)


def follow(inputs: Cases, outputs: Cases, following: Segment) -> Cases:
    """Return the inputs of ``following``.

    :param inputs: Of the tower: whatever later segments read.
    :param outputs: Of the segment before ``following``.
    """
    cases: Cases = {}
    for case, given in inputs.items():
        shared = {port.name: given[port.name] for port in following.inputs if port.name in given}
        cases[case] = _fit(shared | {'hidden': _round(outputs[case]['states'])}, following)
    return cases


def continue_decode(segment: Segment, inputs: Tensors, outputs: Tensors) -> Tensors:
    """Return the ``decode`` inputs with the cache that a prefill of this segment left.

    :param inputs: Decode inputs whose cache has the right number of slots.
    :param outputs: Of the prefill case.
    """
    filled = dict(inputs)
    for cache, new in (('cache_keys', 'keys'), ('cache_values', 'values')):
        slots = inputs['mask'].shape[1] - 1
        layers, heads, tokens, width = outputs[new].shape
        filled[cache] = torch.zeros(layers, heads, slots, width)
        filled[cache][:, :, :tokens] = _round(outputs[new])
    return _fit(filled, segment)


def save_vectors(path: Path, inputs: Cases, outputs: Cases) -> None:
    """Write inputs and outputs to one safetensors file."""
    tensors = {
        f'{case}/{side}/{name}': tensor.contiguous()
        for side, cases in (('in', inputs), ('out', outputs))
        for case, part in cases.items() for name, tensor in part.items()}
    require('safetensors.torch', 'model').save_file(tensors, path)


def load_vectors(path: Path) -> tuple[Cases, Cases]:
    """Read what :func:`save_vectors` wrote.

    :raises EngineError: Not such a file.
    """
    sides: dict[str, Cases] = {'in': {}, 'out': {}}
    try:
        with require('safetensors', 'model').safe_open(path, framework='pt') as file:
            for key in file.keys():  # noqa: SIM118 (no mapping)
                case, side, name = key.split('/')
                sides[side].setdefault(case, {})[name] = file.get_tensor(key)
    except (OSError, ValueError, KeyError) as error:
        raise EngineError(f'vectors: {path} cannot be read: {error!r}; build the engine again') from error
    return sides['in'], sides['out']


def cast_inputs(segment: Segment, inputs: Mapping[str, Any], dtype: str) -> Tensors:
    """Return the inputs in the order of the segment's ports, ``compute`` ones in ``dtype``."""
    kind = getattr(torch, dtype)
    return {
        port.name: inputs[port.name].to(kind) if port.kind == 'compute' else inputs[port.name]
        for port in segment.inputs}


def _language_inputs(d: Dimensions, shapes: Shapes, source: WeightSource, stream: Any) -> Cases:
    tokens = min(_PROMPT, shapes.max_prompt)
    spare = min(_SPARE, shapes.cache - tokens)
    ids = torch.randint(0, d.vocabulary, (tokens + 1,), generator=stream)
    embedded = source.tensor('embed_tokens.weight', (d.vocabulary, d.hidden))[ids].float()
    vision = slice(tokens // 4, tokens // 2)
    rows = vision.stop - vision.start
    features = torch.randn(len(d.deepstack), rows, d.hidden, generator=stream)
    slot = torch.full((tokens,), -1, dtype=torch.int64)
    slot[vision] = torch.arange(rows)
    positions = torch.arange(tokens + 1, dtype=torch.float32).expand(3, -1).clone()
    positions[1:, vision] += torch.arange(rows) % 3  # rows and columns run apart inside a picture
    cos, sin = rotary_table(d, positions)
    seen = torch.zeros(tokens, tokens + 1, dtype=torch.bool)
    seen[:, 1:] = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    step = torch.zeros(1, tokens + spare + 1, dtype=torch.bool)
    step[:, :tokens] = step[:, -1:] = True
    return {
        'prefill': {
            'hidden': _round(embedded[:-1]), 'cos': cos[:-1], 'sin': sin[:-1], 'mask': seen, 'slot': slot,
            'deepstack': _round(features), 'pick': torch.eye(tokens)[-1:]},
        'decode': {
            'hidden': _round(embedded[-1:]), 'cos': cos[-1:], 'sin': sin[-1:], 'mask': step,
            'slot': torch.tensor([-1]), 'deepstack': torch.zeros(len(d.deepstack), 1, d.hidden),
            'pick': torch.ones(1, 1)}}


def _generation_inputs(d: Dimensions, shapes: Shapes, source: WeightSource, stream: Any) -> Cases:
    text = min(_TEXT, shapes.max_context)
    _, rows, columns = shapes.latent_grid
    place = torch.arange(shapes.generated_patches)
    time = torch.cat((1.6 * (place // (rows * columns)), 0.4 * torch.arange(shapes.action_rows)))
    zeros = torch.zeros(shapes.action_rows)
    positions = torch.stack((
        text + 15000 + time, torch.cat((place // columns % rows, zeros)),
        torch.cat((place % columns, zeros))))
    cos, sin = rotary_table(d, positions)
    # As many layers as the largest segment has: every segment takes the first ones.
    context = (d.layers, d.kv_heads, text, d.head_dim)
    return {'step': {
        'patches': _round(torch.randn(shapes.generated_patches, d.latent_values, generator=stream)),
        'action': _round(torch.randn(shapes.action_rows, shapes.action_channels, generator=stream)),
        'time': _round(time_embedding(d, source, _TIMESTEP)), 'cos': cos, 'sin': sin,
        'context_keys': _round(torch.randn(context, generator=stream)),
        'context_values': _round(torch.randn(context, generator=stream))}}


def first_inputs(segment: Segment, inputs: Cases) -> Cases:
    """Return what of ``inputs`` the first segment takes: its layers of caches and contexts."""
    return {case: _fit(given, segment) for case, given in inputs.items()}


def _fit(given: Tensors, segment: Segment) -> Tensors:
    """Complete a case for a segment: an empty cache where there is none, its own layers of a context."""
    fitted = dict(given)
    layers = segment.last - segment.first
    for port in segment.inputs:
        if port.name in ('context_keys', 'context_values'):
            fitted[port.name] = given[port.name][:layers]
        if port.name in ('cache_keys', 'cache_values'):
            held = fitted.get(port.name)
            slots = fitted['mask'].shape[1] - fitted['hidden'].shape[0]
            if held is None or held.shape[0] != layers or held.shape[2] != slots:
                fitted[port.name] = torch.zeros(layers, port.shape[1], slots, port.shape[3])
    return fitted


def _round(tensor: Any) -> Any:
    return tensor.to(torch.bfloat16).float()
