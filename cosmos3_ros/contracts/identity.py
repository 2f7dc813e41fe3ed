"""Which weights, run by what, produced a value."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Identity of the model behind a report or a chunk.

    :param checkpoint: Name and content hash of the weights, e.g. ``cosmos3-tiny@1f2e3d4c``.
    :param engine: Backend and precision, e.g. ``diffusers/float32/cpu``.
    :param trained: False for randomly initialised weights, whose content means nothing.
    """

    checkpoint: str
    engine: str
    trained: bool
