"""Load the parts of a checkpoint with the classes that NVIDIA published them for."""

from typing import Any

from cosmos3_ros.resources import require

from .checkpoint import Checkpoint, CheckpointError

DTYPES = ('float32', 'bfloat16', 'float16')


def load_transformer(checkpoint: Checkpoint, device: str, dtype: str) -> Any:
    """Return ``diffusers.Cosmos3OmniTransformer``, both towers, ready to run.

    :param device: ``cpu`` or ``cuda[:n]``.
    :param dtype: One of :data:`DTYPES`.
    :raises CheckpointError: Unknown dtype or device, or weights that do not fit their config.
    """
    precision = torch_dtype(dtype)
    check_device(device)
    require('accelerate', 'model')  # diffusers cannot keep the time embedder in float32 without it
    transformer = _load(
        require('diffusers', 'model').Cosmos3OmniTransformer, checkpoint, 'transformer', precision)
    if not transformer.config.action_gen:
        raise CheckpointError(f'checkpoint {checkpoint.name}: its transformer has no action heads')
    return transformer.to(device)


def load_vae(checkpoint: Checkpoint, device: str, dtype: str) -> Any:
    """Return ``diffusers.AutoencoderKLWan``, ready to encode.

    :raises CheckpointError: As :func:`load_transformer`.
    """
    precision = torch_dtype(dtype)
    check_device(device)
    vae = _load(require('diffusers', 'model').AutoencoderKLWan, checkpoint, 'vae', precision)
    return vae.to(device)


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """Return the text tokenizer with its chat template."""
    folder = checkpoint.directory / 'text_tokenizer'
    try:
        return require('transformers', 'model').AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f'checkpoint: {folder} cannot be read: {error}') from error


def check_device(device: str) -> None:
    """Refuse a device that this machine does not have.

    :raises CheckpointError: What was asked for and what there is.
    """
    torch = require('torch', 'model')
    count = torch.cuda.device_count()
    allowed = ['cpu', *(['cuda'] if count else []), *(f'cuda:{i}' for i in range(count))]
    if device not in allowed:
        raise CheckpointError(f'device: {device!r} arrived, one of {", ".join(allowed)} is here')


def torch_dtype(name: str) -> Any:
    """Return torch's type called ``name``.

    :raises CheckpointError: Not one of :data:`DTYPES`.
    """
    if name not in DTYPES:
        raise CheckpointError(f'dtype: {name!r} arrived, one of {", ".join(DTYPES)} is allowed')
    return getattr(require('torch', 'model'), name)


def _load(kind: Any, checkpoint: Checkpoint, folder: str, dtype: Any) -> Any:
    try:
        model = kind.from_pretrained(checkpoint.directory, subfolder=folder, dtype=dtype)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f'checkpoint {checkpoint.directory}: {folder}/ cannot be loaded: {error}') from error
    return model.eval().requires_grad_(False)
