"""Find a tower's plans and refuse those that are not for this machine or these weights.

A plan is code: whoever can write it can run what they like in the node that loads it. So nothing is
handed to TensorRT before the manifest fits, the file belongs to us, its size is what the manifest
says, and its hash agrees.
"""

from dataclasses import dataclass
import hashlib
import os
from pathlib import Path
import stat

from .errors import EngineRefusedError
from .manifest import MANIFEST, Manifest, PlanEntry

LARGEST_PLAN_BYTES = 32_000_000_000  # Nano's towers are below 17 GB in one piece


@dataclass(frozen=True, slots=True)
class Machine:
    """Where plans are going to run.

    :param target: Architecture of the GPU, e.g. ``sm89``; None if there is no GPU.
    :param interprets: The exported graphs run, not the plans: TensorRT and GPU do not matter.
    """

    flavour: str
    version: str
    target: str | None
    interprets: bool = False


def find_engine(
    root: Path, tower: str, precision: str, checkpoint_hash: str, machine: Machine,
) -> tuple[Path, Manifest]:
    """Return the directory and manifest of the plans that fit.

    :param root: What ``cosmos3 engine build --out`` was.
    :raises EngineRefusedError: None fits; the text says why the nearest one does not.
    """
    reasons = []
    for directory in sorted(root.glob(f'{tower}-{precision}-*')) if root.is_dir() else []:
        if not (directory / MANIFEST).is_file():
            reasons.append(f'{directory.name}: the build was not finished; run it again, it resumes')
            continue
        manifest = Manifest.read(directory)
        try:
            check_manifest(manifest, checkpoint_hash, machine)
        except EngineRefusedError as refusal:
            reasons.append(f'{directory.name}: {refusal}')
        else:
            return directory, manifest
    if not reasons:
        raise EngineRefusedError(
            f'engine: {root} holds no plans of the tower {tower} in {precision}; '
            f'build them with "cosmos3 engine build --out {root}"')
    raise EngineRefusedError('; '.join(reasons))


def check_manifest(manifest: Manifest, checkpoint_hash: str, machine: Machine) -> None:
    """Refuse plans of other weights, another TensorRT or another GPU.

    :raises EngineRefusedError: The first reason, and the command to rebuild.
    """
    key, again = manifest.key, manifest.rebuild_command
    if key.checkpoint != checkpoint_hash:
        raise EngineRefusedError(
            f'engine: built from the checkpoint {manifest.checkpoint_label}, but the weights here are '
            f'{checkpoint_hash}; build again: {again}')
    if machine.interprets:
        return
    if key.flavour != machine.flavour:
        raise EngineRefusedError(
            f'engine: built by TensorRT flavour {key.flavour}, {machine.flavour} is in use here; '
            f'build again with --flavour {machine.flavour}: {again}')
    if key.version != machine.version:
        raise EngineRefusedError(
            f'engine: built by TensorRT {key.version}, version {machine.version} is installed here; '
            f'install {key.version} or build again: {again}')
    if machine.target is None:
        raise EngineRefusedError(
            f'engine: built for {", ".join(key.targets)}, but this machine has no GPU; plans run only on one')
    if machine.target not in key.targets:
        raise EngineRefusedError(
            f'engine: built for {", ".join(key.targets)}, this GPU is {machine.target}; build again with '
            f'--target {"current" if key.flavour == "classic" else machine.target}: {again}')


def read_plan(directory: Path, entry: PlanEntry, manifest: Manifest) -> bytes:
    """Return a plan's bytes once owner, size and hash are as they must be.

    :raises EngineRefusedError: Missing, others may write it, of another size, or changed.
    """
    path, again = directory / entry.file, manifest.rebuild_command
    try:
        with path.open('rb') as file:
            status = os.fstat(file.fileno())
            if status.st_uid not in (os.getuid(), 0) or status.st_mode & stat.S_IWOTH:
                raise EngineRefusedError(
                    f'engine: {path} belongs to another user or everybody may write it, and a plan is code; '
                    f'take it over ("chown", "chmod o-w") if you built it, or build again: {again}')
            if status.st_size != entry.size_bytes or status.st_size > LARGEST_PLAN_BYTES:
                raise EngineRefusedError(
                    f'engine: {path} has {status.st_size} bytes, {entry.size_bytes} were built (at most '
                    f'{LARGEST_PLAN_BYTES}); it is damaged; build again: {again}')
            content = file.read(entry.size_bytes + 1)
    except OSError as error:
        raise EngineRefusedError(f'engine: {path} cannot be read: {error}; build again: {again}') from error
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise EngineRefusedError(
            f'engine: {path} is not the plan that was built (its SHA-256 differs): it is damaged or was '
            f'exchanged; build again: {again}')
    return content
