"""What runs the reasoner: one interface, chosen by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
import inspect
from typing import Any, Protocol

from ..contracts import Clip, ModelIdentity
from .deadline import Deadline
from .questions import Question


class BackendError(RuntimeError):
    """A backend could not be made or could not answer. The text says why and what to change."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote.

    :param text: Verbatim, without control tokens.
    :param prompt_tokens: Tokens of the prompt as the language model saw it; 0 if unknown.
    :param generated_tokens: Tokens written.
    :param finish: ``stop`` (the model ended), ``json`` (its JSON was complete), ``length`` (cut off by the
        token budget) or ``late`` (cut off by the deadline).
    :param prepare_s: Seconds for resizing, tokenising and copying.
    :param first_token_s: Seconds from the request to the first token.
    :param total_s: Seconds from the request to the finished text.
    """

    text: str
    prompt_tokens: int
    generated_tokens: int
    finish: str
    prepare_s: float
    first_token_s: float
    total_s: float


class ReasonerBackend(Protocol):
    """Answers questions about clips, from any thread.

    A question that wants a scene report and one other question may be under way together: neither waits
    for the other's end.
    """

    @property
    def identity(self) -> ModelIdentity:
        """Which weights, run by what."""
        ...

    def warm_up(self) -> None:
        """Do whatever makes only the first answer slow.

        :raises BackendError: The backend cannot answer.
        """
        ...

    def prepare(self, clips: Sequence[Clip], question: Question) -> None:
        """Do whatever makes only the first answer about clips of these shapes slow.

        :param question: Without what a user fills in; some words more are prepared for as well.
        :raises BackendError: The backend cannot answer about such clips.
        """
        ...

    def answer(
        self, clips: Sequence[Clip], question: Question, deadline: Deadline | None = None,
    ) -> Answer:
        """Answer ``question`` about ``clips``, in order, greedily: the same input gives the same text.

        :param deadline: When it is over, what is written so far is the answer (``finish`` is ``late``).
        :raises BackendError: There is no answer.
        """
        ...

    def close(self) -> None:
        """Release memory and connections. Closing twice is fine."""
        ...


_BACKENDS = {
    'transformers': ('.transformers_backend', 'TransformersBackend'),
    'compiled': ('.compiled_backend', 'CompiledBackend'),
    'tensorrt': ('.tensorrt_backend', 'TensorRTBackend'),
    'openai': ('.openai_backend', 'OpenAIBackend'),
}


def backend_names() -> tuple[str, ...]:
    """Return the names that :func:`create_backend` can make."""
    return tuple(_BACKENDS)


def create_backend(name: str, **options: Any) -> ReasonerBackend:
    """Make a backend.

    :param name: One of :func:`backend_names`.
    :param options: The backend's own parameters, e.g. ``checkpoint`` and ``device``.
    :raises BackendError: Unknown name or option, or the backend cannot be made.
    """
    if name not in _BACKENDS:
        raise BackendError(f"backend: '{name}' arrived, one of {list(_BACKENDS)} is allowed")
    module, attribute = _BACKENDS[name]
    make = getattr(import_module(module, __package__), attribute)
    known = [parameter for parameter in inspect.signature(make).parameters if parameter != 'self']
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise BackendError(f"backend '{name}': {unknown} arrived, {known} is allowed")
    backend: ReasonerBackend = make(**options)
    return backend
