"""Which layers of a generation tower go to which GPU, found by arithmetic before anything is loaded.

Super's generation tower is 62.4 GB in bfloat16: more than most GPUs hold. Layers are laid out in order, each
GPU takes as many as fit beside what else it has to hold; the first holds the picture encoder and the input
heads, the last the output heads. What passes from one GPU to the next is one hidden state per token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .checkpoint import CheckpointError
from .memory_need import GIGA, layer_bytes, working_bytes
from .tower_shape import TowerShape


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """A layout of a tower over devices.

    :param devices: Names, e.g. ``cuda:0``.
    :param spans: Per device the first layer and the one after its last; a device may hold none.
    :param weights_bytes: Per device, layers only.
    :param working_bytes: What each device needs besides.
    """

    devices: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    weights_bytes: tuple[int, ...]
    working_bytes: int

    def device_of(self, layer: int) -> str:
        """Return the device of a layer.

        :raises CheckpointError: There is no such layer.
        """
        for device, (first, end) in zip(self.devices, self.spans, strict=True):
            if first <= layer < end:
                return device
        raise CheckpointError(f'device map: layer {layer} arrived, 0 to {self.spans[-1][1] - 1} are there')

    def tensor_devices(self, names: Sequence[str]) -> dict[str, str]:
        """Return the device of each tensor of the generation tower, heads included.

        :param names: Tensors of ``Cosmos3OmniTransformer``; ``layers.7.…`` go with their layer, input heads
            to the first device, output heads and the last norm to the last one.
        """
        used = [d for d, (first, end) in zip(self.devices, self.spans, strict=True) if end > first]
        places = {}
        for name in names:
            if name.startswith('layers.'):
                places[name] = self.device_of(int(name.split('.')[1]))
            else:
                last = name.startswith(('proj_out', 'action_proj_out', 'norm_moe_gen'))
                places[name] = used[-1] if last else used[0]
        return places

    def __str__(self) -> str:
        """Return the layers and the gigabytes per device."""
        return ', '.join(
            f'{device}: layers {first}..{end - 1}, {(held + self.working_bytes) / GIGA:.1f} GB'
            for device, (first, end), held in zip(self.devices, self.spans, self.weights_bytes, strict=True)
            if end > first)


def plan_devices(
    shape: TowerShape, dtype: str, generated_tokens: int, free_bytes: Sequence[tuple[str, int]],
) -> DevicePlan:
    """Lay out a generation tower, evenly over as few devices as hold it.

    :param dtype: As :func:`memory_need.estimate_need` knows it.
    :param generated_tokens: Video and action tokens of a request.
    :param free_bytes: Device and its free memory, in the order in which layers are to be laid out.
    :raises CheckpointError: All of them together are too small; says what is missing.
    """
    one, working = layer_bytes(shape, dtype), working_bytes(shape, dtype, generated_tokens)
    room = [max(0, (free - working) // one) for _, free in free_bytes]
    for count in range(1, len(room) + 1):
        if sum(room[:count]) >= shape.layers:
            return _spread(shape, free_bytes, room[:count], one, working)
    need = shape.layers * one + len(room) * working
    free = sum(bytes_ for _, bytes_ in free_bytes)
    raise CheckpointError(
        f'device: {need / GIGA:.1f} GB are needed for {shape.layers} layers in {dtype} '
        f'({one / GIGA:.2f} each and {working / GIGA:.1f} per device to work in), {free / GIGA:.1f} are '
        f'free on {", ".join(name for name, _ in free_bytes) or "no device"}, room for {sum(room)} layers; '
        'use float8, more devices or a smaller checkpoint')


def _spread(
    shape: TowerShape, free_bytes: Sequence[tuple[str, int]], room: list[int], one: int, working: int,
) -> DevicePlan:
    spans, weights, first = [], [], 0
    for i, most in enumerate(room):
        left = shape.layers - first
        share = -(-left // (len(room) - i))  # an even share of what is left
        later = sum(room[i + 1:])
        count = min(most, max(share, left - later))
        spans.append((first, first + count))
        weights.append(count * one)
        first += count
    return DevicePlan(
        tuple(name for name, _ in free_bytes[:len(room)]), tuple(spans), tuple(weights), working)
