"""The interface of every policy, and the one place that knows their names."""

from collections.abc import Callable
from importlib import import_module
from inspect import signature
from typing import Any, Protocol, cast, runtime_checkable

from cosmos3_ros.contracts import ActionChunk, ModelIdentity, Observation


class PolicyError(ValueError):
    """A policy cannot be built or cannot answer. The text says what arrived and what is allowed."""


@runtime_checkable
class Policy(Protocol):
    """Observation and instruction in, a chunk of absolute joint positions out.

    A policy is a plain object: no thread, no clock, no ROS. Calls come from one thread at a time.
    """

    @property
    def name(self) -> str:
        """Name in :data:`POLICIES`, e.g. ``cosmos3``."""

    @property
    def contract(self) -> str:
        """Action contract of the chunks, e.g. ``droid_joint``."""

    @property
    def identity(self) -> ModelIdentity:
        """Weights and engine behind the chunks."""

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Arm joints in the order of the chunk's columns."""

    @property
    def camera_slots(self) -> tuple[str, ...]:
        """Camera slots that an observation must carry; may be empty."""

    @property
    def step_ns(self) -> int:
        """Nanoseconds between the rows of a chunk."""

    @property
    def horizon(self) -> int:
        """Rows in a chunk."""

    def warm_up(self) -> None:
        """Do once whatever makes the first request slow. Called before the node reports active.

        :raises PolicyError: The policy does not work, and why.
        """

    def generate(self, observation: Observation, instruction: str, *, seed: int) -> ActionChunk:
        """Compute one chunk.

        Same observation, instruction and seed give a bit-identical chunk, ``latency_s`` and
        ``trace_id`` apart.

        :param seed: Seed of the explicit noise, 0..2**32-1.
        :raises PolicyError: The observation or the instruction does not fit.
        """

    def close(self) -> None:
        """Free what the policy holds. A second call does nothing."""


# Name -> module and factory. Each is imported only when asked for: the oracle needs MuJoCo,
# cosmos3 needs torch.
POLICIES: dict[str, tuple[str, str]] = {
    'oracle': ('cosmos3_ros.generator.oracle', 'create_oracle'),
    'replay': ('cosmos3_ros.generator.replay_policy', 'create_replay'),
    'openpi': ('cosmos3_ros.generator.openpi_policy', 'create_openpi'),
    'vllm_omni': ('cosmos3_ros.generator.vllm_omni_policy', 'create_vllm_omni'),
    'nim': ('cosmos3_ros.generator.nim_policy', 'create_nim'),
    'cosmos3': ('cosmos3_ros.generator.cosmos3_policy', 'create_cosmos3'),
}


def create_policy(name: str, **options: Any) -> Policy:
    """Build the policy called ``name``.

    :param name: One of :data:`POLICIES`.
    :param options: Keyword arguments of the policy's factory: see ``generator/oracle.py``,
        ``generator/cosmos3_policy.py`` and ``generator/openpi_policy.py``.
    :raises PolicyError: Unknown name, or options that the factory refuses.
    :raises resources.MissingDependencyError: An extra (``model``, ``sim``) is not installed.
    """
    build = _factory(name)
    try:
        signature(build).bind(**options)
    except TypeError as error:
        allowed = ', '.join(signature(build).parameters)
        raise PolicyError(f'policy {name}: {error}; options are {allowed}') from error
    return build(**options)


def option_names(name: str) -> tuple[str, ...]:
    """Return the options of the policy called ``name``, in the order of its factory.

    :raises PolicyError: Unknown name.
    """
    return tuple(signature(_factory(name)).parameters)


def _factory(name: str) -> Callable[..., Policy]:
    if name not in POLICIES:
        raise PolicyError(
            f'policy: {name!r} arrived, one of {", ".join(sorted(POLICIES))} is allowed')
    module, factory = POLICIES[name]
    return cast(Callable[..., Policy], getattr(import_module(module), factory))
