"""A tower whose plans were found, checked, loaded and held to the stored vectors: what a backend runs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .cache import check_manifest, find_engine
from .decoding import LanguageChain
from .dimensions import Dimensions
from .errors import EngineRefusedError
from .executors import Executor
from .fidelity import Fidelity, Runner, require_tokens
from .manifest import Manifest
from .precision import find_precision
from .prompts import NEW_TOKENS
from .runtime import manifest_segments, pass_gate
from .segments import Segment
from .sources import EngineSource


@dataclass(frozen=True, slots=True, eq=False)
class LoadedTower:
    """Plans that may be used.

    :param directory: Where they lie.
    :param runners: One per segment.
    :param compute: torch's name of the type of activations.
    :param fidelity: What the gate found; empty before it was passed.
    """

    directory: Path
    manifest: Manifest
    dimensions: Dimensions
    segments: tuple[Segment, ...]
    runners: tuple[Runner, ...]
    compute: str
    fidelity: tuple[Fidelity, ...] = ()


def open_tower(
    root: Path, tower: str, precision: str, source: EngineSource, executor: Executor,
) -> LoadedTower:
    """Find a tower's plans, load them and pass the gate: vectors, and for ``language`` stored prompts.

    A node goes active only after this returned.

    :param root: What ``cosmos3 engine build --out`` was.
    :param source: The checkpoint that the node uses.
    :raises EngineRefusedError: No plans, or not for these weights, this TensorRT or this GPU, or they
        were changed, or a stage drifted. The text says which and how to rebuild.
    """
    directory, manifest = find_engine(root, tower, precision, source.content_hash, executor.machine)
    loaded = load_tower(directory, manifest, source, executor)
    found = pass_gate(
        directory, manifest, loaded.segments, loaded.runners, executor.bounds(manifest.precision))
    check_answers(loaded, source, executor.device)
    return replace(loaded, fidelity=tuple(found))


def load_tower(
    directory: Path, manifest: Manifest, source: EngineSource, executor: Executor,
) -> LoadedTower:
    """Check a manifest and load its plans, without running them.

    :raises EngineRefusedError: As :func:`open_tower`, drift apart.
    """
    check_manifest(manifest, source.content_hash, executor.machine)
    segments = manifest_segments(manifest, source.dimensions)
    return LoadedTower(
        directory, manifest, source.dimensions, segments, executor.load(directory, manifest, segments),
        executor.compute(find_precision(manifest.key.precision)))


def check_answers(loaded: LoadedTower, source: EngineSource, device: str) -> bool | None:
    """Hold the greedy tokens on the stored prompts to torch's; None if none are stored.

    :raises EngineRefusedError: Another token.
    """
    manifest = loaded.manifest
    if not manifest.prompts:
        return None
    chain = language_chain(loaded, source, device)
    answers = [chain.greedy(prompt, NEW_TOKENS) for prompt in manifest.prompts]
    require_tokens([list(answer) for answer in manifest.answers], answers, manifest.rebuild_command)
    return True


def language_chain(
    loaded: LoadedTower, source: EngineSource, device: str, embedding: Any = None,
) -> LanguageChain:
    """Return the language model over loaded segments.

    :param embedding: The table, if it is at hand; otherwise it is read.
    :raises EngineRefusedError: The plans are of another tower.
    """
    if loaded.manifest.key.tower != 'language':
        raise EngineRefusedError(f'engine: plans of {loaded.manifest.key.tower} arrived, language is needed')
    d = loaded.dimensions
    if embedding is None:
        embedding = source.weights().tensor('embed_tokens.weight', (d.vocabulary, d.hidden))
    return LanguageChain(
        loaded.segments, loaded.runners, d, loaded.manifest.key.shapes, embedding, loaded.compute, device)
