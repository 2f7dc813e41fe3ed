"""Put trained tensors into the weight files of a checkpoint on disk, whole or in shards."""

from collections.abc import Mapping
import json
from pathlib import Path
from typing import Any

from ..resources import require
from .settings import TrainingError

INDEX_SUFFIX = '.index.json'


def weight_files(folder: Path) -> dict[str, list[str]]:
    """Return the safetensors files of a folder and the tensors that each holds.

    :raises TrainingError: There are none, or one cannot be read.
    """
    safe_open = require('safetensors', 'model').safe_open
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob('*.safetensors')):
        try:
            with safe_open(path, framework='pt') as file:
                found[path.name] = list(file.keys())
        except Exception as error:  # safetensors raises its own and OS errors
            raise TrainingError(f'{path} cannot be read: {error}') from error
    if not found:
        raise TrainingError(f'{folder} holds no *.safetensors')
    return found


def replace_tensors(folder: Path, tensors: Mapping[str, Any], dtype: Any = None) -> int:
    """Write ``tensors`` over those of the same names; each file is replaced as a whole, or not at all.

    :param folder: E.g. ``transformer/`` of a checkpoint.
    :param tensors: By name in the file. All must be there already, with the same shape.
    :param dtype: What every tensor of a touched file is stored in; None keeps each one's type.
    :returns: Tensors written.
    :raises TrainingError: A name or shape that the files do not have.
    """
    library = require('safetensors.torch', 'model')
    places = weight_files(folder)
    unknown = set(tensors) - {name for names in places.values() for name in names}
    if unknown:
        raise TrainingError(
            f'{folder}: {len(unknown)} trained tensors are not in its files, e.g. {sorted(unknown)[0]}')
    for file, names in places.items():
        if dtype is None and not set(names) & set(tensors):
            continue
        path = folder / file
        held = library.load_file(path)
        for name in names:
            new = tensors.get(name, held[name]).detach().cpu()
            if new.shape != held[name].shape:
                raise TrainingError(
                    f'{path}: {name} is {tuple(held[name].shape)}, {tuple(new.shape)} was trained')
            held[name] = new.to(dtype or held[name].dtype).contiguous().clone()
        scratch = path.with_name(path.name + '.part')
        library.save_file(held, scratch, metadata={'format': 'pt'})
        scratch.chmod(0o644)  # safetensors writes for the owner only; others' nodes read these files too
        scratch.replace(path)
    return len(tensors)


def total_bytes(directory: Path) -> int:
    """Return the size of all files below ``directory``."""
    return sum(path.stat().st_size for path in directory.rglob('*') if path.is_file())


def update_json(path: Path, changes: Mapping[str, Any]) -> None:
    """Change some keys of a JSON file, in one step."""
    content = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}
    content.update(changes)
    scratch = path.with_name(path.name + '.part')
    scratch.write_text(json.dumps(content, indent=2, sort_keys=True) + '\n', encoding='utf-8')
    scratch.replace(path)
