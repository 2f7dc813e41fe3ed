"""Open a checkpoint: a directory or a Hub repository in the layout of ``nvidia/Cosmos3-Nano``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
import hashlib
import json
from pathlib import Path
from typing import Any

from cosmos3_ros.resources import require, shared_file

from .checkpoint_init import METADATA_FILE
from .random_checkpoint import RANDOM_TINY, ensure_random_checkpoint
from .sampling import Sampling

DEFAULT = 'cosmos3-tiny'
PACKAGED = {DEFAULT: ('checkpoints', 'cosmos3-tiny')}
# Published checkpoints carry no cosmos3_ros.json: what is known about them stands here.
PUBLISHED: dict[str, dict[str, Any]] = {
    'nvidia/Cosmos3-Nano-Policy-DROID': {
        'contract': 'droid_joint', 'view': [540, 640], 'prompt_variant': 'plain'},
    'nvidia/Cosmos3-Edge-Policy-DROID': {
        'contract': 'droid_joint', 'view': [540, 640], 'prompt_variant': 'json'},
    'nvidia/Cosmos3-Nano': {'contract': 'eef_delta', 'view': [540, 640], 'prompt_variant': 'json'},
    'nvidia/Cosmos3-Super': {'contract': 'eef_delta', 'view': [540, 640], 'prompt_variant': 'json'},
}
GENERATOR_FILES = (
    'model_index.json', 'transformer/config.json', 'vae/config.json', 'scheduler/scheduler_config.json',
    'text_tokenizer/tokenizer.json', 'text_tokenizer/tokenizer_config.json')
REASONER_FILES = (
    'config.json', 'tokenizer.json', 'tokenizer_config.json', 'preprocessor_config.json',
    'video_preprocessor_config.json', 'generation_config.json', 'model.safetensors.index.json')


class CheckpointError(ValueError):
    """A checkpoint cannot be used. The text says what is wrong and which parameter to change."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint on disk.

    :param name: How reports call it.
    :param contract: Action contract that its heads were trained for.
    :param trained: False for random weights.
    :param content_hash: First 8 hexadecimal digits of the SHA-256 over all weights.
    :param view: Height and width of the composed camera view.
    :param prompt_variant: See ``generator/prompt.py``.
    :param action: What the contract ``eef_delta`` needs besides the weights; see
        ``generator/eef_settings.py``.
    :param sampling: How it asks to be sampled; what it leaves out is the contract's.
    """

    directory: Path
    name: str
    contract: str
    trained: bool
    content_hash: str
    view: tuple[int, int]
    prompt_variant: str
    action: Mapping[str, Any] = field(default_factory=dict)
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def label(self) -> str:
        """Name and content hash, as :class:`contracts.ModelIdentity` carries them."""
        return f'{self.name}@{self.content_hash}'

    @classmethod
    def open(
        cls, source: str | Path, *, revision: str | None = None, contract: str | None = None,
        parts: tuple[str, ...] = ('generator', 'reasoner'),
    ) -> 'Checkpoint':
        """Find ``source``, check that it is complete and read what it says about itself.

        :param source: A directory, ``cosmos3-tiny`` (carried by the package), or a Hub id such as
            ``nvidia/Cosmos3-Nano-Policy-DROID``.
        :param revision: Commit, tag or branch of a Hub id.
        :param contract: For a directory that does not say its contract.
        :param parts: What is going to be used: policies need ``generator``, perception ``reasoner``.
        :raises CheckpointError: Nothing there, files missing, or the contract is not known.
        """
        directory, known = _locate(str(source), revision)
        _require_files(directory, parts)
        says = {**known, **_metadata(directory)}
        if contract is not None and says.get('contract', contract) != contract:
            raise CheckpointError(
                f'checkpoint {source}: its contract is {says["contract"]}, {contract} was asked for')
        agreed = says.get('contract', contract)
        if agreed is None and 'generator' in parts:
            raise CheckpointError(
                f'checkpoint {directory}: no {METADATA_FILE} says its action contract; '
                'set the parameter contract to droid_joint or eef_delta')
        view = says.get('view', [540, 640])
        if not (isinstance(view, list) and len(view) == 2 and all(isinstance(n, int) for n in view)):
            raise CheckpointError(
                f'checkpoint {directory}: {METADATA_FILE} says view {view!r}, [height, width] in pixels '
                'is allowed')
        action = says.get('action', {})
        if not isinstance(action, dict):
            raise CheckpointError(
                f'checkpoint {directory}: {METADATA_FILE} says action {action!r}, an object is allowed')
        try:
            sampling = Sampling.read(says.get('sampling', {}))
        except ValueError as error:
            raise CheckpointError(
                f'checkpoint {directory}: {METADATA_FILE} says sampling: {error}') from error
        return cls(
            directory=directory, name=str(says.get('name') or _short(str(source))),
            contract=str(agreed or ''),
            trained=bool(says.get('trained', True)), content_hash=content_hash(directory),
            view=(view[0], view[1]), prompt_variant=str(says.get('prompt_variant', 'json')),
            action=action, sampling=sampling)


def missing_files(
    directory: Path, parts: tuple[str, ...] = ('generator', 'reasoner'),
) -> tuple[str, ...]:
    """Return the files that ``parts`` need and ``directory`` lacks, weights named by indexes too."""
    wanted: list[str] = []
    if 'generator' in parts:
        wanted += GENERATOR_FILES
        for folder in ('transformer', 'vae'):
            index = directory / folder / 'diffusion_pytorch_model.safetensors.index.json'
            wanted += (
                [f'{folder}/{name}' for name in _shards(index)] if index.is_file()
                else [f'{folder}/diffusion_pytorch_model.safetensors'])
    if 'reasoner' in parts:
        wanted += REASONER_FILES
        root_index = directory / 'model.safetensors.index.json'
        wanted += _shards(root_index) if root_index.is_file() else []
    return tuple(name for name in dict.fromkeys(wanted) if not (directory / name).is_file())


def content_hash(directory: Path) -> str:
    """Return 8 hexadecimal digits over the bytes of all safetensors files.

    Per file the digest is remembered beside the size and time of change for the life of the
    process: opening a checkpoint twice reads it once.
    """
    total = hashlib.sha256()
    for path in sorted(directory.rglob('*.safetensors')):
        total.update(path.relative_to(directory).as_posix().encode())
        total.update(_file_digest(path))
    return total.hexdigest()[:8]


_digests: dict[tuple[str, int, int], bytes] = {}


def _file_digest(path: Path) -> bytes:
    resolved = path.resolve()
    status = resolved.stat()
    key = (str(resolved), status.st_size, status.st_mtime_ns)
    if key not in _digests:
        with resolved.open('rb') as file:
            _digests[key] = hashlib.file_digest(file, 'sha256').digest()
    return _digests[key]


def _shards(index: Path) -> list[str]:
    try:
        weights = json.loads(index.read_text(encoding='utf-8'))['weight_map']
        return sorted({str(name) for name in weights.values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f'checkpoint: {index} is not an index of weights: {error!r}') from error


def _metadata(directory: Path) -> dict[str, Any]:
    path = directory / METADATA_FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise CheckpointError(f'checkpoint: {path} is not JSON: {error}') from error
    if not isinstance(content, dict):
        raise CheckpointError(f'checkpoint: {path} holds a {type(content).__name__}, an object is needed')
    return content


def _require_files(directory: Path, parts: tuple[str, ...]) -> None:
    lacking = missing_files(directory, parts)
    if lacking:
        raise CheckpointError(
            f'checkpoint {directory}: {len(lacking)} files are missing: {", ".join(lacking)}. '
            'Download it again, or point the parameter checkpoint elsewhere')


def _locate(source: str, revision: str | None) -> tuple[Path, dict[str, Any]]:
    if source in ('', '.'):
        raise CheckpointError(
            'checkpoint: none is named. Set the parameter checkpoint to a directory, a Hub id such as '
            f'nvidia/Cosmos3-Nano-Policy-DROID, or {RANDOM_TINY} to try things out without training')
    path = Path(source).expanduser()
    if source == RANDOM_TINY and not path.is_dir():
        return ensure_random_checkpoint(), {}
    if path.is_dir():
        return path, {}
    if source in PACKAGED:
        try:
            return shared_file(*PACKAGED[source]), {}
        except FileNotFoundError as error:
            preset = source.removeprefix('cosmos3-')
            raise CheckpointError(
                f'checkpoint {source}: its trained weights are not in this package yet. Write random ones '
                f'with "cosmos3 checkpoint init --preset {preset} DIRECTORY" and set checkpoint to DIRECTORY'
            ) from error
    if source.count('/') == 1 and not source.startswith(('.', '/', '~')):
        return _download(source, revision), PUBLISHED.get(source, {})
    raise CheckpointError(
        f'checkpoint: {source!r} is no directory; allowed are a directory, '
        f'{", ".join((*PACKAGED, RANDOM_TINY))}, or a Hub id such as nvidia/Cosmos3-Nano-Policy-DROID')


def _download(source: str, revision: str | None) -> Path:
    hub = require('huggingface_hub', 'model')
    try:
        # Sound is not for robots, and its tokenizer is 1.9 GB.
        return Path(hub.snapshot_download(source, revision=revision, ignore_patterns=['sound_tokenizer/*']))
    except Exception as error:  # the client raises many kinds: offline, gated, unknown, interrupted
        raise CheckpointError(
            f'checkpoint {source}: not in the local cache and the Hub cannot give it '
            f'({type(error).__name__}: {error}). Download it where there is a network '
            f'("hf download {source}") and set checkpoint to the directory') from error


def _short(source: str) -> str:
    return source.rstrip('/').rsplit('/', 1)[-1]
