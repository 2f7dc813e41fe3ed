"""Do two checkpoints share their understanding tower?

NVIDIA's policy fine-tuning leaves that tower alone, so a policy and a reasoner may be served by one
resident copy. That is checked, not assumed: the tower's weights are hashed as they lie in the file.
"""

import hashlib
import json
from pathlib import Path
import re
from typing import Any

from .checkpoint import CheckpointError

# What does not belong to the tower: the generation tower, its heads and the sound's
# (``_COSMOS3_DROPPED_UNIFIED_CHECKPOINT_KEYS`` of transformers' cosmos3_omni).
_GENERATOR_KEY = re.compile(
    r'\.add_[qkv]_proj\.|\.to_add_out\.|\.norm_added_[qk]\.|moe_gen|^proj_(in|out)\.|^time_embedder\.'
    r'|^(audio|action)_(proj_in|proj_out)\.|^(audio|action)_modality_embed$')
_BLOCK = 1 << 22


def understanding_hash(directory: str | Path) -> str:
    """Return 16 hexadecimal digits over names, types, shapes and bytes of the understanding tower.

    Reads ``transformer/`` in blocks of 4 MiB; how it is cut into shards does not matter.

    :raises CheckpointError: No weights there, or a file that is not safetensors.
    """
    folder = Path(directory) / 'transformer'
    places: dict[str, tuple[Path, int, dict[str, Any]]] = {}
    for path in sorted(folder.glob('*.safetensors')):
        start, header = read_header(path)
        places |= {
            name: (path, start, entry) for name, entry in header.items()
            if name != '__metadata__' and not _GENERATOR_KEY.search(name)}
    if not places:
        raise CheckpointError(f'checkpoint: {folder} holds no weights of an understanding tower')
    total = hashlib.sha256()
    for name in sorted(places):
        path, start, entry = places[name]
        total.update(json.dumps([name, entry['dtype'], entry['shape']]).encode())
        first, end = entry['data_offsets']
        with path.open('rb') as file:
            file.seek(start + first)
            for offset in range(first, end, _BLOCK):
                total.update(file.read(min(_BLOCK, end - offset)))
    return total.hexdigest()[:16]


def read_header(path: Path) -> tuple[int, dict[str, Any]]:
    """Return where a safetensors file's data start, and its header.

    Format: eight bytes of little-endian length, then JSON (safetensors specification).

    :raises CheckpointError: The file is cut short or of another format.
    """
    try:
        with path.open('rb') as file:
            length = int.from_bytes(file.read(8), 'little')
            if not 2 <= length <= path.stat().st_size - 8:
                raise ValueError(f'header of {length} bytes')
            header = json.loads(file.read(length))
        if not isinstance(header, dict):
            raise ValueError('header is no object')
    except (OSError, ValueError) as error:
        raise CheckpointError(f'checkpoint: {path} is not safetensors: {error}') from error
    return 8 + length, header
