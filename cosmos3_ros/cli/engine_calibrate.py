"""Find FP8's scales on the moments of an episode; see :mod:`engine.scales`."""

from collections.abc import Callable
from pathlib import Path

from ..engine.scales import Scales
from ..engine.towers import TorchTowers, resident_bytes
from ..model.checkpoint import Checkpoint
from ..resources import require
from .console import CommandError
from .engine_moments import Scene, observe, read_moments, shapes_of


def calibrate_on_data(
    checkpoint: Checkpoint, data: Path, moments: int, device: str, dtype: str,
    say: Callable[[str], None] = lambda _text: None,
) -> Scales:
    """Let the towers answer and act on moments spread over an episode, and note their largest inputs.

    A moment is a clip with a question, and a chunk with all its denoising steps, with and without text.

    :param data: A LeRobot v3 dataset in the layout of DROID.
    :param dtype: torch's name of the type that the towers compute in.
    :raises CommandError: No usable video, or too little memory.
    """
    found, missing = read_moments(data, moments)
    if missing:
        say(f'grey pictures stand for the missing cameras {", ".join(missing)}')
    scene = Scene(checkpoint)
    prepared = [scene.prepare(moment) for moment in found]
    shapes = shapes_of(prepared[0])
    needed, free = resident_bytes(checkpoint.directory, shapes, dtype), _free_bytes(device)
    if needed > free:
        raise CommandError(
            f'device: {device} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed for all towers '
            f'in {dtype}; take --dtype bfloat16 or a larger --device')
    say(f'{len(prepared)} moments, {needed / 1e9:.1f} GB of weights on {device}')
    towers = TorchTowers(checkpoint.directory, shapes, device, dtype)
    amax = observe(towers, prepared)
    taken = {tower: names for tower, names in amax.items() if names}
    return Scales(
        checkpoint.content_hash, checkpoint.label, data.name, len(prepared), taken, towers.excluded())


def _free_bytes(device: str) -> int:
    if device != 'cpu':
        return int(require('torch', 'model').cuda.mem_get_info(device)[0])
    for line in Path('/proc/meminfo').read_text(encoding='ascii').splitlines():
        name, _, amount = line.partition(':')
        if name == 'MemAvailable':
            return int(amount.split()[0]) * 1024
    raise CommandError('device: this system does not say how much memory is available; name a cuda device')
