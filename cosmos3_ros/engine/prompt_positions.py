"""Rotary positions of a prompt with videos."""

from typing import Any

from cosmos3_ros.resources import require

from .errors import EngineError

torch = require('torch', 'model')


def prompt_positions(visual: Any, grids: Any, merge: int = 2) -> tuple[Any, Any, float]:
    """Return positions (3, tokens), the slots of vision tokens, and the position of the next token.

    Text counts on all three axes alike. A temporal patch stands still in time while rows and columns
    count from where the text was; the text after it goes on past its longer side (transformers 5.23
    ``Qwen3VLModel.get_rope_index``).

    :param visual: bool (tokens), True where a vision token stands.
    :param grids: int (clips, 3): temporal patches, and patches in height and width.
    :raises EngineError: The grids announce other vision tokens than there are.
    """
    blocks = [(int(h) // merge, int(w) // merge) for t, h, w in grids.tolist() for _ in range(t)]
    wanted, found = sum(h * w for h, w in blocks), int(visual.sum())
    if wanted != found:
        raise EngineError(f'prompt: {found} vision tokens stand in it, the grids announce {wanted}')
    positions = torch.zeros(3, len(visual))
    place, now = 0, 0
    while place < len(visual):
        if not visual[place]:
            positions[:, place] = now
            place, now = place + 1, now + 1
            continue
        height, width = blocks.pop(0)
        block = slice(place, place + height * width)
        if not bool(visual[block].all()):
            raise EngineError(f'prompt: the vision tokens at {place} are fewer than {height} x {width}')
        positions[0, block] = now
        positions[1, block] = now + torch.arange(height).repeat_interleave(width).float()
        positions[2, block] = now + torch.arange(width).repeat(height).float()
        place, now = block.stop, now + max(height, width)
    slots = torch.where(visual, visual.long().cumsum(0) - 1, -1)
    return positions, slots, float(now)
