"""Questions to the reasoner: prompts live in a YAML that a user can edit."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import Any

import yaml

from ..resources import shared_file

ANSWER_KINDS = ('scene', 'boxes', 'points', 'plausibility', 'yes_no', 'steps', 'text')
PLACEHOLDERS = ('instruction', 'object', 'question', 'cameras')
MOST_NEW_TOKENS = 8192
"""Source: max_tokens of NVIDIA's own evaluation configuration for Cosmos 3."""

_FIELDS = ('text', 'answer', 'max_new_tokens', 'think')


class PromptError(ValueError):
    """A prompt that does not exist or cannot be used. The text says what is allowed."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question, ready to be asked.

    :param prompt: Name in the YAML that it came from.
    :param system: The system message.
    :param text: The user's text; it follows the clips.
    :param answer: How the answer is read, one of :data:`ANSWER_KINDS`.
    :param max_new_tokens: The answer is cut off there.
    """

    prompt: str
    system: str
    text: str
    answer: str
    max_new_tokens: int

    @property
    def wants_json(self) -> bool:
        """True if the answer ends with the closing bracket of a JSON value."""
        return self.answer in ('scene', 'boxes', 'points')


@dataclass(frozen=True, slots=True)
class Prompt:
    """One entry of the YAML."""

    name: str
    text: str
    answer: str
    max_new_tokens: int
    think: bool = False

    @property
    def placeholders(self) -> tuple[str, ...]:
        """Words that must be filled in."""
        return tuple(Template(self.text).get_identifiers())


@dataclass(frozen=True, slots=True)
class PromptBook:
    """The prompts of one YAML file.

    :param source: Where they came from; errors name it.
    """

    system: str
    think_suffix: str
    prompts: Mapping[str, Prompt]
    source: str

    def __post_init__(self) -> None:
        """Make the prompts read-only."""
        object.__setattr__(self, 'prompts', MappingProxyType(dict(self.prompts)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what makes it anew in another process: what is read-only does not travel."""
        return PromptBook, (self.system, self.think_suffix, dict(self.prompts), self.source)

    @classmethod
    def load(cls, path: str | Path | None = None) -> 'PromptBook':
        """Read a YAML file, or the one that the package ships.

        :raises PromptError: The file is missing, or not as ``config/prompts.yaml`` explains.
        """
        file = Path(path) if path else shared_file('config', 'prompts.yaml')
        try:
            document = yaml.safe_load(file.read_text(encoding='utf-8'))
        except (OSError, UnicodeDecodeError) as error:
            raise PromptError(
                f'prompts: {file} cannot be read ({error}); change the parameter prompts') from error
        except yaml.YAMLError as error:
            raise PromptError(f'prompts: {file} is not YAML ({error})') from error
        return cls.from_document(document, source=str(file))

    @classmethod
    def from_document(cls, document: Any, source: str = 'prompts') -> 'PromptBook':
        """Build from what a YAML file holds.

        :raises PromptError: Something in it is not as ``config/prompts.yaml`` explains.
        """
        document = _mapping(source, document, ('system', 'think_suffix', 'prompts'))
        entries = document.get('prompts')
        if not isinstance(entries, dict) or not entries:
            raise PromptError(f'{source}: prompts: {entries!r} arrived, at least one named prompt is needed')
        prompts = {
            str(name): _read_prompt(f'{source}: {name}', str(name), entry) for name, entry in entries.items()}
        return cls(
            _string(source, document, 'system', ''), _string(source, document, 'think_suffix', ''),
            prompts, source)

    def ask(self, name: str, /, max_new_tokens: int | None = None, **values: str) -> Question:
        """Fill in a prompt.

        :param name: Name of the prompt.
        :param max_new_tokens: Instead of the YAML's number.
        :param values: Words to fill in; those that the prompt does not use are ignored.
        :raises PromptError: Unknown name, or a word missing that the prompt uses.
        """
        prompt = self.prompts.get(name)
        if prompt is None:
            raise PromptError(
                f"prompt: '{name}' arrived, one of {sorted(self.prompts)} is allowed ({self.source})")
        missing = [word for word in prompt.placeholders if word not in values]
        if missing:
            raise PromptError(
                f"prompt '{name}': {missing} missing, it needs {list(prompt.placeholders)} ({self.source})")
        words = {word: neutral(value) for word, value in values.items()}
        text = Template(prompt.text).substitute(words).strip()
        if prompt.think and self.think_suffix:
            text = f'{text}\n{self.think_suffix}'
        question = Question(prompt.name, self.system, text, prompt.answer, prompt.max_new_tokens)
        if max_new_tokens is not None:
            check_token_budget(f"prompt '{name}'", max_new_tokens)
            question = replace(question, max_new_tokens=max_new_tokens)
        return question


def neutral(text: str) -> str:
    """Return ``text`` unable to write the model's control tokens, e.g. ``<|im_end|>``."""
    return text.replace('<|', '< |').replace('\x00', ' ')


def check_token_budget(where: str, value: Any) -> int:
    """Return ``value`` if it is a usable number of tokens.

    :raises PromptError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_NEW_TOKENS:
        raise PromptError(f'{where}: max_new_tokens: {value!r} arrived, 1 to {MOST_NEW_TOKENS} is allowed')
    return value


def _read_prompt(where: str, name: str, entry: Any) -> Prompt:
    entry = _mapping(where, entry, _FIELDS)
    text = _string(where, entry, 'text', None)
    template = Template(text)
    if not template.is_valid():
        raise PromptError(f'{where}: text: a $ stands alone; write $$ for a dollar sign')
    unknown = [word for word in template.get_identifiers() if word not in PLACEHOLDERS]
    if unknown:
        raise PromptError(f'{where}: text: {unknown} arrived, {list(PLACEHOLDERS)} can be filled in')
    kind = entry.get('answer', 'text')
    if kind not in ANSWER_KINDS:
        raise PromptError(f'{where}: answer: {kind!r} arrived, one of {list(ANSWER_KINDS)} is allowed')
    think = entry.get('think', False)
    if not isinstance(think, bool):
        raise PromptError(f'{where}: think: {think!r} arrived, true or false is allowed')
    return Prompt(name, text, kind, check_token_budget(where, entry.get('max_new_tokens', 128)), think)


def _mapping(where: str, value: Any, allowed: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PromptError(
            f'{where}: {type(value).__name__} arrived, a mapping with {list(allowed)} is needed')
    unknown = sorted(str(key) for key in value if key not in allowed)
    if unknown:
        raise PromptError(f'{where}: {unknown} arrived, {list(allowed)} is allowed')
    return value


def _string(where: str, entry: Mapping[str, Any], name: str, default: str | None) -> str:
    value = entry.get(name, default)
    if not isinstance(value, str) or (default is None and not value.strip()):
        raise PromptError(f'{where}: {name}: {value!r} arrived, text is needed')
    return value
